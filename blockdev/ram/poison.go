package ram

import (
	"math/bits"

	"blockd.dev/blockdev"
)

const (
	sectorBytes  = 512
	chunkSectors = chunkBytes / sectorBytes // 128: the bits of sectors
)

// sectors says which sectors of a chunk are poisoned, a bit each. A poisoned
// sector takes no memory, and what it held before is kept but not served. A
// chunk that never had one has a nil pointer.
type sectors [chunkSectors / 64]uint64

// each calls fn with every word that [off, off+n), within one chunk, touches,
// and the bits of it.
func (s *sectors) each(off, n int64, fn func(i int, mask uint64)) {
	first := off % chunkBytes / sectorBytes
	last := first + n/sectorBytes
	for first < last {
		i, bit := first/64, first%64
		k := min(last-first, 64-bit)
		fn(int(i), ^uint64(0)>>(64-k)<<bit)
		first += k
	}
}

func (s *sectors) set(off, n int64) { s.each(off, n, func(i int, m uint64) { s[i] |= m }) }

func (s *sectors) clear(off, n int64) {
	if s != nil {
		s.each(off, n, func(i int, m uint64) { s[i] &^= m })
	}
}

// first is the offset in the device of the first poisoned byte in [off,
// off+n), or -1.
func (s *sectors) first(off, n int64) int64 {
	at := int64(-1)
	if s == nil {
		return at
	}
	s.each(off, n, func(i int, m uint64) {
		if m &= s[i]; m != 0 && at < 0 {
			at = off/chunkBytes*chunkBytes + int64(64*i+bits.TrailingZeros64(m))*sectorBytes
		}
	})
	return at
}

// pages are the bits of the pages with a poisoned sector.
func (s *sectors) pages() (mask uint16) {
	if s == nil {
		return 0
	}
	for page := range chunkPages {
		if s[page/8]>>(page%8*8)&0xff != 0 {
			mask |= 1 << page
		}
	}
	return mask
}

func poisoned(r *blockdev.Request, at int64) error {
	return blockdev.NewError(blockdev.ErrMedium, r, at, blockdev.ErrPoisoned)
}

func (d *Device) setPoison(r *blockdev.Request) error {
	for off, end := r.Offset, r.Offset+r.Length; off < end; {
		n := min(chunkBytes-off%chunkBytes, end-off)
		_, c, err := d.make(r, off)
		if err != nil {
			return err
		}
		c.Lock()
		if err := d.check(r); err != nil {
			c.Unlock()
			return err
		}
		if c.poison == nil {
			c.poison = &sectors{}
		}
		c.poison.set(off, n)
		c.Unlock()
		off += n
	}
	return nil
}

package ram

import (
	"bytes"
	"math/bits"

	"blockd.dev/blockdev/arena"
)

// zeros is what pages without data are read from.
var zeros [chunkBytes]byte

// spare is 4 KiB that a page is in while it can't be at home. The lock of the
// chunk guards it.
type spare struct {
	mem  *[pageBytes]byte
	page int    // of the chunk
	lent int    // loans
	next *spare // in chunk.moved
}

// home is the memory of the chunk that has the byte at off.
func (g *region) home(off int64) []byte {
	return g.mem[off%regionBytes/chunkBytes*chunkBytes:][:chunkBytes]
}

// spareOf is the spare that a page is in, or nil.
func (c *chunk) spareOf(page int) *spare {
	s := c.moved
	for s != nil && s.page != page {
		s = s.next
	}
	return s
}

// homely reports whether all those pages hold data and are at home.
func (c *chunk) homely(pages uint16) bool { return pages&^c.mapped == 0 && c.moved == nil }

// runLocked is the memory of [off, off+n), within one chunk, as far as it lies
// together, or zeros as far as there is no data.
func (g *region) runLocked(c *chunk, off, n int64) []byte {
	touched, _ := pagesOf(off, n)
	if c.homely(touched) {
		return g.mem[off%regionBytes:][:n]
	}
	page := int(off % chunkBytes / pageBytes)
	length := min(n, pageBytes-off%pageBytes)
	if s := c.spareOf(page); s != nil {
		return s.mem[off%pageBytes:][:length]
	}
	has := c.mapped >> page & 1
	for length < n {
		page++
		if c.mapped>>page&1 != has || c.spareOf(page) != nil {
			break
		}
		length = min(n, length+pageBytes)
	}
	if has == 0 {
		return zeros[:length]
	}
	return g.mem[off%regionBytes:][:length]
}

// ownLocked makes the pages of [off, off+n), within one chunk, mapped and free
// to be written, heals them, and returns how many bytes of them were not mapped.
// What is not in the range keeps its content.
func (d *Device) ownLocked(g *region, c *chunk, off, n int64) (fresh int64) {
	c.poison.clear(off, n)
	touched, covered := pagesOf(off, n)
	unmapped := touched &^ c.mapped
	if c.moved != nil || touched&c.lent != 0 || unmapped&^covered != 0 {
		for m := touched; m != 0; m &= m - 1 {
			page := bits.TrailingZeros16(m)
			d.ownPageLocked(g, c, off, page, covered>>page&1 != 0)
		}
	}
	c.mapped |= touched
	return int64(bits.OnesCount16(unmapped)) * pageBytes
}

// ownPageLocked finds a place for a page where it can be written. Unless it is
// about to be written whole, its content goes there.
func (d *Device) ownPageLocked(g *region, c *chunk, off int64, page int, whole bool) {
	home := g.home(off)[page*pageBytes:][:pageBytes]
	was := c.spareOf(page)
	from, to := home, home
	if was != nil {
		from = was.mem[:]
	}
	var s *spare
	switch {
	case c.lent>>page&1 == 0:
	case was != nil && was.lent == 0:
		s, to = was, was.mem[:]
	default:
		s = d.newSpare(page)
		to = s.mem[:]
	}
	switch {
	case whole:
	case c.mapped>>page&1 == 0:
		clear(to)
	case s != was:
		copy(to, from)
	}
	if s != was {
		d.dropSpareLocked(c, page)
		if s != nil {
			s.next, c.moved = c.moved, s
		}
	}
}

func (d *Device) newSpare(page int) *spare {
	s := d.spares.Get().(*spare)
	s.page = page
	return s
}

// dropSpareLocked takes a page out of its spare, if it is in one.
func (d *Device) dropSpareLocked(c *chunk, page int) {
	for p := &c.moved; *p != nil; p = &(*p).next {
		if s := *p; s.page == page {
			*p, s.next = s.next, nil
			if s.lent == 0 {
				d.freeSpare(s)
			}
			return
		}
	}
}

// freeSpare takes back a spare that no page is in and that is not lent.
func (d *Device) freeSpare(s *spare) {
	if arena.Debug {
		copy(s.mem[:], poison)
	}
	d.spares.Put(s)
}

// poison is what debug builds leave in spares, for those who look at what they
// have returned.
var poison = bytes.Repeat([]byte{0xDB}, pageBytes)

// goHomeLocked ends a page's time in a spare as soon as nothing of it is lent.
func (d *Device) goHomeLocked(g *region, c *chunk, off int64, page int) {
	if s := c.spareOf(page); s != nil && s.lent == 0 && c.lent>>page&1 == 0 {
		copy(g.home(off)[page*pageBytes:], s.mem[:])
		d.dropSpareLocked(c, page)
	}
}

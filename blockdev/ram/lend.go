package ram

import (
	"math"
	"math/bits"

	"blockd.dev/blockdev"
)

// loan is what a request has borrowed; it stays in Request.Internal.
type loan struct {
	segs   [][]byte
	pieces []piece
}

// piece is what one chunk has lent to a request: pages at home, or a spare.
type piece struct {
	g     *region
	c     *chunk
	off   int64 // of the device, somewhere in the chunk
	pages uint16
	spare *spare
}

// prefetchMax is how much of a loan is fetched into the cache. Whoever borrowed it
// looks at it a while later, a frontend behind the other commands of its batch, and
// the memory's latency passes until then. Of reads of 16 KiB at depth 8 each took
// 2.3 us of CPU time so, and 2.5 us with 4 KiB here; 128 KiB showed no difference.
const prefetchMax = 64 << 10

// lend serves a read that borrows.
func (d *Device) lend(r *blockdev.Request) error {
	if r.Lender != nil {
		panic("ram: a request borrows while it has a loan: Return it first")
	}
	l, ok := r.Internal.(*loan)
	if !ok {
		l = &loan{}
		r.Internal = l
	}
	for off, end := r.Offset, r.Offset+r.Length; off < end; {
		n := min(chunkBytes-off%chunkBytes, end-off)
		g, c := d.find(off)
		if g == nil {
			l.segs = append(l.segs, zeros[:n])
			off += n
			continue
		}
		c.Lock()
		err := d.readableLocked(r, c, off, n)
		if err == nil {
			d.lendLocked(l, g, c, off, n)
		}
		c.Unlock()
		if err != nil {
			d.takeBack(l)
			return err
		}
		off += n
	}
	r.Data, r.Lender = l.segs, d
	prefetch(&l.segs[0][0], min(len(l.segs[0]), prefetchMax))
	return nil
}

// lendLocked lends [off, off+n), within one chunk.
func (d *Device) lendLocked(l *loan, g *region, c *chunk, off, n int64) {
	touched, _ := pagesOf(off, n)
	if c.homely(touched) && c.lendHome(touched) {
		l.pieces = append(l.pieces, piece{g: g, c: c, off: off, pages: touched})
		l.add(g.mem[off%regionBytes:][: n : regionBytes-off%regionBytes])
		return
	}
	for end := off + n; off < end; {
		k := min(pageBytes-off%pageBytes, end-off)
		page := int(off % chunkBytes / pageBytes)
		p := piece{g: g, c: c, off: off, spare: c.spareOf(page)}
		switch {
		case c.mapped>>page&1 == 0:
			l.segs = append(l.segs, zeros[:k])
			off += k
			continue
		case p.spare != nil:
			p.spare.lent++
		case c.lendHome(1 << page):
			p.pages = 1 << page
		default:
			// More loans than can be counted: lend a copy, which no page is in.
			p.spare = d.newSpare(page)
			p.spare.lent++
			copy(p.spare.mem[:], g.home(off)[page*pageBytes:])
		}
		if p.spare != nil {
			l.segs = append(l.segs, p.spare.mem[off%pageBytes:][:k])
		} else {
			l.add(g.mem[off%regionBytes:][: k : regionBytes-off%regionBytes])
		}
		l.pieces = append(l.pieces, p)
		off += k
	}
}

// lendHome counts a loan of each of the pages, of none if one has as many as
// can be counted.
func (c *chunk) lendHome(pages uint16) bool {
	for m := pages & c.lent; m != 0; m &= m - 1 {
		if c.loans[bits.TrailingZeros16(m)] == math.MaxUint16 {
			return false
		}
	}
	for m := pages; m != 0; m &= m - 1 {
		c.loans[bits.TrailingZeros16(m)]++
	}
	c.lent |= pages
	return true
}

// add appends a part of a region, joined with the one before it where they
// touch.
func (l *loan) add(mem []byte) {
	if i := len(l.segs) - 1; i >= 0 {
		if s := l.segs[i]; cap(s) > len(s) && &s[:len(s)+1][len(s)] == &mem[0] {
			l.segs[i] = s[:len(s)+len(mem)]
			return
		}
	}
	l.segs = append(l.segs, mem)
}

// TakeBack implements blockdev.Lender.
func (d *Device) TakeBack(r *blockdev.Request) { d.takeBack(r.Internal.(*loan)) }

func (d *Device) takeBack(l *loan) {
	for i := range l.pieces {
		p := &l.pieces[i]
		p.c.Lock()
		d.takeBackLocked(p)
		p.c.Unlock()
		if d.state.Load().gone {
			_ = p.g.free() // Close would report it; there is nobody to tell now
		}
	}
	clear(l.pieces)
	clear(l.segs)
	l.pieces, l.segs = l.pieces[:0], l.segs[:0]
}

func (d *Device) takeBackLocked(p *piece) {
	c := p.c
	if s := p.spare; s != nil {
		if s.lent--; s.lent > 0 {
			return
		}
		if c.spareOf(s.page) == s {
			d.goHomeLocked(p.g, c, p.off, s.page)
		} else {
			d.freeSpare(s)
		}
		return
	}
	for m := p.pages; m != 0; m &= m - 1 {
		page := bits.TrailingZeros16(m)
		if c.loans[page]--; c.loans[page] > 0 {
			continue
		}
		c.lent &^= 1 << page
		if c.moved != nil {
			d.goHomeLocked(p.g, c, p.off, page)
		}
	}
	if c.mapped == 0 {
		c.discardLocked(p.g, p.off) // unmapped while it was lent
	}
}

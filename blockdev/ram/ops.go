package ram

import (
	"bytes"
	"math/bits"

	"blockd.dev/blockdev"
)

// cursor walks along a scatter-gather list.
type cursor struct {
	segs [][]byte
	off  int // in segs[0]
}

// next gives at most n bytes of the current segment and moves past them; the
// list must not be at its end.
func (c *cursor) next(n int64) []byte {
	for c.off == len(c.segs[0]) {
		c.segs, c.off = c.segs[1:], 0
	}
	p := c.segs[0][c.off:]
	if int64(len(p)) > n {
		p = p[:n]
	}
	c.off += len(p)
	return p
}

// fill copies mem into the list.
func (c *cursor) fill(mem []byte) {
	for len(mem) > 0 {
		mem = mem[copy(c.next(int64(len(mem))), mem):]
	}
}

// drain copies the list into mem.
func (c *cursor) drain(mem []byte) {
	for len(mem) > 0 {
		mem = mem[copy(mem, c.next(int64(len(mem)))):]
	}
}

// put stores in mem what the operation writes: the list, or zeroes.
func (c *cursor) put(op blockdev.Op, mem []byte) {
	if op == blockdev.OpWriteZeroes {
		clear(mem)
		return
	}
	c.drain(mem)
}

// zero clears n bytes of the list.
func (c *cursor) zero(n int64) {
	for n > 0 {
		p := c.next(n)
		clear(p)
		n -= int64(len(p))
	}
}

// differs compares the list with mem and returns the index of the first byte
// that differs, or -1.
func (c *cursor) differs(mem []byte) int {
	at := 0
	for len(mem) > 0 {
		p := c.next(int64(len(mem)))
		if !bytes.Equal(p, mem[:len(p)]) {
			for i := range p {
				if p[i] != mem[i] {
					return at + i
				}
			}
		}
		mem = mem[len(p):]
		at += len(p)
	}
	return -1
}

func (d *Device) read(r *blockdev.Request) error {
	data := cursor{segs: r.Data}
	for off, end := r.Offset, r.Offset+r.Length; off < end; {
		n := min(chunkBytes-off%chunkBytes, end-off)
		g, c := d.find(off)
		if g == nil {
			data.zero(n)
			off += n
			continue
		}
		c.Lock()
		if err := d.readableLocked(r, c, off, n); err != nil {
			c.Unlock()
			return err
		}
		for to := off + n; off < to; {
			run := g.runLocked(c, off, to-off)
			data.fill(run)
			off += int64(len(run))
		}
		c.Unlock()
	}
	return nil
}

// readableLocked is invariant 2 for a request that looks at data.
func (d *Device) readableLocked(r *blockdev.Request, c *chunk, off, n int64) error {
	if err := d.check(r); err != nil {
		return err
	}
	if at := c.poison.first(off, n); at >= 0 {
		return poisoned(r, at)
	}
	return nil
}

// write stores data, or zeroes that keep their space.
func (d *Device) write(r *blockdev.Request) error {
	data := cursor{segs: r.Data}
	for off, end := r.Offset, r.Offset+r.Length; off < end; {
		n := min(chunkBytes-off%chunkBytes, end-off)
		g, c, err := d.make(r, off)
		if err != nil {
			return err
		}
		c.Lock()
		if err := d.check(r); err != nil {
			c.Unlock()
			return err
		}
		if fresh := d.ownLocked(g, c, off, n); fresh > 0 {
			d.used.Add(fresh)
		}
		d.putLocked(g, c, off, n, &data, r.Op)
		c.Unlock()
		off += n
	}
	return nil
}

// putLocked stores what the operation writes to a range within one chunk, whose
// pages ownLocked was asked for.
func (d *Device) putLocked(g *region, c *chunk, off, n int64, data *cursor, op blockdev.Op) {
	for end := off + n; off < end; {
		run := g.runLocked(c, off, end-off)
		data.put(op, run)
		off += int64(len(run))
	}
}

func (d *Device) zero(r *blockdev.Request) error {
	for off, end := r.Offset, r.Offset+r.Length; off < end; {
		n := min(chunkBytes-off%chunkBytes, end-off)
		if g, c := d.find(off); g != nil {
			c.Lock()
			if err := d.check(r); err != nil {
				c.Unlock()
				return err
			}
			d.zeroLocked(g, c, off, n)
			c.Unlock()
		} else {
			n = min(regionBytes-off%regionBytes, end-off)
		}
		off += n
	}
	return nil
}

// writeLimited writes data, or zeroes that keep their space, with all chunks
// held, so that it either fits as a whole or changes nothing.
func (d *Device) writeLimited(r *blockdev.Request) error {
	if err := d.lockAll(r); err != nil {
		return err
	}
	defer d.unlockAll(r)
	if !d.reserveLocked(r) {
		return blockdev.NewError(blockdev.ErrNoSpace, r, -1, nil)
	}
	data := cursor{segs: r.Data}
	d.putAllLocked(r, &data)
	return nil
}

// putAllLocked stores what the request writes, with all its chunks locked and
// its pages reserved.
func (d *Device) putAllLocked(r *blockdev.Request, data *cursor) {
	for off, end := r.Offset, r.Offset+r.Length; off < end; {
		n := min(chunkBytes-off%chunkBytes, end-off)
		g, c := d.find(off)
		d.ownLocked(g, c, off, n)
		d.putLocked(g, c, off, n, data, r.Op)
		off += n
	}
}

func (d *Device) compareAndWrite(r *blockdev.Request) error {
	if err := d.lockAll(r); err != nil {
		return err
	}
	defer d.unlockAll(r)
	data := cursor{segs: r.Data}
	for off, end := r.Offset, r.Offset+r.Length; off < end; {
		n := min(chunkBytes-off%chunkBytes, end-off)
		g, c := d.find(off)
		if at := c.poison.first(off, n); at >= 0 {
			return poisoned(r, at)
		}
		for to := off + n; off < to; {
			run := g.runLocked(c, off, to-off)
			if at := data.differs(run); at >= 0 {
				return blockdev.NewError(blockdev.ErrMiscompare, r, off+int64(at), nil)
			}
			off += int64(len(run))
		}
	}
	if !d.reserveLocked(r) {
		return blockdev.NewError(blockdev.ErrNoSpace, r, -1, nil)
	}
	d.putAllLocked(r, &data) // it stands at the second half now
	return nil
}

// lockAll locks every chunk of the request, in ascending order, making the
// regions that are missing.
func (d *Device) lockAll(r *blockdev.Request) error {
	for off, end := r.Offset, r.Offset+r.Length; off < end; off += chunkBytes - off%chunkBytes {
		if _, _, err := d.make(r, off); err != nil {
			return err
		}
	}
	for off, end := r.Offset, r.Offset+r.Length; off < end; off += chunkBytes - off%chunkBytes {
		_, c := d.find(off)
		c.Lock()
	}
	if err := d.check(r); err != nil {
		d.unlockAll(r)
		return err
	}
	return nil
}

func (d *Device) unlockAll(r *blockdev.Request) {
	for off, end := r.Offset, r.Offset+r.Length; off < end; off += chunkBytes - off%chunkBytes {
		_, c := d.find(off)
		c.Unlock()
	}
}

// reserveLocked counts the pages of the request, whose chunks are locked, as
// used, or none of them and returns false when the capacity does not suffice.
func (d *Device) reserveLocked(r *blockdev.Request) bool {
	var need int64
	for off, end := r.Offset, r.Offset+r.Length; off < end; {
		n := min(chunkBytes-off%chunkBytes, end-off)
		_, c := d.find(off)
		touched, _ := pagesOf(off, n)
		need += int64(bits.OnesCount16(touched&^c.mapped)) * pageBytes
		off += n
	}
	if used := d.used.Add(need); need > 0 && d.capacity != 0 && used > d.capacity {
		d.used.Add(-need)
		return false
	}
	return true
}

// NextMapped says in pages of 4 KiB which part of the device holds data.
func (d *Device) NextMapped(offset, limit int64) (mapped bool, runBytes int64, err error) {
	st := d.state.Load()
	size := st.geometry.SizeBytes
	probe := &blockdev.Request{Op: blockdev.OpRead, Offset: offset, Length: limit}
	switch {
	case st.gone:
		return false, 0, blockdev.NewError(blockdev.ErrGone, probe, -1, nil)
	case offset < 0 || offset >= size || limit <= 0:
		return false, 0, blockdev.NewError(blockdev.ErrOutOfRange, probe, -1, nil)
	}
	end := offset + min(limit, size-offset)
	for off := offset; off < end; {
		is, n := d.run(off)
		if off == offset {
			mapped = is
		} else if is != mapped {
			return mapped, off - offset, nil
		}
		off += n
	}
	return mapped, end - offset, nil
}

// run is the state of the page at off and how far it reaches, at most to the
// end of the chunk, or of the region where that does not exist.
func (d *Device) run(off int64) (mapped bool, n int64) {
	g, c := d.find(off)
	if g == nil {
		return false, regionBytes - off%regionBytes
	}
	c.Lock()
	m := c.mapped | c.poison.pages()
	c.Unlock()
	page := off % chunkBytes / pageBytes
	m >>= page
	mapped = m&1 != 0
	if mapped {
		m = ^m
	}
	pages := min(int64(bits.TrailingZeros16(m)), chunkPages-page)
	return mapped, pages*pageBytes - off%pageBytes
}

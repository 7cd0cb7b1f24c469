package store

import (
	"errors"
	"fmt"
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
)

// page is a metadata page in memory: the image, and what is known about its
// blocks beyond the image.
type page struct {
	ext  *extent
	no   int
	slot uint32

	img  metaBlock
	snap metaBlock // what the running checkpoint writes: img itself until that changes, nil outside

	dirty    bool // img differs from what the last checkpoint began with
	inDir    bool // the directory refers to it
	dead     bool // its extent is gone
	loading  bool
	hot      bool // used since the cache last looked
	resident bool // of notes: always in memory, never in the cache
	pins     atomic.Int32
	clears   int                    // OpClears that are logged but not applied
	held     [regionsPerPage]uint16 // ops that need the region to keep its chunk
	waiters  opList

	// ver counts, per region, the events that make a disk read that began
	// earlier see something else: a home write, a new chunk, a freed one.
	ver [regionsPerPage]uint32
	// home says per block which dirty buffer (index+1) holds it; nil when none.
	home   *[blocksPerPage]int32
	nDirty int

	prev, lnext *page // cache list; only pages that are clean
	listed      bool
	io          disk.IO
	iobuf       [1][]byte
	crc         uint32 // expected of the image being loaded
	snapCRC     uint32 // of the image that the checkpoint writes
}

// pageCache keeps the clean pages in a ring that a clock hand goes around.
type pageCache struct {
	count, max int
	head       page // sentinel
	dirty      []*page
	homeSpare  []*[blocksPerPage]int32
}

func (c *pageCache) init(limit int) {
	c.max = limit
	c.head.prev, c.head.lnext = &c.head, &c.head
}

func (c *pageCache) list(p *page) {
	if p.listed || p.resident {
		return
	}
	p.listed = true
	p.lnext, p.prev = c.head.lnext, &c.head
	p.lnext.prev, c.head.lnext = p, p
}

func (c *pageCache) unlist(p *page) {
	if !p.listed {
		return
	}
	p.listed = false
	p.prev.lnext, p.lnext.prev = p.lnext, p.prev
	p.prev, p.lnext = nil, nil
}

func (s *Store) image() []byte {
	im := s.mu.images
	if n := len(im); n > 0 {
		p := im[n-1]
		s.mu.images = im[:n-1]
		return p
	}
	return disk.NewAligned(BlockBytes)
}

func (s *Store) putImage(p []byte) {
	if p != nil {
		s.mu.images = append(s.mu.images, p)
	}
}

// room makes sure that one more page may be kept in memory. A store that has
// failed can't make dirty pages clean any more, and must still serve reads.
func (s *Store) room() bool {
	c := &s.mu.pages
	if s.mu.replaying || s.mu.state != StateOnline {
		return true
	}
	for range 2 * c.count { // more than one to evict after an op that had to have its pages, see prepareNote
		if c.count < c.max {
			return true
		}
		p := c.head.prev
		if p == &c.head {
			return false
		}
		if p.pins.Load() != 0 || p.hot || p.loading {
			p.hot = false
			c.unlist(p)
			c.list(p)
			continue
		}
		s.evict(p)
	}
	return c.count < c.max
}

func (s *Store) evict(p *page) {
	if p.dead {
		return // dropped while it was read; nobody counts it any more
	}
	c := &s.mu.pages
	c.unlist(p)
	c.count--
	e := p.ext
	if e.pages[p.no] == p {
		e.pages[p.no] = nil
	}
	if !p.inDir {
		s.freeSlot(p.slot)
		s.dropEmptyExtent(e)
	}
	s.putImage(p.img)
	p.img = nil
}

// dropEmptyExtent forgets an extent that never made it into the directory, once.
func (s *Store) dropEmptyExtent(e *extent) {
	if e.inDir || e.vol.exts[e.index] != e {
		return
	}
	for _, p := range e.pages {
		if p != nil {
			return
		}
	}
	delete(e.vol.exts, e.index)
	s.mu.extFree = append(s.mu.extFree, e.entry)
}

func (s *Store) takeSlot() (uint32, bool) {
	if s.mu.slots == 0 {
		return 0, false
	}
	for i := range s.sb.pageSlots {
		slot := (s.mu.slotPos + i) % s.sb.pageSlots
		if s.mu.slotOut[slot/64]&(1<<(slot%64)) == 0 {
			s.mu.slotOut[slot/64] |= 1 << (slot % 64)
			s.mu.slots--
			s.mu.slotPos = slot + 1
			return slot, true
		}
	}
	return 0, false
}

func (s *Store) freeSlot(slot uint32) {
	s.mu.slotOut[slot/64] &^= 1 << (slot % 64)
	s.mu.slots++
	s.mu.slotPos = min(s.mu.slotPos, slot)
}

// pageFound says how a search for a page ended.
type pageFound uint8

const (
	pageReady  pageFound = iota
	pageAbsent           // nothing was ever written there
	pageWait             // op is queued and will be admitted again
	pageFull             // no room for a new extent or page on the disk
)

// pageNeed says what findPage does about a page that does not exist.
type pageNeed uint8

const (
	pageIfAny  pageNeed = iota
	pageCreate          // make it
	pageForce           // make it, and do not wait for room in the cache
)

var errNoPages = errors.New("no room for more metadata: too many sparse extents")

// getPage finds the page of op, see findPage.
func (s *Store) getPage(t *turn, op *Op, need pageNeed) pageFound {
	p, found := s.findPage(t, op, op.Off, need)
	op.page = p
	return found
}

// findPage finds the page that op wants of its volume at off and pins it, or
// loads it, or makes it.
func (s *Store) findPage(t *turn, op *Op, off int64, need pageNeed) (*page, pageFound) {
	no := int(off % ExtentBytes / SpanBytes)
	e := op.Vol.exts[uint32(off/ExtentBytes)]
	if e == nil {
		if need == pageIfAny {
			return nil, pageAbsent
		}
		n := len(s.mu.extFree)
		if n == 0 {
			return nil, pageFull
		}
		e = &extent{vol: op.Vol, index: uint32(off / ExtentBytes), entry: s.mu.extFree[n-1], base: noChunk}
		s.mu.extFree = s.mu.extFree[:n-1]
		op.Vol.exts[e.index] = e
	}
	p := e.pages[no]
	if p == nil {
		var ref, crc uint32
		if e.inDir {
			_, de := s.entryOf(e)
			ref, crc = de.ref(no), de.refCRC(no)
		}
		if ref == 0 && need == pageIfAny {
			return nil, pageAbsent
		}
		if !s.room() && need != pageForce {
			s.pageWaiters.Add(1) // before the second look, see readDone
			if !s.room() {
				s.mu.waitPages.push(op)
				s.dropEmptyExtent(e)
				return nil, pageWait
			}
			s.pageWaiters.Add(-1)
		}
		p = &page{ext: e, no: no, img: s.image()}
		if ref == 0 {
			slot, ok := s.takeSlot()
			if !ok {
				s.putImage(p.img)
				s.dropEmptyExtent(e)
				return nil, pageFull
			}
			p.slot = slot
			p.img.init(kindPage, slot, s.sb.uuid)
			p.img.setPageID(e.vol.id, e.index, no)
		} else {
			p.slot, p.inDir, p.crc = ref&^refCopyB-1, true, crc
			s.load(t, p, ref&refCopyB != 0)
		}
		e.pages[no] = p
		s.mu.pages.count++
		s.mu.pages.list(p)
	}
	p.hot = true
	if p.loading {
		p.waiters.push(op)
		return nil, pageWait
	}
	p.pins.Add(1)
	return p, pageReady
}

func (s *Store) slotOff(slot uint32, copyB bool) int64 {
	off := s.sb.pageOff + int64(slot)*2*BlockBytes
	if copyB {
		off += BlockBytes
	}
	return off
}

func (s *Store) load(t *turn, p *page, copyB bool) {
	p.loading = true
	p.iobuf[0] = p.img
	p.io = disk.IO{Op: disk.Read, Off: s.slotOff(p.slot, copyB), Bufs: p.iobuf[:], Tag: p, Done: s.onPage}
	t.ios = append(t.ios, &p.io)
	s.stats.metaReads.Add(1)
}

func (s *Store) pageLoaded(io *disk.IO) {
	p := io.Tag.(*page)
	err := io.Err
	if err == nil {
		err = s.checkPage(p)
	}
	t := s.newTurn()
	s.mu.Lock()
	p.loading = false
	if err != nil {
		s.stats.badBlocks.Add(1)
		s.evict(p)
		for op := p.waiters.pop(); op != nil; op = p.waiters.pop() {
			s.endWrite(t, op, blockdev.ErrMedium, err)
		}
	}
	for op := p.waiters.pop(); op != nil; op = p.waiters.pop() {
		s.admit(t, op)
	}
	s.kick(t)
	s.mu.Unlock()
	s.run(t)
}

// checkImage verifies an image read from disk against the directory.
func (s *Store) checkImage(p *page, kind byte) error {
	if err := p.img.check(kind, p.slot, s.sb.uuid, ^uint64(0)); err != nil {
		return err
	}
	if !p.img.isPage(p.ext.vol.id, p.ext.index, p.no) {
		return fmt.Errorf("%w: page slot %d does not hold volume %x extent %d page %d", ErrCorrupt, p.slot, p.ext.vol.id, p.ext.index, p.no)
	}
	if got := p.img.crc(); got != p.crc {
		return fmt.Errorf("%w: page slot %d has checksum %08x, the directory says %08x: a write was lost", ErrCorrupt, p.slot, got, p.crc)
	}
	return nil
}

// checkPage verifies a page of data read from disk.
func (s *Store) checkPage(p *page) error {
	if err := s.checkImage(p, kindPage); err != nil {
		return err
	}
	for r := range regionsPerPage {
		c := p.img.chunk(r)
		if c != noChunk && c >= s.sb.chunks {
			return fmt.Errorf("%w: page slot %d region %d: chunk %d of %d", ErrCorrupt, p.slot, r, c, s.sb.chunks)
		}
		if c == noChunk && p.img.anyPresent(r) {
			return fmt.Errorf("%w: page slot %d region %d has blocks but no chunk", ErrCorrupt, p.slot, r)
		}
	}
	return nil
}

// unpinLocked lets go of a page with mu held; kick looks after who waits. A page that was made for
// an op that was refused goes at once: it has a slot, and perhaps a directory entry, for nothing.
func (s *Store) unpinLocked(p *page) {
	if p.pins.Add(-1) == 0 && !p.inDir {
		s.evict(p)
	}
}

// touch makes p.img writable: when a checkpoint still has to write the image,
// it keeps that one and p gets a copy.
func (s *Store) touch(p *page) {
	if p.snap != nil && &p.snap[0] == &p.img[0] {
		n := metaBlock(s.image())
		copy(n, p.img)
		p.img = n
	}
	if !p.dirty {
		p.dirty = true
		s.mu.pages.unlist(p)
		s.mu.pages.dirty = append(s.mu.pages.dirty, p)
	}
}

// abBlock is a directory or bitmap block: always in memory, with two places on
// disk and a selector in the superblock that names the current one.
type abBlock struct {
	kind  byte
	index uint32
	img   metaBlock
	snap  metaBlock
	dirty bool
	copyB bool // the current copy on disk
}

func (s *Store) touchBlock(b *abBlock) {
	if b.snap != nil && &b.snap[0] == &b.img[0] {
		n := metaBlock(s.image())
		copy(n, b.img)
		b.img = n
	}
	b.dirty = true
}

func (s *Store) blockOff(b *abBlock, copyB bool) int64 {
	off := s.sb.dirOff
	if b.kind == kindBitmap {
		off = s.sb.bitmapOff
	}
	off += int64(b.index) * 2 * BlockBytes
	if copyB {
		off += BlockBytes
	}
	return off
}

// dirtyPool are the buffers of acknowledged data that is not home yet.
type dirtyPool struct {
	slabs [][]byte
	state []uint8
	free  []int32
	total int
	taken int64 // ever
}

const (
	slabBlocks = 64 // small, so that recovery takes no more than it needs

	bufHome   = 1 // a home write reads it
	bufOrphan = 2 // nobody else needs it: free it after the home write
)

func (d *dirtyPool) init(blocks int) {
	d.slabs, d.state, d.free, d.total = nil, nil, nil, 0
	for d.total < blocks {
		d.grow(min(slabBlocks, blocks-d.total))
	}
}

// grow adds n buffers; all slabs but the last are full ones.
func (d *dirtyPool) grow(n int) {
	d.slabs = append(d.slabs, disk.NewAligned(n*BlockBytes))
	for i := n - 1; i >= 0; i-- {
		d.free = append(d.free, int32(d.total+i))
	}
	d.total += n
	d.state = append(d.state, make([]uint8, n)...)
}

func (d *dirtyPool) bytes(i int32) []byte {
	o := int(i) % slabBlocks * BlockBytes
	return d.slabs[i/slabBlocks][o : o+BlockBytes : o+BlockBytes]
}

func (d *dirtyPool) get() int32 {
	n := len(d.free)
	i := d.free[n-1]
	d.free = d.free[:n-1]
	d.taken++
	return i
}

// put ends the use of buffer i, now or after the home write that reads it.
func (d *dirtyPool) put(i int32) {
	if d.state[i]&bufHome != 0 {
		d.state[i] |= bufOrphan
		return
	}
	d.free = append(d.free, i)
}

func (d *dirtyPool) used() int { return d.total - len(d.free) }

// growAny adds a slab during recovery, when the log holds more blocks than the
// pool was made for. A last slab that is not full is replaced by a full one.
func (d *dirtyPool) growAny() {
	if rest := d.total % slabBlocks; rest != 0 {
		last := disk.NewAligned(slabBlocks * BlockBytes)
		copy(last, d.slabs[len(d.slabs)-1])
		d.slabs[len(d.slabs)-1] = last
		for i := slabBlocks - 1; i >= rest; i-- {
			d.free = append(d.free, int32(d.total-rest+i))
		}
		d.state = append(d.state, make([]uint8, slabBlocks-rest)...)
		d.total += slabBlocks - rest
		return
	}
	d.grow(slabBlocks)
}

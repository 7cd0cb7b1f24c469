package store

import (
	"cmp"
	"fmt"
	"slices"

	"blockd.dev/blockdev/disk"
)

// A checkpoint makes the log shorter. It takes the state as it is after the last
// applied batch (position P), and then, while new writes go on:
//
//  1. home: the newest content of every block that was dirty at P goes to its
//     place, in place, in the order of the disk.
//  2. pages: the images of all pages changed since the last checkpoint, as they
//     were at P, go to the copies that are not current.
//  3. roots: the directory and bitmap blocks likewise; the directory now names
//     the new copies of the pages.
//  4. sync.
//  5. superblock A, then superblock B, each durable before the next step: the
//     first one commits.
//  6. The log up to P is free.
//
// 1 to 3 go as fast as log and memory fill meanwhile (due).
//
// Home writes may carry data newer than P. That is harmless: the record of such
// data is after P, durable, and replayed over it (invariant 5).
type checkpoint struct {
	running bool
	phase   ckPhase
	pos     int64 // P
	seq     uint64
	lastSeq uint64
	clean   bool

	log, bufs, dirty budget // dirty: of pages

	home     []homeBlock
	homeNext int
	pages    []*page
	pageNext int
	roots    []*abBlock
	rootNext int

	inflight int
	idle     []*ckIO
	super    []byte
	io       disk.IO
	superSeg [1][]byte
}

type ckPhase uint8

const (
	ckHome ckPhase = iota
	ckPages
	ckRoots
	ckSync
	ckSuperA
	ckSuperB
)

// homeBlock is a block to write home; key sorts by place as it was at P.
type homeBlock struct {
	key   uint64
	page  *page
	block int32
	buf   int32
}

// ckIO is one write of a checkpoint: neighbouring blocks going home, or one
// metadata block.
type ckIO struct {
	s    *Store
	io   disk.IO
	segs [][]byte
	home []homeBlock
}

const maxHomeSegs = 64 // 256 KiB per write

// budget is what new writes may take of something before the checkpoint has to be done.
type budget struct{ from, n int64 }

// spent is the share of b that is gone when now is where from was.
func (b budget) spent(now int64) float64 {
	if now-b.from >= b.n {
		return 1
	}
	return float64(now-b.from) / float64(b.n)
}

// maybeCheckpoint starts a checkpoint when there is something to gain and the
// log, the dirty buffers or the page cache are half full, or someone waits. A store that closes
// has one of its own even with nothing to bring home: for the clean mark.
func (s *Store) maybeCheckpoint(t *turn) {
	l, c := &s.mu.lg, &s.mu.ck
	nothing := l.used() == 0 && len(s.mu.pages.dirty) == 0
	if c.running || s.mu.state != StateOnline || nothing && (s.mu.closing == nil || s.mu.cleaned) {
		return
	}
	switch {
	case l.used() > l.size/2, l.full,
		s.mu.bufs.used() > s.mu.bufs.total/2 || !s.mu.waitBufs.empty(),
		len(s.mu.pages.dirty) > s.mu.pages.max/2 || !s.mu.waitPages.empty(),
		s.mu.closing != nil && s.mu.inflight == s.readsDone.Load():
		s.startCheckpoint(t)
	}
}

func (s *Store) startCheckpoint(t *turn) {
	l, c := &s.mu.lg, &s.mu.ck
	c.running, c.phase = true, ckHome
	c.pos, c.seq, c.lastSeq = l.applied, l.seq, s.mu.lastSeq
	c.clean = s.mu.closing != nil && s.mu.inflight == s.readsDone.Load()
	c.home, c.roots = c.home[:0], c.roots[:0]
	c.homeNext, c.pageNext, c.rootNext = 0, 0, 0
	s.writeNotes()
	held := s.hideHeld()
	c.pages, s.mu.pages.dirty = s.mu.pages.dirty, c.pages[:0]
	// A page whose extent was dropped has lost its slot, perhaps to another one.
	c.pages = slices.DeleteFunc(c.pages, func(p *page) bool { return p.dead })
	for _, p := range c.pages {
		p.dirty, p.snap = false, p.img
		b, _ := s.entryOf(p.ext)
		s.touchBlock(b) // its reference to the page will change
		if p.nDirty == 0 {
			continue
		}
		for b, buf := range p.home {
			if buf != 0 {
				key := uint64(p.img.chunk(b/blocksPerChunk))*blocksPerChunk + uint64(b%blocksPerChunk)
				c.home = append(c.home, homeBlock{key: key, page: p, block: int32(b)})
			}
		}
	}
	for _, list := range [2][]*abBlock{s.mu.dir, s.mu.bitmap} {
		for _, b := range list {
			if b.dirty {
				b.dirty, b.snap = false, b.img
				c.roots = append(c.roots, b)
			}
		}
	}
	s.showHeld(held)
	c.log = budget{c.pos, (l.size - l.used()) / 2}
	c.bufs = budget{s.mu.bufs.taken, int64(len(s.mu.bufs.free)) / 2}
	c.dirty = budget{0, int64(s.mu.pages.max-len(c.pages)) / 2}
	slices.SortFunc(c.home, func(a, b homeBlock) int { return cmp.Compare(a.key, b.key) })
	s.stats.checkpoints.Add(1)
	s.stepCheckpoint(t)
}

// heldChunk is a chunk of a region without blocks, which keeps it for a write that is to come.
type heldChunk struct {
	page  *page
	r     int
	chunk uint32
}

// hideHeld takes such chunks out of what the checkpoint is about to write: if the write never becomes
// durable the region would have one for nothing. If it does, replay gives it one, like any other.
func (s *Store) hideHeld() (list []heldChunk) {
	for _, p := range s.mu.pages.dirty {
		if p.dead || p.held == [regionsPerPage]uint16{} {
			continue
		}
		for r := range regionsPerPage {
			if c := p.img.chunk(r); p.held[r] != 0 && c != noChunk && !p.img.anyPresent(r) {
				list = append(list, heldChunk{p, r, c})
				p.img.setChunk(r, noChunk)
				s.own(p, -1)
				s.markChunk(c, false)
			}
		}
	}
	return list
}

// showHeld gives the regions their chunks back.
func (s *Store) showHeld(list []heldChunk) {
	for _, h := range list {
		s.touch(h.page)
		h.page.img.setChunk(h.r, h.chunk)
		s.own(h.page, 1)
		s.markChunk(h.chunk, true)
	}
}

// writes is how many blocks the checkpoint is to write, and begun how many of these it has
// begun with, or found superfluous.
func (c *checkpoint) writes() int { return len(c.home) + len(c.pages) + len(c.roots) }
func (c *checkpoint) begun() int  { return c.homeNext + c.pageNext + c.rootNext }

// due is how many blocks the checkpoint shall have begun with: as large a share of all as new
// writes have taken of what they may, which is half of what log and memory had free at P. So hosts'
// writes have a few others beside them most of the time, rather than now and then as many as the
// disk can do, on all disks at once: copies of a volume take the same writes, so that their
// checkpoints begin together. Where nothing is written it stops, unless somebody waits.
func (s *Store) due() int {
	c := &s.mu.ck
	if s.mu.closing != nil || s.mu.lg.full || !s.mu.waitBufs.empty() || !s.mu.waitPages.empty() || len(s.mu.ckWaiters) > 0 {
		return c.writes()
	}
	spent := max(c.log.spent(s.mu.lg.applied), c.bufs.spent(s.mu.bufs.taken), c.dirty.spent(int64(len(s.mu.pages.dirty))))
	return int(spent * float64(c.writes()))
}

// stepCheckpoint starts what the checkpoint can do next, with mu held. Nobody waits for
// its writes, so they go to the disk in groups of half of InFlight: one system call and one
// notification of the device for all, where each that ended cost both for the next one.
func (s *Store) stepCheckpoint(t *turn) {
	c := &s.mu.ck
	if c.inflight > s.opts.InFlight/2 {
		return
	}
	if left := c.writes() - c.begun(); left > 0 && s.due()-c.begun() < min(left, max(1, s.opts.InFlight/2)) {
		return
	}
	for c.inflight < s.opts.InFlight {
		switch c.phase {
		case ckHome:
			if !s.homeIO(t) {
				c.phase = ckPages
			}
		case ckPages:
			if c.pageNext == len(c.pages) {
				c.phase = ckRoots
				continue
			}
			p := c.pages[c.pageNext]
			c.pageNext++
			copyB := !s.copyB(p.slot)
			crc := p.snap.seal(s.sb.generation + 1)
			// Also of a page whose extent was dropped since P: the directory is that of P, and
			// replay drops it again.
			b := s.mu.dir[p.ext.entry/dirEntriesPerBlock]
			b.snap.entry(int(p.ext.entry%dirEntriesPerBlock)).setRef(p.no, refOf(p.slot, copyB), crc)
			p.snapCRC = crc
			s.metaIO(t, p.snap, s.slotOff(p.slot, copyB))
		case ckRoots:
			if c.rootNext == len(c.roots) {
				if c.inflight > 0 {
					return
				}
				c.phase = ckSync
				if !s.opts.breakage.skipCheckpointSync {
					c.io = disk.IO{Op: disk.Sync, Done: s.onCheckpoint, Internal: c.io.Internal}
					t.ios = append(t.ios, &c.io)
					s.stats.syncs.Add(1)
					return
				}
				s.superIO(t)
				return
			}
			b := c.roots[c.rootNext]
			c.rootNext++
			b.snap.seal(s.sb.generation + 1)
			s.metaIO(t, b.snap, s.blockOff(b, !b.copyB))
		default:
			return
		}
	}
}

func (s *Store) copyB(slot uint32) bool { return s.mu.slotCur[slot/64]&(1<<(slot%64)) != 0 }

// refOf is how the directory refers to a copy of a page; slotOf takes it apart.
func refOf(slot uint32, copyB bool) uint32 {
	if copyB {
		return (slot + 1) | refCopyB
	}
	return slot + 1
}

func (s *Store) ckGet() *ckIO {
	c := &s.mu.ck
	c.inflight++
	if n := len(c.idle); n > 0 {
		x := c.idle[n-1]
		c.idle = c.idle[:n-1]
		x.segs, x.home = x.segs[:0], x.home[:0]
		return x
	}
	return &ckIO{s: s}
}

func (s *Store) metaIO(t *turn, img metaBlock, off int64) {
	x := s.ckGet()
	x.segs = append(x.segs, img)
	x.start(t, off)
	s.stats.metaBytes.Add(BlockBytes)
}

func (x *ckIO) start(t *turn, off int64) {
	x.io = disk.IO{Op: disk.Write, Off: off, Bufs: x.segs, Tag: x, Done: ckDone, Internal: x.io.Internal}
	t.ios = append(t.ios, &x.io)
}

// homeIO starts one write of neighbouring blocks; false when none is left.
func (s *Store) homeIO(t *turn) bool {
	c := &s.mu.ck
	var x *ckIO
	var off, next int64
	for ; c.homeNext < len(c.home); c.homeNext++ {
		h := c.home[c.homeNext]
		p, b := h.page, int(h.block)
		if p.home == nil || p.home[b] == 0 {
			continue // superseded by a whole region or a clear
		}
		chunk := p.img.chunk(b / blocksPerChunk)
		at := s.blockAddr(chunk, b)
		if x != nil && (at != next || len(x.segs) == maxHomeSegs) {
			break
		}
		if x == nil {
			x, off = s.ckGet(), at
		}
		next = at + BlockBytes
		h.buf = p.home[b] - 1
		h.key = uint64(chunk)
		s.mu.bufs.state[h.buf] |= bufHome
		s.mu.homePins[chunk]++
		p.ver[b/blocksPerChunk]++
		x.home = append(x.home, h)
		x.segs = append(x.segs, s.mu.bufs.bytes(h.buf))
	}
	if x == nil {
		return false
	}
	x.start(t, off)
	s.stats.homeBytes.Add(int64(len(x.segs)) * BlockBytes)
	return true
}

func ckDone(io *disk.IO) {
	x := io.Tag.(*ckIO)
	s := x.s
	t := s.newTurn()
	s.mu.Lock()
	c := &s.mu.ck
	c.inflight--
	for _, h := range x.home {
		s.homeDone(h, io.Err == nil)
	}
	if io.Err != nil {
		s.failLocked(t, fmt.Errorf("write of a checkpoint: %w", io.Err))
	}
	c.idle = append(c.idle, x)
	s.checkpointNext(t)
	s.kick(t)
	s.mu.Unlock()
	s.run(t)
}

// homeDone ends one block's way home. When the write failed the block stays
// dirty: its good copy is in memory and in the log.
func (s *Store) homeDone(h homeBlock, ok bool) {
	s.mu.bufs.state[h.buf] &^= bufHome
	chunk := uint32(h.key)
	if s.mu.homePins[chunk]--; s.mu.homePins[chunk] == 0 {
		delete(s.mu.homePins, chunk)
		if s.mu.deferred[chunk] {
			delete(s.mu.deferred, chunk)
			s.mu.alloc.release(chunk)
		}
	}
	p, b := h.page, int(h.block)
	if s.mu.bufs.state[h.buf]&bufOrphan != 0 {
		s.mu.bufs.state[h.buf] = 0
		s.mu.bufs.put(h.buf)
		return
	}
	if ok && p.home != nil && p.home[b] == h.buf+1 {
		s.dropHome(p, b)
	}
}

// checkpointNext goes on after a write, or stops when the store has failed.
func (s *Store) checkpointNext(t *turn) {
	c := &s.mu.ck
	if !c.running {
		return
	}
	if s.mu.state != StateOnline {
		if c.inflight == 0 {
			c.running = false
		}
		return
	}
	s.stepCheckpoint(t)
}

func (s *Store) superIO(t *turn) {
	c := &s.mu.ck
	off := int64(0)
	if c.phase == ckSync {
		c.phase = ckSuperA
		s.encodeSuper(c)
	} else {
		c.phase = ckSuperB
		off = s.sb.superBOff
	}
	c.superSeg[0] = c.super
	c.io = disk.IO{Op: disk.Write, Dsync: !s.opts.breakage.noSuperDsync, Off: off, Bufs: c.superSeg[:], Done: s.onCheckpoint, Internal: c.io.Internal}
	t.ios = append(t.ios, &c.io)
	s.stats.metaBytes.Add(superBytes)
}

func (s *Store) encodeSuper(c *checkpoint) {
	sb := s.sb
	sb.generation++
	sb.logTail, sb.logSeq, sb.lastSeq, sb.clean = c.pos%s.mu.lg.size, c.seq, c.lastSeq, c.clean
	for _, b := range c.roots {
		i := int(b.index)
		if b.kind == kindBitmap {
			i += int(sb.dirBlocks)
		}
		if b.copyB {
			sb.selectors[i/8] &^= 1 << (i % 8)
		} else {
			sb.selectors[i/8] |= 1 << (i % 8)
		}
	}
	sb.encode(c.super)
}

// checkpointDone follows the sync and the two superblocks.
func (s *Store) checkpointDone(io *disk.IO) {
	t := s.newTurn()
	s.mu.Lock()
	c := &s.mu.ck
	switch {
	case io.Err != nil:
		s.failLocked(t, fmt.Errorf("commit of a checkpoint: %w", io.Err))
		c.running = false
	case s.mu.state != StateOnline:
		c.running = false
	case c.phase != ckSuperB:
		s.superIO(t)
	default:
		s.commitCheckpoint()
	}
	s.kick(t)
	s.mu.Unlock()
	s.run(t)
}

func (s *Store) commitCheckpoint() {
	c := &s.mu.ck
	s.sb.generation++
	for _, p := range c.pages {
		s.mu.slotCur[p.slot/64] ^= 1 << (p.slot % 64)
		if !p.dead {
			_, de := s.entryOf(p.ext)
			de.setRef(p.no, refOf(p.slot, s.copyB(p.slot)), p.snapCRC)
		}
		if p.img == nil || &p.snap[0] != &p.img[0] {
			s.putImage(p.snap)
		}
		p.snap = nil
		if !p.dirty && !p.dead {
			s.mu.pages.list(p)
		}
	}
	for _, b := range c.roots {
		b.copyB = !b.copyB
		if &b.snap[0] != &b.img[0] {
			s.putImage(b.snap)
		}
		b.snap = nil
	}
	s.mu.lg.tail = c.pos
	s.mu.lg.full = false
	s.mu.cleaned = c.clean
	c.running = false
	s.wakeCheckpointWaiters()
}

// wakeCheckpointWaiters tells those who wait for a checkpoint that it ended,
// well or not.
func (s *Store) wakeCheckpointWaiters() {
	for _, ch := range s.mu.ckWaiters {
		close(ch)
	}
	s.mu.ckWaiters = nil
}

// Checkpoint brings everything home and empties the log of what was applied
// when it was called. It waits; tools and tests use it.
func (s *Store) Checkpoint() error {
	t := s.newTurn()
	s.mu.Lock()
	for range 2 { // the one that is running may have begun too early
		if s.mu.state != StateOnline {
			break
		}
		ch := make(chan struct{})
		s.mu.ckWaiters = append(s.mu.ckWaiters, ch)
		running := s.mu.ck.running
		if !running {
			s.startCheckpoint(t)
		}
		s.kick(t) // it is waited for
		s.mu.Unlock()
		s.run(t)
		<-ch
		t = s.newTurn()
		s.mu.Lock()
		if !running {
			break
		}
	}
	err := s.mu.failure
	s.mu.Unlock()
	s.run(t)
	return err
}

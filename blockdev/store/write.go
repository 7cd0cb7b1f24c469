package store

import (
	"errors"
	"fmt"
	"math/bits"
	"syscall"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/internal/invariants"
)

// Writes, step by step:
//
//  1. beginWrite, under mu: the page is found, loaded or made, and pinned. Then
//     takeBufs: a dirty buffer for each block that goes through the log, or the op
//     waits in waitBufs. Page before buffers: who waits for room in the page cache
//     holds nothing, and who waits for buffers waits only for the log and the
//     checkpoint, which need neither.
//  2. copyIn, without mu: data into those buffers, checksums of all blocks.
//  3. admitWrite, under mu: space is reserved for regions without a chunk; whole
//     regions get new chunks. When there are too few, see admitShort.
//  4. Whole regions only: data to the new chunks (writeDone), then one Sync for
//     all that are waiting (syncDone).
//  5. The op joins logq, and some batch of the log (log.go). When that is
//     durable, apply makes the op visible, and it is done.
//
// Lock order: there is one lock. Steps 1, 3 and 5 of different ops interleave in
// any order, but ops enter logq, the log and apply in the same order.

func (s *Store) beginWrite(t *turn, op *Op) {
	if !s.writable(t, op) {
		return
	}
	if op.page == nil {
		switch s.getPage(t, op, pageCreate) {
		case pageWait:
			return
		case pageFull:
			s.endWrite(t, op, blockdev.ErrNoSpace, errNoPages)
			return
		}
	}
	if s.prepareNote(t, op) {
		s.takeBufs(t, op)
	}
}

// takeBufs begins a round of op.
func (s *Store) takeBufs(t *turn, op *Op) {
	if !s.mu.waitBufs.empty() || !s.tryBufs(t, op) {
		s.mu.waitBufs.push(op)
	}
}

func (s *Store) tryBufs(t *turn, op *Op) bool {
	need := op.inLog()
	if len(s.mu.bufs.free) < need {
		return false
	}
	for range need {
		op.blockBufs = append(op.blockBufs, s.mu.bufs.get())
	}
	t.fill.push(op)
	return true
}

// copyIn copies and checksums the blocks of the round.
func (op *Op) copyIn(s *Store) {
	if cap(op.crcs) < op.n {
		op.crcs = make([]uint32, op.n)
	}
	op.crcs = op.crcs[:op.n]
	k := 0
	for i := op.pos; i < op.end; i++ {
		if op.whole((op.first + i) / blocksPerChunk) {
			op.crcs[i] = sgCRC(op.Data, i*BlockBytes, BlockBytes)
			continue
		}
		b := s.mu.bufs.bytes(op.blockBufs[k]) // ours until applied; the slabs do not move
		k++
		sgCopyOut(b, op.Data, i*BlockBytes)
		op.crcs[i] = checksum(b)
	}
}

func (s *Store) writable(t *turn, op *Op) bool {
	if s.mu.state == StateOnline {
		return true
	}
	s.endWrite(t, op, blockdev.ErrReadOnly, fmt.Errorf("%w: %w", ErrFailed, s.mu.failure))
	return false
}

func (s *Store) admitWrite(t *turn, op *Op) {
	if !s.writable(t, op) {
		return
	}
	p := op.page
	r0, r1 := op.regions(op.pos, op.end)
	whole, need := uint32(0), uint32(0)
	want := op.resv
	for r := r0; r <= r1; r++ {
		if op.whole(r) {
			whole++
		}
	}
	for r := r0; r <= r1; r++ {
		switch {
		case op.whole(r) || want&(1<<r) != 0 || op.held&(1<<r) != 0:
		// A chunk that is there now stays until this op is applied, unless a
		// clear is ahead of it in the log, or may get ahead while the op writes
		// its whole regions.
		case p.img.chunk(r) == noChunk || p.clears > 0 || whole > 0:
			want |= 1 << r
			need++
		}
	}
	if s.spare(op) < need+whole {
		s.admitShort(t, op)
		return
	}
	s.mu.alloc.reserve(need)
	op.resv = want
	if whole == 0 {
		s.mu.logq.push(op)
		return
	}
	s.writeChunks(t, op, r0, r1)
}

// spare is how many chunks op may take or reserve at once: none while others wait
// for some, or they might wait for ever. A write that can do nothing else may.
func (s *Store) spare(op *Op) uint32 {
	if !s.mu.waitSpace.empty() && !s.tooLarge(op) {
		return 0
	}
	return s.mu.alloc.available()
}

// admitShort admits an OpWrite or OpZero when there are fewer free chunks than it
// would like to have. Overwriting must still work: regions that have a chunk keep
// it for op, whatever is ahead of it in the log, and only holes need one. If there
// are too few even for these, op waits as long as more may become free.
func (s *Store) admitShort(t *turn, op *Op) {
	switch {
	case s.tooLarge(op):
		s.endWrite(t, op, blockdev.ErrNoSpace, errors.New("too few free chunks, and the write is too large to go through the log as a whole"))
	case op.holes() <= s.spare(op):
		s.squeeze(t, op)
	case s.unsettled():
		s.putBufs(op) // what it waits for may need buffers
		s.mu.waitSpace.push(op)
	default:
		s.endWrite(t, op, blockdev.ErrNoSpace, nil)
	}
}

// wakeShort goes on with ops that wait for space, in order.
func (s *Store) wakeShort(t *turn) {
	for op := s.mu.waitSpace.head; op != nil; op = s.mu.waitSpace.head {
		enough := op.holes() <= s.mu.alloc.available()
		if !enough && s.unsettled() {
			return
		}
		s.mu.waitSpace.pop()
		if enough {
			s.squeeze(t, op)
		} else {
			s.endWrite(t, op, blockdev.ErrNoSpace, nil)
		}
	}
}

// unsettled tells whether chunks are neither free nor owned: new ones of writes
// under way, each of which may free the one before, freed ones that a home write
// still goes to, and reserved ones, which may turn out not to be needed. None of
// these waits for space, and while somebody does nothing adds to them but chunks
// that are being freed. A clear that is not done yet is not waited for.
func (s *Store) unsettled() bool {
	a := s.mu.alloc
	return a.reserved > 0 || int64(a.chunks)-int64(a.free)-s.mu.owned-int64(len(s.mu.bad)) > 0
}

// holes counts the regions of op without a chunk.
func (op *Op) holes() (n uint32) {
	r0, r1 := op.regions(0, op.n)
	for r := r0; r <= r1; r++ {
		if op.page.img.chunk(r) == noChunk {
			n++
		}
	}
	return n
}

// squeeze makes op go on with one chunk per hole, which is there. A write starts
// again: all of it goes through the log, whole regions one at a time.
func (s *Store) squeeze(t *turn, op *Op) {
	p, small := op.page, op.inLog() == op.n
	r0, r1 := op.regions(0, op.n)
	for r := r0; r <= r1; r++ {
		if p.img.chunk(r) == noChunk {
			op.resv |= 1 << r
			s.mu.alloc.reserve(1)
		} else {
			op.held |= 1 << r
			p.held[r]++
		}
	}
	if op.Kind == OpZero {
		s.mu.logq.push(op)
		return
	}
	s.putBufs(op)
	op.byLog = true
	if op.Note != nil || small { // all of it in one batch [I12]
		s.takeBufs(t, op)
		return
	}
	op.pos, op.end = 0, 0
	s.nextRound(t, op)
}

// tooLarge tells whether op is a write that has to be atomic and can't go through
// the log at once. In half of the log a batch finds room wherever the ring ends.
func (s *Store) tooLarge(op *Op) bool {
	return op.Kind == OpWrite && op.Note != nil && (op.n > s.opts.BatchBlocks || op.n > s.mu.bufs.total ||
		batchBytes(recordHeader+4*op.n+op.noteBytes(), op.n) > s.mu.lg.size/2)
}

// nextRound moves on to the next region of an op that goes through the log a
// region at a time. It can't fail for lack of space: each region has a chunk that
// is held, or one reserved.
func (s *Store) nextRound(t *turn, op *Op) {
	op.blockBufs = op.blockBufs[:0]
	op.pos = op.end
	edge := (op.first+op.pos)/blocksPerChunk*blocksPerChunk + blocksPerChunk
	op.end = min(op.n, edge-op.first)
	s.takeBufs(t, op)
}

// letGo ends op's claims on the regions in mask.
func (s *Store) letGo(op *Op, mask uint32) {
	s.mu.alloc.unreserve(uint32(bits.OnesCount32(op.resv & mask)))
	op.resv &^= mask
	for m := op.held & mask; m != 0; m &= m - 1 {
		op.page.held[bits.TrailingZeros32(m)]--
	}
	op.held &^= mask
}

func (s *Store) putBufs(op *Op) {
	for _, b := range op.blockBufs {
		s.mu.bufs.put(b)
	}
	op.blockBufs = op.blockBufs[:0]
}

// writeChunks takes a new chunk for each whole region and starts the writes.
func (s *Store) writeChunks(t *turn, op *Op, r0, r1 int) {
	p := op.page
	op.chunks, op.ios = op.chunks[:0], op.ios[:0]
	last := noChunk
	for r := r0; r <= r1; r++ {
		if !op.whole(r) {
			continue
		}
		hint := last + 1
		if last == noChunk {
			hint = noChunk
		}
		if p.img.chunk(r) == noChunk {
			hint = s.hint(p, r)
		}
		c, ok := s.mu.alloc.alloc(hint)
		if s.opts.breakage.overwriteInPlace && p.img.chunk(r) != noChunk {
			s.mu.alloc.release(c)
			c = p.img.chunk(r)
		}
		if old := p.img.chunk(r); s.opts.breakage.reuseEarly && old != noChunk {
			s.mu.alloc.release(old)
		}
		if invariants.Enabled && !ok {
			invariants.Fail("no chunk although %d were free", s.mu.alloc.free)
		}
		if len(op.ios) == 0 || c != last+1 {
			op.addIO(r*blocksPerChunk - op.first)
			x := &op.ios[len(op.ios)-1]
			x.io.Off, x.chunk = s.blockAddr(c, 0), c
		}
		op.ios[len(op.ios)-1].blocks += blocksPerChunk
		op.chunks = append(op.chunks, c)
		last = c
	}
	s.mu.writing++
	op.badIO.Store(nil)
	op.pending.Store(int32(len(op.ios)))
	for k := range op.ios {
		x := &op.ios[k]
		n := x.blocks * BlockBytes
		var aligned bool
		x.segs, aligned = sgSlice(x.segs[:0], op.Data, x.index*BlockBytes, n)
		if !aligned {
			x.copied = s.bounceGet(n)
			x.segs = append(x.segs[:0], (*x.copied)[:n])
			sgCopyOut(x.segs[0], op.Data, x.index*BlockBytes)
		}
		x.io.Op, x.io.Bufs, x.io.Tag, x.io.Done, x.io.Err = disk.Write, x.segs, x, writeDone, nil
		x.io.Dsync = false
		t.ios = append(t.ios, &x.io)
		s.stats.dataBytes.Add(int64(n))
	}
}

// hint is where region r of p would like to live: its place in a run of 64 MiB.
func (s *Store) hint(p *page, r int) uint32 {
	e := p.ext
	if !e.based {
		e.based = true
		e.base = s.mu.alloc.findRun()
	}
	if e.base == noChunk {
		return noChunk
	}
	return e.base + uint32(p.no*regionsPerPage+r)
}

func writeDone(io *disk.IO) {
	x := io.Tag.(*opIO)
	op := x.op
	s := op.s
	if x.copied != nil {
		s.bouncePut(x.copied)
		x.copied = nil
	}
	if io.Err != nil {
		op.badIO.Store(io)
	}
	if op.pending.Add(-1) != 0 {
		return
	}
	t := s.newTurn()
	s.mu.Lock()
	s.mu.writing--
	if bad := op.badIO.Load(); bad != nil {
		s.writeFailed(t, op, bad.Err)
	} else if s.writable(t, op) {
		if s.opts.breakage.skipDataSync {
			s.mu.logq.push(op)
		} else {
			s.mu.needSync.push(op)
			s.mu.gathered += op.Len
			s.mu.syncSoon = s.mu.syncSoon || op.Note == nil || !op.Note.Exact || s.mu.gathered >= syncBytes
		}
	}
	s.kick(t)
	s.mu.Unlock()
	s.run(t)
}

// writeFailed ends an op whose data could not be written to new chunks. Nothing
// that existed was touched. The chunks that refused are not used again until the
// store is next opened.
func (s *Store) writeFailed(t *turn, op *Op, err error) {
	if errors.Is(err, disk.ErrGone) {
		s.failLocked(t, err)
	}
	for k := range op.ios {
		x := &op.ios[k]
		if x.io.Err == nil || errors.Is(x.io.Err, syscall.ENOSPC) {
			continue
		}
		for c := range uint32(x.blocks / blocksPerChunk) {
			s.mu.bad[x.chunk+c] = true
		}
	}
	kind := blockdev.ErrIO
	if errors.Is(err, syscall.ENOSPC) {
		kind = blockdev.ErrNoSpace
	}
	s.endWrite(t, op, kind, err)
}

// syncBytes is how much data of copies waits for one Sync.
const syncBytes = 4 << 20

// startSync starts the one Sync in flight for all ops whose data is written. Where these
// are copies alone (Note.Exact), which come many at a time and for which no host waits, it
// waits for those whose data is being written, up to syncBytes: half of the flushes of a
// rebuild, and a twelfth of its processor time, were for a few regions each.
func (s *Store) startSync(t *turn) {
	if s.mu.syncBusy || s.mu.needSync.empty() || s.mu.writing > 0 && !s.mu.syncSoon {
		return
	}
	s.mu.syncBusy = true
	s.mu.gathered, s.mu.syncSoon = 0, false
	s.mu.needSync.moveTo(&s.mu.inSync)
	s.syncIO = disk.IO{Op: disk.Sync, Done: s.onSync, Internal: s.syncIO.Internal}
	t.ios = append(t.ios, &s.syncIO)
	s.stats.syncs.Add(1)
}

func (s *Store) syncDone(io *disk.IO) {
	t := s.newTurn()
	s.mu.Lock()
	s.mu.syncBusy = false
	if io.Err != nil {
		s.failLocked(t, fmt.Errorf("sync of the data area: %w", io.Err))
	}
	for op := s.mu.inSync.pop(); op != nil; op = s.mu.inSync.pop() {
		if s.mu.state != StateOnline {
			s.endWrite(t, op, blockdev.ErrIO, s.mu.failure)
			continue
		}
		s.mu.logq.push(op)
	}
	s.kick(t)
	s.mu.Unlock()
	s.run(t)
}

// admitClear admits OpClear, OpZero and OpPoison.
func (s *Store) admitClear(t *turn, op *Op) {
	if !s.writable(t, op) {
		return
	}
	if op.page == nil {
		need := pageCreate
		if op.Kind == OpClear && (op.Note == nil || !op.needsPage()) {
			need = pageIfAny
		}
		switch s.getPage(t, op, need) {
		case pageWait:
			return
		case pageAbsent:
			if op.Note == nil {
				s.end(t, op, nil, nil)
				return
			}
		case pageFull:
			s.endWrite(t, op, blockdev.ErrNoSpace, errNoPages)
			return
		}
	}
	if !s.prepareNote(t, op) {
		return
	}
	p := op.page
	if p == nil {
		op.bare = true
		s.mu.logq.push(op)
		return
	}
	if op.Kind == OpClear {
		p.clears++
		op.clearing = true
		s.mu.logq.push(op)
		return
	}
	if op.Kind == OpPoison { // takes no space but for its page
		s.mu.logEdges = true
		s.mu.logq.push(op)
		return
	}
	r0, r1 := op.regions(0, op.n)
	want, need := uint32(0), uint32(0)
	for r := r0; r <= r1; r++ {
		if p.img.chunk(r) == noChunk || p.clears > 0 {
			want |= 1 << r
			need++
		}
	}
	if s.spare(op) < need {
		s.admitShort(t, op)
		return
	}
	s.mu.alloc.reserve(need)
	op.resv = want
	s.mu.logq.push(op)
}

// endWrite ends an op that was not applied and gives back what it holds.
func (s *Store) endWrite(t *turn, op *Op, kind, cause error) {
	s.putBufs(op)
	for _, c := range op.chunks {
		if !s.mu.bad[c] {
			s.mu.alloc.release(c)
		}
	}
	op.chunks = op.chunks[:0]
	s.letGo(op, ^uint32(0))
	if op.clearing {
		op.page.clears--
	}
	s.end(t, op, kind, cause)
}

// bounceGet returns aligned memory of at least n bytes for a caller whose own
// is not. What is in use is bounded by the ops in flight.
func (s *Store) bounceGet(n int) *[]byte {
	pool, size := &s.bounce[0], ChunkBytes
	if n > ChunkBytes {
		pool, size = &s.bounce[1], SpanBytes
	}
	if b, ok := pool.Get().(*[]byte); ok {
		return b
	}
	b := disk.NewAligned(size)
	return &b
}

func (s *Store) bouncePut(b *[]byte) {
	if len(*b) == ChunkBytes {
		s.bounce[0].Put(b)
	} else {
		s.bounce[1].Put(b)
	}
}

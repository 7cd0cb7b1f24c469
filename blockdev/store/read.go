package store

import (
	"errors"
	"fmt"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
)

// Reads, step by step:
//
//  1. admitRead, under mu: each block is a hole, in a dirty buffer (copied at
//     once) or on disk. Neighbours on disk become one IO straight into the
//     caller's memory. The checksums to expect and the regions' versions are
//     noted.
//  2. fillHoles, without mu: zeroes where nothing is.
//  3. readDone, per IO, without mu: checksums. The last one ends the op, again
//     without mu unless something was wrong.
//
// A block may be rewritten in place, or its chunk given to another region, while
// a read of it is under way. The checksum then fails and the region's version
// has moved: the op starts again (invariant 7).

// retriesMax bounds how often a read starts again because of writes beside it.
const retriesMax = 64

func (s *Store) admitRead(t *turn, op *Op) {
	if op.page == nil {
		switch s.getPage(t, op, pageIfAny) {
		case pageWait:
			return
		case pageAbsent:
			clear(op.Vers)
			op.runs = append(op.runs[:0], run{0, op.n})
			op.ios = op.ios[:0]
			op.bad.Store(0)
			op.pending.Store(1)
			t.zero.push(op)
			return
		}
	}
	s.startRead(t, op)
}

func (s *Store) startRead(t *turn, op *Op) {
	p := op.page
	op.readVersions()
	if off := op.poisoned(); off >= 0 {
		op.ErrOff = off
		s.end(t, op, blockdev.ErrMedium, blockdev.ErrPoisoned)
		return
	}
	op.runs, op.ios = op.runs[:0], op.ios[:0]
	if cap(op.crcs) < op.n {
		op.crcs = make([]uint32, op.n)
	}
	op.crcs = op.crcs[:op.n]
	op.bad.Store(0)
	op.badIO.Store(nil)
	var next int64 = -1 // where the last IO ends on disk
	for i := 0; i < op.n; i++ {
		b := op.first + i
		switch {
		case p.home != nil && p.home[b] != 0:
			sgCopyIn(op.Data, i*BlockBytes, s.mu.bufs.bytes(p.home[b]-1))
			next = -1
		case !p.img.present(b) || p.img.zero(b):
			if n := len(op.runs); n > 0 && op.runs[n-1].index+op.runs[n-1].blocks == i {
				op.runs[n-1].blocks++
			} else {
				op.runs = append(op.runs, run{i, 1})
			}
			next = -1
		default:
			r := b / blocksPerChunk
			op.crcs[i] = p.img.blockCRC(b)
			op.vers[r] = p.ver[r]
			off := s.blockAddr(p.img.chunk(r), b)
			if off != next {
				op.addIO(i)
				op.ios[len(op.ios)-1].io.Off = off
			}
			op.ios[len(op.ios)-1].blocks++
			next = off + BlockBytes
		}
	}
	if len(op.ios) == 0 && len(op.runs) == 0 {
		s.end(t, op, nil, nil)
		return
	}
	// op.ios no longer moves: now it may be pointed into.
	op.pending.Store(int32(len(op.ios)) + 1)
	for k := range op.ios {
		x := &op.ios[k]
		n := x.blocks * BlockBytes
		var aligned bool
		x.segs, aligned = sgSlice(x.segs[:0], op.Data, x.index*BlockBytes, n)
		if !aligned {
			x.copied = s.bounceGet(n)
			x.segs = append(x.segs[:0], (*x.copied)[:n])
		}
		x.io.Op, x.io.Bufs, x.io.Tag, x.io.Done, x.io.Err = disk.Read, x.segs, x, readDone, nil
		x.io.Dsync = false
		t.ios = append(t.ios, &x.io)
	}
	t.zero.push(op)
}

// readVersions fills op.Vers, if the caller wants them.
func (op *Op) readVersions() {
	r := op.first / blocksPerChunk
	for i := range op.Vers {
		op.Vers[i] = op.page.img.version(r + i)
	}
}

// addIO appends an IO that starts at block index, reusing what the op has.
func (op *Op) addIO(index int) {
	n := len(op.ios)
	if n < cap(op.ios) {
		op.ios = op.ios[:n+1]
	} else {
		op.ios = append(op.ios, opIO{})
	}
	x := &op.ios[n]
	x.op, x.index, x.blocks, x.copied = op, index, 0, nil
}

func (s *Store) blockAddr(chunk uint32, b int) int64 {
	return s.sb.dataOff + int64(chunk)*ChunkBytes + int64(b%blocksPerChunk)*BlockBytes
}

func (s *Store) fillHoles(t *turn, op *Op) {
	for _, r := range op.runs {
		sgZero(op.Data, r.index*BlockBytes, r.blocks*BlockBytes)
	}
	if op.pending.Add(-1) == 0 {
		s.readEnd(t, op)
	}
}

func readDone(io *disk.IO) {
	x := io.Tag.(*opIO)
	op := x.op
	s := op.s
	if io.Err != nil {
		op.badIO.Store(io)
		op.bad.CompareAndSwap(0, int32(x.index)+1)
	} else {
		if x.copied != nil {
			sgCopyIn(op.Data, x.index*BlockBytes, x.segs[0])
		}
		for i := range x.blocks {
			if sgCRC(op.Data, (x.index+i)*BlockBytes, BlockBytes) != op.crcs[x.index+i] {
				op.noteBad(x.index + i)
				break
			}
		}
	}
	if x.copied != nil {
		s.bouncePut(x.copied)
		x.copied = nil
	}
	if op.pending.Add(-1) != 0 {
		return
	}
	if op.bad.Load() != 0 {
		t := s.newTurn()
		s.readEnd(t, op)
		s.run(t)
		return
	}
	// The common end takes no lock. What the op holds is given back first and
	// only then is it looked at who waits: a waiter announces itself first and
	// then looks again, so one of the two sees the other.
	s.stats.readBytes.Add(int64(op.Len))
	op.page.pins.Add(-1)
	op.page = nil
	op.admitted = false
	s.readsDone.Add(1)
	if s.pageWaiters.Load() != 0 || s.closing.Load() {
		t := s.newTurn()
		s.mu.Lock()
		s.kick(t)
		s.mu.Unlock()
		s.run(t)
	}
	op.Done(op)
}

// noteBad remembers the first bad block of the op.
func (op *Op) noteBad(i int) {
	for {
		old := op.bad.Load()
		if old != 0 && int(old) <= i+1 || op.bad.CompareAndSwap(old, int32(i)+1) {
			return
		}
	}
}

// readEnd ends a read whose IOs are all done, or starts it again.
func (s *Store) readEnd(t *turn, op *Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.kick(t)
	bad := int(op.bad.Load()) - 1
	if bad < 0 {
		s.stats.readBytes.Add(int64(op.Len))
		s.end(t, op, nil, nil)
		return
	}
	p, r := op.page, (op.first+bad)/blocksPerChunk
	op.ErrOff = op.Off + int64(bad)*BlockBytes
	if io := op.badIO.Load(); io != nil {
		s.stats.badBlocks.Add(1)
		kind := blockdev.ErrMedium
		if errors.Is(io.Err, disk.ErrGone) || errors.Is(io.Err, disk.ErrClosed) {
			kind = blockdev.ErrGone
		}
		s.end(t, op, kind, io.Err)
		return
	}
	if op.vers[r] != p.ver[r] {
		if op.retries++; op.retries > retriesMax {
			s.end(t, op, blockdev.ErrBusy, fmt.Errorf("the range was rewritten %d times while it was read", op.retries))
			return
		}
		s.startRead(t, op)
		return
	}
	s.stats.badBlocks.Add(1)
	s.end(t, op, blockdev.ErrMedium, fmt.Errorf("%w: block at %d of the disk fails its checksum %08x",
		ErrCorrupt, s.blockAddr(p.img.chunk(r), op.first+bad), op.crcs[bad]))
}

package store

import (
	"encoding/binary"
	"fmt"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
)

// logState is the write-ahead log: a ring of blocks, addressed by positions that
// only grow (position modulo size is the place). Batches never wrap: one that
// does not fit before the end starts at place 0.
//
// One batch is in flight at a time; ops that come meanwhile form the next. So a
// batch that fails its check during recovery is the last one that was started,
// or the log is damaged: a later whole batch tells (invariant 6).
type logState struct {
	size    int64
	tail    int64 // start of what a recovery needs
	applied int64 // end of what is durable and applied
	seq     uint64
	busy    bool
	full    bool // the next batch waits for a checkpoint

	head  []byte // header blocks of the batch in flight
	segs  [][]byte
	io    disk.IO
	end   int64 // position after the batch in flight
	batch opList
}

func (l *logState) used() int64 { return l.applied - l.tail }

// place says where a batch of n bytes goes: its position, and whether there is
// room.
func (l *logState) place(n int64) (int64, bool) {
	pos := l.applied
	if at := pos % l.size; at+n > l.size {
		pos += l.size - at
	}
	return pos, pos+n-l.tail <= l.size
}

// putRecords encodes the records of op's round at p and returns their size.
func (op *Op) putRecords(p []byte) int {
	first := int(op.Off%ExtentBytes/SpanBytes) * blocksPerPage // of the page, in the extent
	first += op.first
	vol, ext := op.Vol.id, op.extent()
	note, flags := op.noteBytes(), edges(0) // of every record, and of the last one
	if op.Note != nil && !op.Note.Exact {
		flags = flagHigher
	}
	switch {
	case op.Kind == opDrop:
		putRecord(p, recDrop, 0, vol, ext, 0, 0, op.Ver, 0)
		return recordHeader
	case op.Kind == opForget:
		putRecord(p, recDrop, 0, vol, notesExtent, 0, 0, op.Ver, 0)
		return recordHeader
	case op.Kind == OpNote || op.bare:
		op.putNote(putRecord(p, recNote, flagNote, vol, notesExtent, 0, 0, op.noteVer(), note))
		return recordHeader + note
	case op.Kind == OpClear || op.Kind == OpZero:
		typ := byte(recClear)
		if op.Kind == OpZero {
			typ = recZero
		}
		if op.Note == nil {
			putRecord(p, typ, 0, vol, ext, first, op.n, op.Ver, 0)
			return recordHeader
		}
		op.putNote(putRecord(p, typ, flags|flagNote, vol, ext, first, op.n, op.Ver, note))
		return recordHeader + note
	}
	edges := func(i, j int) edges {
		if !op.s.mu.logEdges || op.s.opts.breakage.noEdges { // nothing is poisoned: a program that does not know the field may read the log
			return 0
		}
		return op.edges(i, j)
	}
	if op.Kind == OpPoison {
		putRecord(p, recPoison, edges(0, op.n), vol, ext, first, op.n, op.Ver, 0)
		return recordHeader
	}
	le := binary.LittleEndian
	size, c := 0, 0
	put := func(typ byte, i, j, payload int) []byte {
		f, extra := edges(i, j)|flags, 0
		if j == op.n && op.Note != nil {
			f, extra = f|flagNote, note
		}
		q := putRecord(p[size:], typ, f, vol, ext, first+i, j-i, op.Ver, payload+extra)
		size += recordHeader + len(q)
		if extra != 0 {
			op.putNote(q[payload:])
		}
		return q
	}
	for i := op.pos; i < op.end; {
		j := i
		if op.whole((op.first + i) / blocksPerChunk) {
			for j < op.end && op.whole((op.first+j)/blocksPerChunk) {
				j += blocksPerChunk
			}
			q := put(recRemap, i, j, (j-i)/blocksPerChunk*remapBytes)
			for ; i < j; c++ {
				le.PutUint32(q, op.chunks[c])
				q = q[4:]
				for range blocksPerChunk {
					le.PutUint32(q, op.crcs[i])
					q = q[4:]
					i++
				}
			}
			continue
		}
		for j < op.end && !op.whole((op.first+j)/blocksPerChunk) {
			j++
		}
		q := put(recWrite, i, j, 4*(j-i))
		for ; i < j; i++ {
			le.PutUint32(q, op.crcs[i])
			q = q[4:]
		}
	}
	return size
}

// batchBytes is the size of a batch with that many bytes of records and blocks.
func batchBytes(rec, data int) int64 {
	return int64((batchHeader+rec+BlockBytes-1)/BlockBytes+data) * BlockBytes
}

// startBatch puts as many queued ops as fit into one batch and writes it.
func (s *Store) startBatch(t *turn) {
	l := &s.mu.lg
	if l.busy || s.mu.logq.empty() || s.mu.state != StateOnline {
		return
	}
	l.segs = append(l.segs[:0], nil)
	rec, records, data := 0, 0, 0
	for op := s.mu.logq.head; op != nil; op = s.mu.logq.head {
		if rec+maxRecordBytes+op.noteBytes() > maxHeadBlocks*BlockBytes-batchHeader ||
			records > 0 && data+len(op.blockBufs) > s.opts.BatchBlocks {
			break
		}
		n := op.putRecords(l.head[batchHeader+rec:])
		if _, ok := l.place(batchBytes(rec+n, data+len(op.blockBufs))); !ok {
			break
		}
		rec += n
		records += op.records()
		data += len(op.blockBufs)
		for _, b := range op.blockBufs {
			l.segs = append(l.segs, s.mu.bufs.bytes(b))
		}
		l.batch.push(s.mu.logq.pop())
	}
	l.full = records == 0
	if l.full {
		return
	}
	size := batchBytes(rec, data)
	pos, _ := l.place(size)
	head := int(size/BlockBytes) - data
	sealBatch(l.head, s.sb.uuid, batchInfo{
		headBlocks: head, records: records, recordBytes: rec, dataBlocks: data,
		incarnation: s.sb.incarnation, seq: l.seq, generation: s.sb.generation,
	})
	l.segs[0] = l.head[:head*BlockBytes]
	l.end, l.busy = pos+size, true
	l.io = disk.IO{Op: disk.Write, Dsync: !s.opts.breakage.noDsync, Off: s.sb.logOff + pos%l.size, Bufs: l.segs, Done: s.onBatch, Internal: l.io.Internal}
	t.ios = append(t.ios, &l.io)
	s.stats.batches.Add(1)
	s.stats.logBytes.Add(size)
}

// records counts the records that putRecords writes.
func (op *Op) records() int {
	if op.Kind != OpWrite {
		return 1
	}
	n, was := 0, -1
	r0, r1 := op.regions(op.pos, op.end)
	for r := r0; r <= r1; r++ {
		is := 0
		if op.whole(r) {
			is = 1
		}
		if is != was {
			n++
		}
		was = is
	}
	return n
}

func (s *Store) batchDone(io *disk.IO) {
	t := s.newTurn()
	s.mu.Lock()
	l := &s.mu.lg
	l.busy = false
	if io.Err != nil {
		s.failLocked(t, fmt.Errorf("write to the log: %w", io.Err))
		for op := l.batch.pop(); op != nil; op = l.batch.pop() {
			s.endWrite(t, op, blockdev.ErrIO, s.mu.failure)
		}
	} else {
		l.applied = l.end
		l.seq++
		for op := l.batch.pop(); op != nil; op = l.batch.pop() {
			if s.apply(t, op) {
				s.end(t, op, nil, nil)
			} else if s.writable(t, op) {
				s.nextRound(t, op)
			}
		}
	}
	s.kick(t)
	s.mu.Unlock()
	s.run(t)
}

// kick starts whatever can go on after a change. Every entry calls it last.
func (s *Store) kick(t *turn) {
	s.wakeShort(t)
	for op := s.mu.waitBufs.head; op != nil; op = s.mu.waitBufs.head {
		if len(s.mu.bufs.free) < op.inLog() {
			break
		}
		s.tryBufs(t, s.mu.waitBufs.pop())
	}
	for n := s.pageWaiters.Load(); n > 0 && s.room(); n-- {
		op := s.mu.waitPages.pop()
		s.pageWaiters.Add(-1)
		s.admit(t, op)
	}
	s.startSync(t)
	s.startBatch(t)
	if s.mu.ck.phase <= ckRoots {
		s.checkpointNext(t)
	}
	s.maybeCheckpoint(t)
	if s.mu.closing != nil && !s.mu.idle && s.isIdle() {
		s.mu.idle = true
		t.idle = s.mu.closing
	}
}

// isIdle tells whether a closing store has nothing left to do.
func (s *Store) isIdle() bool {
	l := &s.mu.lg
	if s.mu.inflight != s.readsDone.Load() || l.busy || s.mu.syncBusy || s.mu.ck.running {
		return false
	}
	return s.mu.state != StateOnline || s.mu.cleaned && l.used() == 0 && len(s.mu.pages.dirty) == 0
}

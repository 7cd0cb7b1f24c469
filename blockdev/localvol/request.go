package localvol

import (
	"bytes"
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/rangelock"
	"blockd.dev/blockdev/store"
)

// request is a blockdev.Request on its way. It goes through steps; each step is
// a set of store ops, and next decides what follows when all of them are done.
//
//	lock -> [read edges or all] -> [compare] -> write or clear -> unlock, Done
type request struct {
	v    *Volume
	r    *blockdev.Request
	lock rangelock.Lock
	held bool
	step step

	// [off, off+n) is the request's range widened to whole blocks; the request
	// begins head bytes after off and ends tail bytes before its end.
	off        int64
	n          int64
	head, tail int

	ops     []store.Op
	nops    int
	pending atomic.Int32
	failed  atomic.Pointer[store.Op]

	edges [2][]byte // the blocks at both ends, for read-modify-write
	marks [2]byte   // their poisoned sectors
	old   []byte    // compare-and-write: what is there
	segs  [][]byte
}

type step uint8

const (
	stepBegin   step = iota
	stepEdges        // reading the blocks at the ends
	stepLast         // the last ops are under way
	stepCompare      // reading what is there
)

var requests = sync.Pool{New: func() any {
	q := &request{}
	q.lock.Owner = q
	return q
}}

// opBatch collects the ops that one Submit or callback starts.
type opBatch struct{ ops []*store.Op }

var batches = sync.Pool{New: func() any { return &opBatch{} }}

// Submit starts every request of the batch.
func (v *Volume) Submit(batch []*blockdev.Request) {
	b := batches.Get().(*opBatch)
	for _, r := range batch {
		v.start(b, r)
	}
	v.flush(b)
}

// flush submits what b collected and gives b back.
func (v *Volume) flush(b *opBatch) {
	if len(b.ops) > 0 {
		v.s.Submit(b.ops)
		clear(b.ops)
		b.ops = b.ops[:0]
	}
	batches.Put(b)
}

func (v *Volume) start(b *opBatch, r *blockdev.Request) {
	if !v.enter() {
		blockdev.Complete(r, blockdev.NewError(blockdev.ErrGone, r, -1, store.ErrClosed))
		return
	}
	g := v.geometry.Load()
	err := blockdev.Validate(*g, r)
	if err != nil || r.Op == blockdev.OpFlush || r.Length == 0 {
		// Every write that is done is durable: a flush has nothing to wait for.
		v.leave()
		blockdev.Complete(r, err)
		return
	}
	q := requests.Get().(*request)
	q.lock.Granted = lockGranted
	q.v, q.r, q.held, q.step, q.nops = v, r, false, stepBegin, 0
	q.failed.Store(nil)
	q.off = r.Offset / blockBytes * blockBytes
	end := (r.Offset + r.Length + blockBytes - 1) / blockBytes * blockBytes
	q.n = end - q.off
	q.head, q.tail = int(r.Offset-q.off), int(end-r.Offset-r.Length)

	q.lock.Mode = rangelock.Shared
	switch r.Op {
	case blockdev.OpRead:
		if q.off/store.SpanBytes == (end-1)/store.SpanBytes {
			q.next(b) // one store op: it sees one instant
			return
		}
	case blockdev.OpCompareAndWrite:
		q.lock.Mode = rangelock.Exclusive
	default:
		if q.head != 0 || q.tail != 0 {
			q.lock.Mode = rangelock.Exclusive
		}
	}
	q.lock.Off, q.lock.Len, q.held = q.off, q.n, true
	if v.locks.Acquire(&q.lock) {
		// A shrink may have passed between the look at the size and the lock.
		q.locked(b)
	}
}

// lockGranted goes on with a request that had to wait for its range.
func lockGranted(l *rangelock.Lock) {
	q := l.Owner.(*request)
	v, b := q.v, batches.Get().(*opBatch)
	q.locked(b)
	v.flush(b)
}

func (q *request) locked(b *opBatch) {
	if err := blockdev.Validate(*q.v.geometry.Load(), q.r); err != nil {
		q.finish(err)
		return
	}
	q.next(b)
}

// next starts the step that follows the one that is done.
func (q *request) next(b *opBatch) {
	r := q.r
	switch q.step {
	case stepBegin:
		switch {
		case r.Op == blockdev.OpCompareAndWrite:
			q.step = stepCompare
			if int64(cap(q.old)) < q.n {
				q.old = disk.NewAligned(int(q.n))
			}
			q.old = q.old[:q.n]
			q.segs = append(q.segs[:0], q.old)
			q.add(store.OpRead, q.off, q.n)
		case r.Op == blockdev.OpRead:
			q.step = stepLast
			q.readOps()
		case r.Op == blockdev.OpPoison:
			q.step = stepLast
			q.segs = q.segs[:0]
			q.add(store.OpPoison, q.off, q.n)
		case q.head != 0 || q.tail != 0:
			q.step = stepEdges
			q.readEdges()
		default:
			q.step = stepLast
			q.writeOps()
		}
	case stepEdges:
		q.step = stepLast
		i := 0
		if q.head != 0 {
			q.marks[0], i = q.ops[0].Poison, 1
		}
		if q.tail != 0 && (q.head == 0 || q.n > blockBytes) {
			q.marks[1] = q.ops[i].Poison
		}
		q.writeOps()
	case stepCompare:
		if i := miscompare(r.Data, q.old[q.head:q.head+int(r.Length)]); i >= 0 {
			q.finish(blockdev.NewError(blockdev.ErrMiscompare, r, r.Offset+int64(i), nil))
			return
		}
		q.step = stepLast
		q.segs = append(q.segs[:0], q.old[:q.head])
		q.segs = appendFrom(q.segs, r.Data, int(r.Length))
		q.segs = append(q.segs, q.old[len(q.old)-q.tail:])
		q.add(store.OpWrite, q.off, q.n)
	case stepLast:
		q.finish(nil)
		return
	}
	if q.nops == 0 {
		q.finish(nil) // zeroes over zeroes
		return
	}
	q.submit(b)
}

// edge returns scratch memory of one block.
func (q *request) edge(i int) []byte {
	if q.edges[i] == nil {
		q.edges[i] = disk.NewAligned(blockBytes)
	}
	return q.edges[i]
}

// readOps reads whole blocks; what surrounds the request goes to scratch memory.
func (q *request) readOps() {
	if q.head == 0 && q.tail == 0 {
		q.segs = append(q.segs[:0], q.r.Data...)
	} else {
		q.segs = append(q.segs[:0], q.edge(0)[:q.head])
		q.segs = append(q.segs, q.r.Data...)
		q.segs = append(q.segs, q.edge(1)[:q.tail])
	}
	q.add(store.OpRead, q.off, q.n)
}

// readEdges reads what stands around the request, poisoned or not: it stays so.
func (q *request) readEdges() {
	last := q.off + q.n - blockBytes
	q.segs = q.segs[:0]
	if q.head != 0 {
		q.segs = append(q.segs, q.edge(0))
		q.addOp(store.OpRead, q.off, blockBytes, q.segs[len(q.segs)-1:]).Raw = true
	}
	if q.tail != 0 && (q.head == 0 || last != q.off) {
		q.segs = append(q.segs, q.edge(1))
		q.addOp(store.OpRead, last, blockBytes, q.segs[len(q.segs)-1:]).Raw = true
	}
}

// writeOps makes the last step of a write, unmap or write-zeroes.
func (q *request) writeOps() {
	r := q.r
	tail := q.edges[1]
	if q.n == blockBytes && q.head != 0 {
		tail = q.edges[0]
	}
	if r.Op == blockdev.OpWrite {
		if q.head == 0 && q.tail == 0 {
			q.segs = append(q.segs[:0], r.Data...)
		} else {
			q.segs = q.segs[:0]
			if q.head != 0 {
				q.segs = append(q.segs, q.edges[0][:q.head])
			}
			q.segs = append(q.segs, r.Data...)
			if q.tail != 0 {
				q.segs = append(q.segs, tail[blockBytes-q.tail:])
			}
		}
		q.add(store.OpWrite, q.off, q.n)
		return
	}
	kind := store.OpClear
	if r.Op == blockdev.OpWriteZeroes && r.NoUnmap {
		kind = store.OpZero
	}
	// Blocks at the edges keep a part of what they hold and are written; the
	// whole ones between are cleared.
	off, n := q.off, q.n
	q.segs = q.segs[:0]
	if n == blockBytes && (q.head != 0 || q.tail != 0) {
		i := 0
		if q.head == 0 {
			i = 1
		}
		q.zeroEdge(off, i, q.head, q.tail)
		return
	}
	if q.head != 0 {
		q.zeroEdge(off, 0, q.head, 0)
		off += blockBytes
		n -= blockBytes
	}
	if q.tail != 0 {
		q.zeroEdge(off+n-blockBytes, 1, 0, q.tail)
		n -= blockBytes
	}
	for n > 0 {
		k := min(n, store.SpanBytes-off%store.SpanBytes)
		q.addOp(kind, off, k, nil)
		off += k
		n -= k
	}
}

// zeroEdge zeroes edge i, the block at off, but for head bytes at its start and
// tail bytes at its end, unless it is zero already: a hole stays one, and takes no
// space.
func (q *request) zeroEdge(off int64, i, head, tail int) {
	block := q.edges[i]
	part := block[head : blockBytes-tail]
	if q.marks[i] == 0 && bytes.Count(part, zeroByte) == len(part) {
		return
	}
	clear(part)
	q.segs = append(q.segs, block)
	op := q.addOp(store.OpWrite, off, blockBytes, q.segs[len(q.segs)-1:])
	op.Head, op.Tail = head, tail
}

var zeroByte = []byte{0}

// add cuts the range of the request, [off, off+n), whose memory is q.segs, at span
// boundaries.
func (q *request) add(kind store.OpKind, off, n int64) {
	if off%store.SpanBytes+n <= store.SpanBytes {
		op := q.addOp(kind, off, n, q.segs)
		op.Head, op.Tail = q.head, q.tail
		return
	}
	// The pieces' lists are appended behind the whole one; those made before the
	// slice grows keep the old array, which is fine: nothing is written to it.
	whole := len(q.segs)
	for at := int64(0); at < n; {
		k := min(n-at, store.SpanBytes-(off+at)%store.SpanBytes)
		start := len(q.segs)
		q.segs = appendRange(q.segs, q.segs[:whole], int(at), int(k))
		op := q.addOp(kind, off+at, k, q.segs[start:])
		if at == 0 {
			op.Head = q.head
		}
		if at += k; at == n {
			op.Tail = q.tail
		}
	}
}

// addOp appends an op of whole blocks. It is valid until the next is appended.
func (q *request) addOp(kind store.OpKind, off, n int64, data [][]byte) *store.Op {
	if q.nops == len(q.ops) {
		// Ops are not copied once used: they hold memory of their own.
		old := q.ops
		q.ops = make([]store.Op, max(1, 2*len(old)))
		for i := range old {
			q.ops[i].Kind, q.ops[i].Off, q.ops[i].Len, q.ops[i].Data = old[i].Kind, old[i].Off, old[i].Len, old[i].Data
			q.ops[i].Head, q.ops[i].Tail, q.ops[i].Raw = old[i].Head, old[i].Tail, old[i].Raw
		}
	}
	op := &q.ops[q.nops]
	q.nops++
	op.Kind, op.Off, op.Len, op.Data = kind, off, int(n), data
	op.Head, op.Tail, op.Raw = 0, 0, false
	return op
}

// submit hands the ops of the step to the store.
func (q *request) submit(b *opBatch) {
	q.pending.Store(int32(q.nops))
	for i := range q.nops {
		op := &q.ops[i]
		op.Vol, op.Tag, op.Done = q.v.vol, q, opDone
		if op.Kind != store.OpRead {
			op.Ver = store.Version{Epoch: 1, Seq: q.v.s.NextSeq()}
		}
		b.ops = append(b.ops, op)
	}
	q.nops = 0
}

func opDone(op *store.Op) {
	q := op.Tag.(*request)
	if op.Err != nil {
		q.failed.CompareAndSwap(nil, op)
	}
	if q.pending.Add(-1) != 0 {
		return
	}
	if bad := q.failed.Load(); bad != nil {
		off := max(bad.ErrOff, q.r.Offset)
		if off >= q.r.Offset+q.r.Length {
			off = q.r.Offset
		}
		q.finish(blockdev.NewError(kindOf(bad), q.r, off, bad.Cause))
		return
	}
	if q.step == stepLast {
		q.finish(nil)
		return
	}
	v, b := q.v, batches.Get().(*opBatch)
	q.next(b)
	v.flush(b)
}

// finish ends the request: lock first, so that a Done which submits again does
// not meet its own lock.
func (q *request) finish(err error) {
	v, r := q.v, q.r
	if q.held {
		q.held = false
		v.locks.Release(&q.lock)
	}
	clear(q.segs)
	q.segs = q.segs[:0]
	for i := range q.ops {
		q.ops[i].Data = nil
	}
	if cap(q.old) > store.ChunkBytes {
		q.old = nil
	}
	q.v, q.r = nil, nil
	requests.Put(q)
	v.leave()
	blockdev.Complete(r, err)
}

// miscompare returns the first index where data, a list of segments, differs
// from want, or -1.
func miscompare(data [][]byte, want []byte) int {
	at := 0
	for _, p := range data {
		n := min(len(p), len(want)-at)
		for i := range n {
			if p[i] != want[at+i] {
				return at + i
			}
		}
		if at += n; at == len(want) {
			break
		}
	}
	return -1
}

// appendFrom appends what follows the first off bytes of data.
func appendFrom(dst, data [][]byte, off int) [][]byte {
	for _, p := range data {
		if off >= len(p) {
			off -= len(p)
			continue
		}
		dst = append(dst, p[off:])
		off = 0
	}
	return dst
}

// appendRange appends the segments that cover [off, off+n) of data.
func appendRange(dst, data [][]byte, off, n int) [][]byte {
	for _, p := range data {
		if n == 0 {
			break
		}
		if off >= len(p) {
			off -= len(p)
			continue
		}
		q := p[off:min(len(p), off+n)]
		off = 0
		n -= len(q)
		dst = append(dst, q)
	}
	return dst
}

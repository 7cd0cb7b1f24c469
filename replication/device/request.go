package device

import (
	"bytes"
	"errors"
	"sync"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/rangelock"
	"blockd.dev/internal/clock"
	"blockd.dev/replication/message"
	"blockd.dev/replication/volume"
)

// Causes of errors, and the ends that an attempt to serve a request can have.
var (
	errNobody     = errors.New("no node is known to own the volume, or it can't be reached; the host should try again")
	errClosed     = errors.New("the volume was closed on this node, or the node stops")
	errBehind     = errors.New("the volume's reservations have changed; the host should try again")
	errUnresolved = errors.New("the volume's owner changed meanwhile: the data may have been written or not")
	errNotOwner   = errors.New("this node does not own the volume")
	errLate       = errors.New("the host may have given up this path and sent the request by another since; it should try again")
	errGone       = errors.New("the connection that the request came by has ended, so it was not begun")
	errFull       = errors.New("a disk that keeps a copy of this range is full: free space on it, by unmapping data or deleting volumes")
	errInPart     = errors.New("it has failed when a part of it was done: the data may have been written in part")
	errTooFew     = errors.New("too few replicas have answered in time; the data may have been written or not")
)

// piecesMax is how many pieces of one request are under way at a time.
const piecesMax = 16

// request is a blockdev.Request on its way. Served by the owner here it goes
// through steps, each a series of pieces; what follows a step starts when all
// of its pieces are done. Of the way to an owner elsewhere see forward.go.
//
//	lock -> [read edges, or all] -> [compare] -> write, clear or read -> unlock
//
// When the owner ends before a request has, all of it is done again with the
// next one: nothing was told to the host, so nothing of it can be missing. What
// changes data is begun only until Config.Late, since the host may have given
// up this path, have sent the request by another and gone on to newer ones. A
// compare-and-write whose write was begun is not done again: it might compare
// with its own data. For the same reason the host is not told that it should send it
// again, nor anything else that says that nothing was written, when it was in part.
type request struct {
	v      *Volume
	r      *blockdev.Request
	route  *route     // by which it is being tried
	from   *source    // of another node; nil for a host of this one
	born   clock.Mono // when it came
	parked clock.Mono // when it first had to wait for an owner; 0 for never
	guard  uint64     // Config.Guard as it was submitted, here or at the node that has the host

	lock rangelock.Lock
	held bool
	seen bool // by the owner here
	step step

	// [off, off+n) is the range widened to whole blocks; the request begins head
	// bytes after off and ends tail bytes before the end.
	off, n     int64
	head, tail int64
	edges      [2]*message.Buffer // the blocks at both ends, for read-modify-write
	old        []byte             // compare-and-write: what is there
	session    uint64             // with the owner elsewhere

	mu      sync.Mutex // guards what follows: pieces end on any goroutine
	at      int64      // of the step: the next byte that no piece has yet
	begun   int        // pieces that were sent to the owner elsewhere
	pending int        // pieces under way, plus one while they are being started
	err     error      // why the step has failed: the first error
	again   bool       // pieces have ended without an answer, or were refused
	inDoubt bool       // a piece has changed something, or may have
}

type step uint8

const (
	stepBegin   step = iota
	stepEdges        // reading the blocks at the ends
	stepCompare      // reading what is there
	stepLast
	stepSend // by the owner elsewhere
)

var requests sync.Pool

func newRequest() *request {
	q, _ := requests.Get().(*request)
	if q == nil {
		q = &request{}
		q.lock.Owner = q
		q.lock.Granted = func(l *rangelock.Lock) { l.Owner.(*request).next() }
	}
	return q
}

// Submit starts every request of the batch.
func (v *Volume) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		v.submit(r, nil)
	}
}

// submit starts one request, of a host here or of another node's.
func (v *Volume) submit(r *blockdev.Request, from *source) {
	if !v.enter() {
		var err error = blockdev.NewError(blockdev.ErrGone, r, -1, errClosed)
		if from != nil {
			err = errNotOwner // elsewhere the volume is not gone
		}
		v.refuse(r, from, err)
		return
	}
	err := blockdev.Validate(*v.geometry.Load(), r)
	if err == nil && r.Op == blockdev.OpCompareAndWrite && r.Length > CompareMax {
		err = blockdev.NewError(blockdev.ErrInvalid, r, -1, errCompareMax)
	}
	if err != nil || r.Op == blockdev.OpFlush || r.Length == 0 {
		// Every write that is done is durable: a flush has nothing to wait for.
		v.leave()
		v.refuse(r, from, err)
		return
	}
	q, now := newRequest(), v.now()
	q.v, q.r, q.from, q.born, q.parked, q.inDoubt = v, r, from, now, 0, false
	if from == nil {
		q.guard = v.cfg.Guard()
	} else {
		q.guard = r.Tag.(*foreign).in.Request.Guard
	}
	q.off = r.Offset / blockBytes * blockBytes
	end := (r.Offset + r.Length + blockBytes - 1) / blockBytes * blockBytes
	q.n = end - q.off
	q.head, q.tail = r.Offset-q.off, end-r.Offset-r.Length
	if from != nil {
		q.route = from.run.route // whatever has become of it
		q.serve()
		return
	}
	if r.Since != 0 {
		q.born = r.Since
		if v.serveHeld(q, now) {
			return
		}
	}
	v.begin(q, now)
}

// serveHeld has the owner here serve a request that was held back, however long that was. The
// host may have sent it by another path meanwhile; but the copy has come to the same
// owner, and was held behind it. After a standstill the host may have had another owner.
func (v *Volume) serveHeld(q *request, now clock.Mono) bool {
	to := v.route.Load()
	if to.run == nil || q.gone() || q.born < v.cfg.Since(now) {
		return false
	}
	q.route = to
	q.serve()
	return true
}

// stale is why q may not be begun any more, by a reading of the clock; nil if it may.
func (q *request) stale(now clock.Mono) error {
	changes := q.r.Op != blockdev.OpRead
	switch {
	case q.gone():
		return errGone
	case changes && (now >= q.born.Add(q.v.cfg.Late) || q.born < q.v.cfg.Since(now)):
		return errLate
	case q.guard < q.v.cfg.Guard(): // the host may have been fenced while q waited; an owner elsewhere would refuse it too
		return errBehind
	}
	return nil
}

// gone reports whether the connection that q came by has ended.
func (q *request) gone() bool { return q.r.Gone != nil && q.r.Gone.Load() }

// moreLocked reports whether another piece may be started. It may not once the
// host is gone, nor once it may have been fenced, which is looked at for each: q may have waited for
// a lock or for its other pieces, and who has fenced the host does not wait for what a node forwards that is down.
func (q *request) moreLocked(end int64) bool {
	if q.at == end {
		return false
	}
	switch {
	case q.err != nil:
	case q.gone():
		q.err = blockdev.NewError(blockdev.ErrBusy, q.r, -1, errGone)
	case q.guard < q.v.cfg.Guard() && !q.halfDone():
		q.err = blockdev.NewError(blockdev.ErrBusy, q.r, -1, errBehind)
	}
	return q.err == nil && !q.again
}

// halfDone reports whether q is a compare-and-write of which a piece was written: its host can't be
// told that it should send it again.
func (q *request) halfDone() bool {
	return q.r.Op == blockdev.OpCompareAndWrite && q.step == stepLast && q.at > q.off
}

// refuse ends a request that has not begun.
func (v *Volume) refuse(r *blockdev.Request, from *source, err error) {
	blockdev.Complete(r, err)
	if from != nil {
		from.leave()
	}
}

// CompareMax is the longest compare-and-write, in bytes: its two halves have to
// fit into one message.
const CompareMax = message.DataMax / 2

var errCompareMax = errors.New("a compare-and-write of a replicated volume is limited to 256 KiB")

// serve begins q with the owner here.
func (q *request) serve() {
	q.step, q.held, q.seen, q.again, q.inDoubt, q.err = stepBegin, false, false, false, false, nil
	if !q.route.run.enter() {
		q.elsewhere()
		return
	}
	r := q.r
	q.lock.Mode = rangelock.Shared
	switch {
	case r.Op == blockdev.OpRead:
		if q.n <= q.pieceAt(q.off) {
			q.next() // one op of the owner: it sees one instant
			return
		}
	case r.Op == blockdev.OpCompareAndWrite, q.head != 0, q.tail != 0:
		q.lock.Mode = rangelock.Exclusive
	}
	q.lock.Off, q.lock.Len, q.held = q.off, q.n, true
	if q.v.locks.Acquire(&q.lock) {
		q.next()
	}
}

// pieceAt is how long a piece that begins at off, a volume address, may be.
func (q *request) pieceAt(off int64) int64 {
	_, _, run := (*q.v.layout.Load()).Locate(off)
	return min(run, pieceMax-off%pieceMax)
}

// next starts the step that follows the one that is done.
func (q *request) next() {
	r := q.r
	switch q.step {
	case stepBegin:
		switch {
		case r.Op == blockdev.OpCompareAndWrite:
			q.step = stepCompare
			q.old = make([]byte, q.n)
		case r.Op != blockdev.OpRead && (q.head != 0 || q.tail != 0):
			q.step = stepEdges
		default:
			q.step = stepLast
		}
	case stepCompare:
		if i := miscompare(r.Data, q.old[q.head:q.head+r.Length]); i >= 0 {
			q.end(blockdev.NewError(blockdev.ErrMiscompare, r, r.Offset+int64(i), nil))
			return
		}
		q.step = stepLast
	case stepEdges:
		q.step = stepLast
	case stepLast:
		q.end(nil)
		return
	case stepSend:
	}
	q.mu.Lock()
	q.at, q.pending = q.off, 1
	q.mu.Unlock()
	q.feed(1)
}

// feed starts pieces of the step until enough are under way or there are none
// left; done is how many have just ended, and starting them counts as one.
func (q *request) feed(done int) {
	for {
		q.mu.Lock()
		if q.pending-done >= piecesMax || !q.moreLocked(q.off+q.n) {
			q.pending -= done
			over := q.pending == 0
			q.mu.Unlock()
			if over {
				q.stepDone()
			}
			return
		}
		q.pending++
		at := q.at
		n := min(q.off+q.n-at, q.pieceAt(at))
		switch {
		case q.step == stepEdges:
			at, n = q.nextEdge(at)
		case q.clears():
			n = q.clearedAt(at, n)
		}
		q.at = at + n
		q.mu.Unlock()
		if n == 0 {
			done++ // there was no other edge
			continue
		}
		q.start(at, n)
	}
}

// nextEdge is the block at an end of the range, from at on, that has to be read.
func (q *request) nextEdge(at int64) (int64, int64) {
	last := q.off + q.n - blockBytes
	switch {
	case at == q.off && q.head != 0, at == q.off && q.n == blockBytes:
		return at, blockBytes
	case at <= last && q.tail != 0:
		return last, blockBytes
	}
	return q.off + q.n, 0
}

func (q *request) clears() bool {
	return q.r.Op == blockdev.OpUnmap || q.r.Op == blockdev.OpWriteZeroes
}

// clearedAt cuts the piece of n bytes at at so that blocks which keep a part of
// what they hold are on their own: they are written, the others need not be.
func (q *request) clearedAt(at, n int64) int64 {
	last := q.off + q.n - blockBytes
	switch {
	case at == q.off && q.head != 0:
		return blockBytes
	case at < last && q.tail != 0:
		return min(n, last-at)
	}
	return n
}

// start hands the piece [at, at+n) of the volume to the owner.
func (q *request) start(at, n int64) {
	p := newPiece()
	p.q, p.off, p.len, p.buf = q, at, n, nil
	extent, offset, _ := (*q.v.layout.Load()).Locate(at)
	p.op = volume.Op{Off: int64(extent)*extentBytes + offset, Tag: p, Gone: q.r.Gone}
	switch {
	case q.step == stepEdges:
		p.read()
		p.edge = 0
		if at != q.off || q.head == 0 {
			p.edge = 1
		}
	case q.step == stepCompare:
		p.op.Kind, p.op.Data = volume.Read, q.old[at-q.off:at-q.off+n]
	case q.r.Op == blockdev.OpRead:
		p.fillHost()
	case q.r.Op == blockdev.OpWrite, q.r.Op == blockdev.OpCompareAndWrite:
		p.write()
	default:
		p.zero()
	}
	q.route.run.inbox.PostSoon(event{kind: evSubmit, piece: p}, q.r.Soon)
}

// stepDone goes on when no piece of the step is under way.
func (q *request) stepDone() {
	switch {
	case q.again && q.inDoubt && q.r.Op == blockdev.OpCompareAndWrite:
		q.end(blockdev.NewError(blockdev.ErrIO, q.r, -1, errUnresolved))
	case q.inDoubt && q.r.Op == blockdev.OpCompareAndWrite && q.err != nil && !errors.Is(q.err, blockdev.ErrIO):
		q.end(blockdev.NewError(blockdev.ErrIO, q.r, -1, errInPart))
	case q.again:
		q.retry()
	case q.err != nil:
		q.end(q.err)
	default:
		q.next()
	}
}

// release gives back what an attempt with the owner here has taken.
func (q *request) release() {
	if q.held {
		q.held = false
		q.v.locks.Release(&q.lock)
	}
	for i, e := range q.edges {
		if e != nil {
			e.Release()
			q.edges[i] = nil
		}
	}
	q.old = nil
}

// retry does q again from its beginning, with the next owner. One of another
// node goes back there: only the node that has the host decides what becomes of
// its requests, so that none is done after that node gave up on it.
func (q *request) retry() {
	run := q.route.run
	q.release()
	run.leave()
	q.elsewhere()
}

func (q *request) elsewhere() {
	switch {
	case q.from != nil && q.inDoubt:
		q.finish(errUnresolved)
	case q.from != nil:
		q.finish(errNotOwner)
	default:
		q.v.park(q)
	}
}

// end is the end of q with the owner here.
func (q *request) end(err error) {
	run := q.route.run
	q.release() // before Done, which may submit to the same range
	run.leave()
	q.finish(err)
}

// finish ends q.
func (q *request) finish(err error) {
	v, r, from := q.v, q.r, q.from
	q.forget()
	v.refuse(r, from, err)
}

// forget gives q back. Its request may not have ended.
func (q *request) forget() {
	v := q.v
	q.v, q.r, q.route, q.from = nil, nil, nil, nil
	requests.Put(q)
	v.leave()
}

// miscompare returns the first index where data, a list of segments, differs
// from want, or -1.
func miscompare(data [][]byte, want []byte) int {
	at := 0
	for _, p := range data {
		n := min(len(p), len(want)-at)
		if !bytes.Equal(p[:n], want[at:at+n]) {
			for i := range n {
				if p[i] != want[at+i] {
					return at + i
				}
			}
		}
		at += n
	}
	return -1
}

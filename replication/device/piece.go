package device

import (
	"errors"
	"sync"

	"blockd.dev/blockdev"
	"blockd.dev/replication/message"
	"blockd.dev/replication/volume"
)

// piece is the part of a request that one op of the owner, or one message to
// the owner elsewhere, is about. It lies within one run of the layout.
type piece struct {
	q        *request
	off, len int64 // in the volume
	edge     int   // of stepEdges: which

	op  volume.Op
	buf *message.Buffer // what op.Data is, unless that is the host's memory

	forward message.Forwarded // to the owner elsewhere
	session *forwarder        // if forward begins a session: whose
	stale   error             // why forward was not sent
	begun   bool              // it was about to be: it counts in request.begun
}

var pieces sync.Pool

func newPiece() *piece {
	p, _ := pieces.Get().(*piece)
	if p == nil {
		p = &piece{}
		p.forward.Tag, p.forward.Done = p, forwarded
	}
	return p
}

// buffer gives the op memory of its own.
func (p *piece) buffer() []byte {
	p.buf = message.GetBuffer(int(p.len))
	p.op.Data = p.buf.Bytes()
	return p.op.Data
}

func (p *piece) read() {
	p.op.Kind = volume.Read
	p.buffer()
}

// fillHost reads into the host's memory if it is in one piece there. The owner
// copies to it before Complete, and never after.
func (p *piece) fillHost() {
	p.op.Kind = volume.Read
	if whole := p.hostWhole(); whole != nil {
		p.op.Data = whole
		return
	}
	p.buffer()
}

// host returns where in the request's data, and in the piece, the part of the
// piece is that the host has asked for.
func (p *piece) host() (dataOff, pieceOff, n int64) {
	r := p.q.r
	from := max(p.off, r.Offset)
	to := min(p.off+p.len, r.Offset+r.Length)
	return from - r.Offset, from - p.off, to - from
}

// hostWhole is the piece's part of the host's memory if that is contiguous and
// whole blocks, else nil.
func (p *piece) hostWhole() []byte {
	at, _, n := p.host()
	if n != p.len {
		return nil
	}
	return contiguous(p.q.r.Data, at, n)
}

// contiguous returns n bytes from off of data on if they are in one segment.
func contiguous(data [][]byte, off, n int64) []byte {
	for _, s := range data {
		if off < int64(len(s)) {
			if off+n > int64(len(s)) {
				return nil
			}
			return s[off : off+n]
		}
		off -= int64(len(s))
	}
	return nil
}

// write copies what is to be written, once: the host may have its memory back
// while replicas are still being sent to. What surrounds it in its blocks is
// what was read before.
func (p *piece) write() {
	q := p.q
	p.op.Kind = volume.Write
	data := p.buffer()
	at, start, n := p.host()
	if q.r.Op == blockdev.OpCompareAndWrite {
		copy(data, q.old[p.off-q.off:])
		copyOut(data[start:start+n], q.r.Data, q.r.Length+at)
		return
	}
	p.keepEdges(data)
	copyOut(data[start:start+n], q.r.Data, at)
}

// keepEdges fills in what the request leaves alone in the blocks at its ends.
func (p *piece) keepEdges(data []byte) {
	q := p.q
	if q.head != 0 && p.off == q.off {
		copy(data[:q.head], q.edges[0].Bytes())
	}
	if q.tail != 0 && p.off+p.len == q.off+q.n {
		edge := q.edges[1]
		if edge == nil { // there is but one block
			edge = q.edges[0]
		}
		copy(data[p.len-q.tail:], edge.Bytes()[blockBytes-q.tail:])
	}
}

// zero makes a hole, or zeroes that keep their space; where blocks are kept in
// part, zeroes are written.
func (p *piece) zero() {
	if _, _, n := p.host(); n != p.len {
		p.op.Kind = volume.Write
		data := p.buffer()
		clear(data)
		p.keepEdges(data)
		return
	}
	p.op.Kind, p.op.Len = volume.Unmap, p.len
	if p.q.r.Op == blockdev.OpWriteZeroes && p.q.r.NoUnmap {
		p.op.Kind = volume.WriteZeroes
	}
}

// completed takes the op back from the owner.
func (p *piece) completed() {
	q := p.q
	var err error
	again, inDoubt := false, p.op.Sent
	switch opErr := p.op.Err; {
	case opErr == nil:
		inDoubt = p.op.Kind != volume.Read // though that one has been done
		p.deliver()
	case errors.Is(opErr, volume.ErrNotOwner):
		again = true
	case errors.Is(opErr, volume.ErrMedium):
		err = blockdev.NewError(blockdev.ErrMedium, q.r, max(p.off, q.r.Offset), opErr)
	case errors.Is(opErr, volume.ErrNoSpace):
		inDoubt = false // it is undone
		err = blockdev.NewError(blockdev.ErrNoSpace, q.r, max(p.off, q.r.Offset), errFull)
	case errors.Is(opErr, volume.ErrTimeout) && p.op.Sent && q.r.Op == blockdev.OpCompareAndWrite:
		err = blockdev.NewError(blockdev.ErrIO, q.r, max(p.off, q.r.Offset), errTooFew)
	default:
		err = blockdev.NewError(blockdev.ErrBusy, q.r, max(p.off, q.r.Offset), errTooFew)
	}
	p.free()
	q.pieceDone(err, again, inDoubt)
}

// deliver brings what was read to where it belongs.
func (p *piece) deliver() {
	q := p.q
	switch {
	case p.op.Kind != volume.Read || p.buf == nil:
	case q.step == stepEdges:
		q.edges[p.edge] = p.buf
		p.buf = nil
	case q.step == stepLast:
		at, start, n := p.host()
		copyIn(q.r.Data, at, p.op.Data[start:start+n])
	}
}

// free ends the use of the piece.
func (p *piece) free() {
	if p.buf != nil {
		p.buf.Release()
	}
	p.forward.Release()
	p.forward.Stale = nil
	p.q, p.buf, p.session, p.stale, p.begun, p.op = nil, nil, nil, nil, false, volume.Op{}
	pieces.Put(p)
}

// pieceDone counts a piece off, and starts others.
func (q *request) pieceDone(err error, again, inDoubt bool) {
	q.note(err, again, inDoubt)
	q.feed(1)
}

// note keeps what became of a piece: the first error, and whether any has to be
// done again, or may have changed something.
func (q *request) note(err error, again, inDoubt bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	q.again = q.again || again
	q.inDoubt = q.inDoubt || inDoubt
}

// copyOut fills dst from byte off of data on.
func copyOut(dst []byte, data [][]byte, off int64) {
	for _, s := range data {
		if off >= int64(len(s)) {
			off -= int64(len(s))
			continue
		}
		dst = dst[copy(dst, s[off:]):]
		off = 0
		if len(dst) == 0 {
			return
		}
	}
}

// copyIn puts src at byte off of data.
func copyIn(data [][]byte, off int64, src []byte) {
	for _, s := range data {
		if off >= int64(len(s)) {
			off -= int64(len(s))
			continue
		}
		src = src[copy(s[off:], src):]
		off = 0
		if len(src) == 0 {
			return
		}
	}
}

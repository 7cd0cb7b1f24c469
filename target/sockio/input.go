package sockio

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"
)

const (
	inputSmall = 4 << 10 // buffer of a quiet connection, in bytes
	// InputMax is the buffer of a busy connection, in bytes, and the most that
	// Need takes.
	InputMax = 64 << 10
)

// Input is how a frontend's connection receives PDUs: a buffer that fits the
// traffic, and reads past it for data that has a place of its own. It holds
// back output while what has arrived is served: every read is between an
// Uncork and a Cork of its Conn, and waits until that is not Congested. The
// methods belong to the reader, but for Received, Within and Trim, which any
// goroutine may call.
type Input struct {
	conn *Conn
	buf  []byte
	r, w int  // buf[r:w] has arrived and is not used
	full int  // reads in a row that filled the buffer
	live bool // a deadline that passes only wakes
	iov  [readIovMax][]byte

	received      atomic.Uint64
	within, large atomic.Bool
	trim          atomic.Bool // the reader is to give up the large buffer
}

// Init makes in read from c.
func (in *Input) Init(c *Conn) {
	in.conn = c
	in.buf = make([]byte, inputSmall)
}

// Live ends the time in which a read deadline of the Conn that passes is an
// error: from now on it only wakes the reader, and is gone then.
func (in *Input) Live() {
	in.live = true
	_ = in.conn.SetReadDeadline(time.Time{}) // a connection that fails tells on the next read
}

// Bytes is what has arrived and is not used, valid until the next Fill, Need
// or Into.
func (in *Input) Bytes() []byte { return in.buf[in.r:in.w] }

// Use takes n of Bytes off.
func (in *Input) Use(n int) { in.r += n }

// Received counts reads that brought something.
func (in *Input) Received() uint64 { return in.received.Load() }

// Within reports whether the reader waits for the rest of something that has
// arrived in part.
func (in *Input) Within() bool { return in.within.Load() }

// Trim makes a reader that waits give up the memory that it took for the
// traffic there was; only after Live.
func (in *Input) Trim() {
	if in.large.Load() && !in.trim.Swap(true) {
		_ = in.conn.SetReadDeadline(time.Now()) // fails only when the reader ends anyway
	}
}

// Fill waits for bytes and adds them to Bytes, which must not be as long as
// the buffer. It may return without any when the reader was woken otherwise. It
// returns io.EOF when the peer closed its side, io.ErrUnexpectedEOF when
// something had arrived in part.
func (in *Input) Fill() error { return in.fill(false) }

func (in *Input) fill(within bool) error {
	if in.r == in.w {
		in.r, in.w = 0, 0
		in.resize()
	} else if in.w == len(in.buf) {
		in.compact()
	}
	if in.w == len(in.buf) {
		return errors.New("sockio: the input buffer is full and nothing of it was used")
	}
	in.iov[0] = in.buf[in.w:]
	n, err := in.read(1, within || in.w > in.r)
	if n == len(in.buf)-in.w {
		in.full++
	} else {
		in.full = 0
	}
	in.w += n
	return err
}

// compact moves what is in the buffer to its front.
func (in *Input) compact() {
	in.w = copy(in.buf, in.buf[in.r:in.w])
	in.r = 0
}

// resize makes the empty buffer fit the traffic.
func (in *Input) resize() {
	switch {
	case in.full >= 2 && len(in.buf) < InputMax:
		in.grow()
	case in.trim.Load():
		in.trim.Store(false)
		if len(in.buf) > inputSmall {
			in.buf = make([]byte, inputSmall)
			in.large.Store(false)
		}
	}
}

// grow takes the large buffer.
func (in *Input) grow() {
	b := make([]byte, InputMax)
	in.r, in.w = 0, copy(b, in.buf[in.r:in.w])
	in.buf, in.full = b, 0
	in.large.Store(true)
}

// Need waits until Bytes has n bytes, at most InputMax, of something that has
// arrived in part. Its errors are Fill's.
func (in *Input) Need(n int) error {
	for in.w-in.r < n {
		switch {
		case n > len(in.buf):
			in.grow()
		case in.r+n > len(in.buf):
			in.compact()
		}
		if err := in.fill(true); err != nil {
			return err
		}
	}
	return nil
}

// Into receives n bytes: segs, whose elements it changes, takes the front, and
// the rest is dropped. What is not in the buffer yet is read straight into
// segs, with the buffer behind them to catch what follows. saw, unless nil, is
// called with every piece in order. Its errors are Fill's, within something.
func (in *Input) Into(segs [][]byte, n int, saw func(piece []byte)) error {
	for n > 0 {
		if in.r == in.w {
			var err error
			if len(segs) == 0 {
				err = in.fill(true)
			} else {
				segs, n, err = in.direct(segs, n, saw)
			}
			if err != nil {
				return err
			}
			continue
		}
		p := in.buf[in.r:min(in.w, in.r+n)]
		if len(segs) > 0 {
			p = p[:copy(segs[0], p)]
			segs = consume(segs, len(p))
		}
		if saw != nil {
			saw(p)
		}
		in.r += len(p)
		n -= len(p)
	}
	return nil
}

// direct reads once into segs and, behind them, the empty buffer. It returns
// what is left of segs and of n.
func (in *Input) direct(segs [][]byte, n int, saw func([]byte)) ([][]byte, int, error) {
	in.r, in.w = 0, 0
	k, total := 0, 0
	for k < len(in.iov)-1 && k < len(segs) {
		in.iov[k] = segs[k]
		total += len(segs[k])
		k++
	}
	if k == len(segs) {
		in.iov[k] = in.buf
		k++
	}
	got, err := in.read(k, true)
	if err != nil {
		return nil, 0, err
	}
	if got > total {
		in.w = got - total
		got = total
	}
	n -= got
	for got > 0 {
		m := min(got, len(segs[0]))
		if saw != nil {
			saw(segs[0][:m])
		}
		segs = consume(segs, m)
		got -= m
	}
	return segs, n, nil
}

// read sends what is queued, waits until the peer takes output, and reads into
// the first k of iov. It may return nothing when the reader was woken.
func (in *Input) read(k int, within bool) (int, error) {
	defer clear(in.iov[:k])
	in.conn.Uncork()
	if in.within.Load() != within {
		in.within.Store(within)
	}
	if in.conn.Congested() {
		in.conn.rx.leave()
		if err := in.conn.WaitRoom(); err != nil {
			return 0, err
		}
	}
	n, err := in.conn.Readv(in.iov[:k])
	switch {
	case err == nil:
		in.received.Add(1)
		in.conn.Cork()
	case in.live && errors.Is(err, os.ErrDeadlineExceeded):
		err = in.conn.SetReadDeadline(time.Time{})
	case within && errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

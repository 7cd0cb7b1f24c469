package sockio

import (
	"io"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"blockd.dev/internal/adaptive"
)

// pollsPerCheck is how many empty polls pass between looks at the clock and
// offers of the P to other goroutines.
const pollsPerCheck = 8

// reader is the receiving half of a Conn. All but the counters belong to the
// goroutine that reads.
type reader struct {
	poller adaptive.Poller

	// The arguments and results of the call in progress; tryFn is try, bound
	// once so that a read does not allocate a closure.
	bufs   [][]byte
	one    [1][]byte // Read's list of one
	n      int
	err    error
	tryFn  func(fd uintptr) bool
	idle   time.Time // when this wait began
	spun   bool      // this wait has polled already
	parked bool      // this wait has parked

	attended Attended        // nil for nothing
	answers  adaptive.Poller // of looks at it
	sent     uint64          // writes before the answer
	asked    time.Time       // when the wait for the answer began
	late     bool            // it has ended without
	got      bool            // or data came first
	onceFn   func(fd uintptr) bool

	reads, bytes atomic.Uint64
}

func (r *reader) init(cfg adaptive.Config) {
	r.poller.Init(cfg)
	cfg.Max = attendMax
	r.answers.Init(cfg)
	r.tryFn, r.onceFn = r.try, r.once
}

// Read fills p with what has arrived, waiting for at least one byte. It
// returns io.EOF when the peer closed its side.
func (c *Conn) Read(p []byte) (int, error) {
	c.rx.one[0] = p
	n, err := c.Readv(c.rx.one[:])
	c.rx.one[0] = nil
	return n, err
}

// Readv fills the buffers in order with what has arrived, waiting for at
// least one byte. Buffers beyond the first 16 are not used. It returns io.EOF
// when the peer closed its side.
func (c *Conn) Readv(bufs [][]byte) (int, error) {
	r := &c.rx
	r.bufs, r.n, r.err = bufs, 0, nil
	r.spun, r.parked, r.got = false, false, false
	var err error
	if r.attended != nil {
		err = c.attend()
	}
	if err == nil && !r.got {
		err = c.raw.Read(r.tryFn)
	}
	r.bufs = nil
	if err == nil {
		err = r.err
	}
	if err != nil {
		return 0, err
	}
	if r.n == 0 {
		return 0, io.EOF
	}
	if r.late {
		r.late = false
		r.answers.Parked(time.Since(r.asked))
	}
	r.reads.Add(1)
	r.bytes.Add(uint64(r.n))
	return r.n, nil
}

// try reads once and, when nothing is there, polls for the learned time. It
// reports false to be parked and called again when the socket is readable.
func (r *reader) try(fd uintptr) bool {
	if r.readOnce(fd) {
		if r.parked {
			r.poller.Parked(time.Since(r.idle))
		}
		return true
	}
	if r.spun {
		return false
	}
	r.spun = true
	r.idle = time.Now()
	if budget := r.poller.Begin(); budget > 0 && r.spin(fd, budget) {
		return true
	}
	r.parked = true
	return false
}

// spin polls until data comes or the budget is used up.
func (r *reader) spin(fd uintptr, budget time.Duration) bool {
	for {
		for range pollsPerCheck {
			if r.readOnce(fd) {
				r.poller.Hit(time.Since(r.idle))
				return true
			}
		}
		if gap := time.Since(r.idle); gap >= budget {
			r.poller.Miss(gap)
			return false
		}
		runtime.Gosched()
	}
}

// readOnce does one non-blocking read. It reports whether the call is over,
// with data, at the end of the stream or in error.
func (r *reader) readOnce(fd uintptr) bool {
	for {
		n, errno := readv(fd, r.bufs)
		switch errno {
		case 0:
			r.n = n
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		}
		r.err = errno
		return true
	}
}

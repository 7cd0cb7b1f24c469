package sockio

import (
	"io"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// wakeCost is what being woken from the netpoller is taken to cost: a request
// that came within the spin limit plus this after parking would have been
// caught by polling.
const wakeCost = 100 * time.Microsecond

// pollsPerCheck is how many empty polls pass between looks at the clock and
// offers of the P to other goroutines.
const pollsPerCheck = 8

// spinners counts the readers that poll right now, in the whole process.
var spinners atomic.Int32

// reader is the receiving half of a Conn. All but the counters belong to the
// goroutine that reads.
type reader struct {
	spinMax     time.Duration
	spinnersMax int32         // how many readers of the process may poll at once
	budget      time.Duration // learned: how long to poll before parking

	// The arguments and results of the call in progress; tryFn is try, bound
	// once so that a read does not allocate a closure.
	bufs    [][]byte
	one     [1][]byte // Read's list of one
	n       int
	err     error
	tryFn   func(fd uintptr) bool
	idle    time.Time // when this wait began
	spun    bool      // this wait has polled already
	waiting bool      // this wait has parked

	reads, bytes, hits, misses, parks atomic.Uint64
	spinNanos, budgetNanos            atomic.Int64
}

func (r *reader) init(spinMax time.Duration) {
	r.spinMax = max(spinMax, 0)
	r.spinnersMax = max(1, int32(runtime.GOMAXPROCS(0)/2))
	r.setBudget(r.spinMax)
	r.tryFn = r.try
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
	r.spun, r.waiting = false, false
	err := c.raw.Read(r.tryFn)
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
	r.reads.Add(1)
	r.bytes.Add(uint64(r.n))
	return r.n, nil
}

// try reads once and, when nothing is there, polls for the learned time. It
// reports false to be parked and called again when the socket is readable.
func (r *reader) try(fd uintptr) bool {
	if r.readOnce(fd) {
		if r.waiting {
			r.learnFromPark(time.Since(r.idle))
		}
		return true
	}
	if r.spun {
		return false
	}
	r.spun = true
	r.idle = time.Now()
	if r.budget > 0 && spinners.Load() < r.spinnersMax {
		spinners.Add(1)
		hit := r.spin(fd)
		spinners.Add(-1)
		if hit {
			return true
		}
	}
	r.waiting = true
	r.parks.Add(1)
	return false
}

// spin polls until data comes or the budget is used up.
func (r *reader) spin(fd uintptr) bool {
	for {
		for range pollsPerCheck {
			if r.readOnce(fd) {
				gap := time.Since(r.idle)
				r.spinNanos.Add(int64(gap))
				r.hits.Add(1)
				// Twice the gap just seen, so that jitter does not park us;
				// falling slowly, rising at once.
				r.setBudget(max(r.budget-r.budget/16, min(2*gap+5*time.Microsecond, r.spinMax)))
				return true
			}
		}
		gap := time.Since(r.idle)
		if gap >= r.budget {
			r.spinNanos.Add(int64(gap))
			r.misses.Add(1)
			return false
		}
		runtime.Gosched()
	}
}

// learnFromPark adjusts the budget after a wait that ended in the netpoller,
// gap after the last byte before it: had it ended within the longest poll,
// polling is worth its price; if not, it is less so.
func (r *reader) learnFromPark(gap time.Duration) {
	if gap < r.spinMax+wakeCost {
		r.setBudget(r.spinMax)
		return
	}
	if r.budget /= 2; r.budget < time.Microsecond {
		r.budget = 0
	}
	r.setBudget(r.budget)
}

func (r *reader) setBudget(d time.Duration) {
	r.budget = d
	r.budgetNanos.Store(int64(d))
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

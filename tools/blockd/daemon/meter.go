package daemon

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/blockdev"
)

// backing is what a volume is served from.
type backing interface {
	blockdev.Device
	blockdev.Mapper
	blockdev.Provisioner
	Resize(sizeBytes int64) error
	Close() error
}

// opsCount is one more than the largest blockdev.Op.
const opsCount = int(blockdev.OpPoison) + 1

// latencySample is how many uses of a request's struct go by for one that is timed:
// reading the clock twice costs more than all the rest of the counting.
const latencySample = 8

// latencyBuckets are powers of two from 2^latencyShift nanoseconds on: 4 us up
// to about 8 s, and one for what takes longer.
const (
	latencyShift   = 12
	latencyBuckets = 22
)

// opStats counts one kind of operation. Sizes are in bytes, times in
// nanoseconds.
type opStats struct {
	ops, bytes, errors atomic.Uint64
	timed, nanos       atomic.Uint64
	buckets            [latencyBuckets + 1]atomic.Uint64
	_                  [64]byte // reads and writes are counted on different cores
}

func (s *opStats) observe(d time.Duration) {
	n := uint64(max(d, 0))
	s.timed.Add(1)
	s.nanos.Add(n)
	s.buckets[min(bits.Len64(n>>latencyShift), latencyBuckets)].Add(1)
}

// meter is a device that counts what goes through it, and otherwise is the one
// below. It allocates nothing in steady state.
type meter struct {
	backing
	ops     [opsCount]opStats
	onError func(error) // called for requests that end with a fault of the device
	batches sync.Pool   // *[]*blockdev.Request
	limited             // holds requests back
}

// call is a request on its way through a meter. It stays in the parent's
// Internal, for the next request of that struct.
type call struct {
	child  blockdev.Request
	parent *blockdev.Request // nil while there is no request
	meter  *meter            // nil while there is no request
	start  time.Time         // zero unless timed
	turn   uint8             // requests of this struct so far
	counts bool              // limited wants to know of its end
	alone  [1]*blockdev.Request
}

func newMeter(b backing, onError func(error)) *meter {
	m := &meter{backing: b, onError: onError}
	m.limited.init(m)
	m.batches.New = func() any { return new([]*blockdev.Request) }
	return m
}

// Submit implements blockdev.Device.
func (m *meter) Submit(batch []*blockdev.Request) {
	if m.limiter.Bounded() {
		m.submitLimited(batch)
		return
	}
	if len(batch) == 1 {
		m.backing.Submit(m.begin(batch[0]).alone[:])
		return
	}
	list := m.batches.Get().(*[]*blockdev.Request)
	for _, r := range batch {
		*list = append(*list, &m.begin(r).child)
	}
	m.backing.Submit(*list)
	clear(*list)
	*list = (*list)[:0]
	m.batches.Put(list)
}

// Attended implements blockdev.Attendable.
func (m *meter) Attended() blockdev.Attended { return blockdev.AttendedOf(m.backing) }

// begin makes the request that goes on in place of r.
func (m *meter) begin(r *blockdev.Request) *call {
	c, ok := r.Internal.(*call)
	if !ok {
		c = &call{}
		c.child.Done, c.child.Tag, c.alone[0] = callDone, c, &c.child
		r.Internal = c
	}
	c.parent, c.meter = r, m
	c.child.Op, c.child.FUA, c.child.NoUnmap, c.child.Borrow = r.Op, r.FUA, r.NoUnmap, r.Borrow
	c.child.Offset, c.child.Length, c.child.Data, c.child.Gone, c.child.Soon = r.Offset, r.Length, r.Data, r.Gone, r.Soon
	c.child.Since, c.child.Err = 0, nil
	if c.turn++; c.turn%latencySample == 0 {
		c.start = time.Now()
	}
	return c
}

func callDone(r *blockdev.Request) {
	c := r.Tag.(*call)
	m, parent, err := c.meter, c.parent, r.Err
	if int(r.Op) < opsCount {
		s := &m.ops[r.Op]
		s.ops.Add(1)
		if err == nil {
			s.bytes.Add(uint64(r.Length))
		} else {
			m.failed(s, err)
		}
		if !c.start.IsZero() {
			s.observe(time.Since(c.start))
		}
	}
	c.end()
	if r.Lender != nil {
		parent.Data, parent.Lender = r.Data, c
	} else {
		r.Data = nil
	}
	blockdev.Complete(parent, err)
}

// waiter is a backing whose requests may wait before they begin.
type waiter interface {
	TakeBack(wanted func(*blockdev.Request) bool) bool
}

// takeBack takes back from the backing what begin has made of r, and counts nothing of it.
func (m *meter) takeBack(r *blockdev.Request) bool {
	var of *call
	w, ok := m.backing.(waiter)
	if !ok || !w.TakeBack(func(child *blockdev.Request) bool {
		of, _ = child.Tag.(*call)
		return of != nil && of.parent == r
	}) {
		return false
	}
	of.end()
	return true
}

// end is the end of a request, with whatever result.
func (c *call) end() {
	c.start = time.Time{}
	if c.counts {
		c.counts = false
		c.meter.limiter.Done(moved(&c.child))
	}
	c.parent, c.meter = nil, nil
}

// TakeBack implements blockdev.Lender for the parent of a request that borrowed.
func (c *call) TakeBack(*blockdev.Request) { c.child.Return() }

// failed counts an error, unless it is the host's.
func (m *meter) failed(s *opStats, err error) {
	if isHostsFault(err) {
		return
	}
	s.errors.Add(1)
	m.onError(err)
}

package volume

import (
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/internal/clock"
)

const (
	// shareEach is how long a step has for itself, times what steps take: half of the time nothing is copied.
	shareEach = 2
	// shareLeast is the shortest time for a step.
	shareLeast = 200 * time.Microsecond
	// shareMemory is by how many steps, the last ones, it is known what they take, about.
	shareMemory = 8
	// shareNoticed is how old what is known of hosts may be, for their ops not to write it each time.
	shareNoticed = 10 * time.Millisecond
)

// Share is what the owners and stores of a node have in common. What is copied for a volume takes from the disks, the
// network and the processors that hosts of other volumes need, and its owner hears nothing of these. So while there are
// any, what is copied by this node for volumes without hosts goes one region at a time, all of them in turn, and as
// long again nothing is. A node that has much to do takes longer for a step, and so gets fewer.
//
// All methods may be called from any goroutine. A nil Share knows of nobody.
type Share struct {
	host atomic.Int64 // when an op of a host has ended, about; 0: none has

	mu   sync.Mutex
	step time.Duration // what one takes, on the average
	next clock.Mono    // when the next one begins
}

// Saw says that an op of a host has ended, of any volume that the node owns or keeps a copy of.
func (s *Share) Saw(now clock.Mono) {
	if s != nil && now >= clock.Mono(s.host.Load()).Add(shareNoticed) {
		s.host.Store(int64(now))
	}
}

// attended tells whether there are hosts, as far as their ops show.
func (s *Share) attended(now clock.Mono) bool {
	if s == nil {
		return false
	}
	last := clock.Mono(s.host.Load())
	return last != 0 && now < last.Add(paceQuiet)
}

// took counts a step that took d.
func (s *Share) took(d time.Duration) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.step += (d - s.step) / shareMemory
}

// turn is in what time another step may follow one that begins now, most at most for each that is in turn.
func (s *Share) turn(now clock.Mono, most time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = max(s.next, now).Add(min(max(shareEach*s.step, shareLeast), most))
	return s.next.Sub(now)
}

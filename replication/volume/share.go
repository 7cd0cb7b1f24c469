package volume

import (
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/internal/clock"
)

const (
	// sharePart is the part of the time that steps have where hosts may wait twice as long; with another factor as much
	// more or less as they may wait more.
	sharePart = 0.25
	// shareLeast and shareMost bound the time that a step has for itself: a step that was found to take nothing is
	// no reason for a thousand at once, and one that takes for ever none to end.
	shareLeast = time.Millisecond
	shareMost  = 200 * time.Millisecond
	// shareMemory is by how many steps, the last ones, it is known what they take, about.
	shareMemory = 8
	// shareNoticed is how old what is known of hosts may be, for their ops not to write it each time.
	shareNoticed = 10 * time.Millisecond
)

// Share is what the owners and stores of a node have in common. What is copied for a volume takes from the disks, the
// network and the processors that hosts of other volumes need, and its owner hears nothing of these. So while there are
// any, this node copies for volumes without hosts in turns: one step at a time for all of them, and none for so long
// after it that steps have only a share of the time. A step is large, so that it costs
// little for what it moves; hosts' ops that meet one wait for as long as it takes, and most meet none. What is busy takes
// longer for a step, and so gets fewer: no limit has to be found.
//
// All methods may be called from any goroutine. A nil Share knows of nobody.
type Share struct {
	here  atomic.Int64 // when an op of a host has ended, about; 0: none has
	there atomic.Int64 // when a node said so to which something was copied

	mu   sync.Mutex
	step time.Duration // what one takes, on the average
	next clock.Mono    // when the turn begins that nobody has yet
}

// Saw says that an op of a host has ended, of any volume that the node owns or keeps a copy of.
func (s *Share) Saw(now clock.Mono) {
	if s != nil {
		notice(&s.here, now)
	}
}

// Hosts tells whether there are any, as far as Saw was told.
func (s *Share) Hosts(now clock.Mono) bool { return s != nil && noticed(&s.here, now) }

// heard says that a node to which something was copied has hosts.
func (s *Share) heard(now clock.Mono) {
	if s != nil {
		notice(&s.there, now)
	}
}

// yields tells whether what is copied for volumes without hosts goes in turns.
func (s *Share) yields(now clock.Mono) bool {
	return s != nil && (noticed(&s.here, now) || noticed(&s.there, now))
}

func notice(at *atomic.Int64, now clock.Mono) {
	if last := clock.Mono(at.Load()); last == 0 || now >= last.Add(shareNoticed) {
		at.Store(int64(now))
	}
}

func noticed(at *atomic.Int64, now clock.Mono) bool {
	last := clock.Mono(at.Load())
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

// turn is when the caller may begin its next step, for hosts that may wait factor times as long as without it.
func (s *Share) turn(now clock.Mono, factor float64) clock.Mono {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := max(s.next, now)
	part := min(sharePart*(factor-1), 1)
	s.next = at.Add(min(max(times(s.step, 1/part), shareLeast), shareMost))
	return at
}

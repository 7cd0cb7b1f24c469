package disk

import (
	"runtime"
	"time"
)

const (
	// spinBudget bounds how long a reaper looks at its ring before it sleeps.
	// Waking a sleeping thread costs 5 to 50 us (the latter on virtual machines),
	// so that looking for longer than about that can't pay.
	spinBudget = 60 * time.Microsecond
	// spinYield is how long it looks before it lets other goroutines run.
	spinYield = 10 * time.Microsecond
	// spinProbe is how rarely it looks anyway at a disk that seems too slow.
	spinProbe = 64
)

// spinner decides how long to look at a ring before sleeping. It learns from
// what it sees: where completions usually take longer than the budget it does
// not look at all, except now and then to see whether that has changed.
type spinner struct {
	budget  time.Duration // the most to spend on one wait; 0: never look
	average time.Duration // of waits, as far as looking saw their end
	waits   uint32
}

func newSpinner() spinner {
	if runtime.GOMAXPROCS(0) == 1 { // looking would keep others from working
		return spinner{}
	}
	return spinner{budget: spinBudget}
}

// until looks at ready until it is true, or until looking longer does not
// seem worth it. It returns what ready said last.
func (s *spinner) until(ready func() bool) bool {
	s.waits++
	if s.budget == 0 || (s.average > s.budget && s.waits%spinProbe != 0) {
		return ready()
	}
	begin, yield := time.Now(), spinYield
	for {
		for range 16 {
			if ready() {
				s.average += (time.Since(begin) - s.average) / 8
				return true
			}
		}
		switch spent := time.Since(begin); {
		case spent > s.budget:
			s.average += (2*s.budget - s.average) / 8
			return false
		case spent > yield:
			runtime.Gosched()
			yield = spent + spinYield
		}
	}
}

package endpoint

import (
	"slices"

	"blockd.dev/afxdp/link"
)

// Source is something else than its link that a pump may wait for, and deal with, in
// turns that it takes anyway: a disk.Attended, of which it says what the methods
// mean. With it what a message asks of a disk is done and answered by the pump's
// thread alone.
type Source interface {
	// Attend makes the pump the attendant, if it may be; wake ends its sleep.
	Attend(wake func()) bool
	// Look deals with what has come, and tells whether that was anything and
	// whether the pump is still the attendant.
	Look() (worked, attending bool)
	// Rest comes before a sleep, and tells the latter.
	Rest() bool
	// FD is readable while Look would find something.
	FD() int
	// Leave gives the place back.
	Leave()
}

// sources are those of the endpoint, as one pump sees them.
type sources struct {
	link    link.Watcher
	list    []Source
	on      []bool // the pump attends it
	count   int    // of on
	watched []int  // the FDs that the link was told
	fds     []int
}

// newSources returns none for a link that waits for nothing else.
func newSources(l link.Link, list []Source) sources {
	w, ok := l.(link.Watcher)
	if !ok {
		return sources{}
	}
	return sources{link: w, list: list, on: make([]bool, len(list))}
}

// attend makes the pump the attendant of what has none: before it hands over
// messages, of which I/O may come.
func (s *sources) attend(wake func()) {
	for i, on := range s.on {
		if !on && s.list[i].Attend(wake) {
			s.on[i] = true
			s.count++
		}
	}
}

// look deals with what is attended.
func (s *sources) look() (worked bool) {
	if s.count == 0 {
		return false
	}
	for i, on := range s.on {
		if !on {
			continue
		}
		did, still := s.list[i].Look()
		worked = worked || did
		s.keep(i, still)
	}
	return worked
}

// rest has the link wait for what is still attended.
func (s *sources) rest() {
	s.fds = s.fds[:0]
	for i, on := range s.on {
		if !on {
			continue
		}
		if s.keep(i, s.list[i].Rest()); s.on[i] {
			s.fds = append(s.fds, s.list[i].FD())
		}
	}
	if !slices.Equal(s.fds, s.watched) {
		s.watched = append(s.watched[:0], s.fds...)
		s.link.Watch(s.watched)
	}
}

// leave gives all of them back.
func (s *sources) leave() {
	for i, on := range s.on {
		if on {
			s.list[i].Leave()
			s.keep(i, false)
		}
	}
}

func (s *sources) keep(i int, still bool) {
	if !still {
		s.on[i] = false
		s.count--
	}
}

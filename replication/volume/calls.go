package volume

import (
	"slices"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
)

// call is a request that waits for its answer.
type call struct {
	kind   replica.Kind // 0: answered
	hedged bool
	piece  *piece
	seq    uint64 // of a write
	sent   clock.Mono
}

// calls are those of one session, in the order of their IDs, which follow
// each other without gaps.
type calls struct {
	list   []call
	head   int    // the first in list that is not answered, if any is
	first  uint64 // ID of list[0]
	live   int
	owed   int        // those for which hosts may wait
	silent clock.Mono // nothing was answered since then, though some are owed
}

// awaited tells whether hosts may wait for k. They don't for what brings a copy back, which may be slow.
func (k *call) awaited() bool {
	return k.kind != replica.Begin && (k.piece == nil || !k.piece.isJob() || k.piece.takeover)
}

func (s *calls) len() int { return s.live }

// next is the ID of the next call, and oldest that of the first one that has
// no answer.
func (s *calls) next() uint64   { return s.first + uint64(len(s.list)) }
func (s *calls) oldest() uint64 { return s.first + uint64(s.head) }

func (s *calls) add(k call) {
	if len(s.list) == cap(s.list) && s.head > len(s.list)/2 {
		n := copy(s.list, s.list[s.head:])
		clear(s.list[n:])
		s.list, s.first, s.head = s.list[:n], s.first+uint64(s.head), 0
	}
	s.list = append(s.list, k)
	s.live++
	if k.awaited() {
		if s.owed == 0 {
			s.silent = k.sent
		}
		s.owed++
	}
}

// take returns the call of this ID, which is answered now, and forgets it.
func (s *calls) take(now clock.Mono, id uint64) (call, bool) {
	if id < s.oldest() || id >= s.next() {
		return call{}, false // of a session that is over, or a duplicate
	}
	k := s.list[id-s.first]
	if k.kind == 0 {
		return call{}, false
	}
	if s.silent = now; k.awaited() {
		s.owed--
	}
	s.list[id-s.first] = call{}
	s.live--
	for s.head < len(s.list) && s.list[s.head].kind == 0 {
		s.head++
	}
	return k, true
}

// has tells whether a request of a kind for p has no answer.
func (s *calls) has(p *piece, kind replica.Kind) bool {
	return slices.ContainsFunc(s.list[s.head:], func(k call) bool { return k.piece == p && k.kind == kind })
}

// clear forgets all calls; drop gets those that had no answer.
func (s *calls) clear(drop func(call)) {
	list, head, next := s.list, s.head, s.next()
	*s = calls{first: next}
	for _, k := range list[head:] {
		if k.kind != 0 {
			drop(k)
		}
	}
}

// seqs are sequence numbers, lowest first but for a few.
type seqs struct {
	list []uint64
	head int
}

func (s *seqs) len() int { return len(s.list) - s.head }

// trim forgets those up to n, as far as they come first.
func (s *seqs) trim(n uint64) {
	for s.head < len(s.list) && s.list[s.head] <= n {
		s.head++
	}
	if s.head > len(s.list)/2 {
		s.list = s.list[:copy(s.list, s.list[s.head:])]
		s.head = 0
	}
}

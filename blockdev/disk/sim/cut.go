package sim

import (
	"math"
	"math/rand/v2"
	"slices"

	"blockd.dev/blockdev/disk"
)

// Policy chooses what a power cut leaves of the writes that were not durable.
type Policy uint8

// The policies. Durable writes are there under every one of them.
const (
	// DropAll leaves none.
	DropAll Policy = iota
	// KeepAll leaves all, those still in flight too.
	KeepAll
	// KeepDone leaves those that were acknowledged.
	KeepDone
	// RandomSubset leaves each write whole or not at all.
	RandomSubset
	// TornLast leaves all that was acknowledged; of the write started last the
	// first sectors only, of others in flight a random choice.
	TornLast
	// TornAll leaves each 512-byte sector of every write or not.
	TornAll
	// Reorder puts writes to the medium in a random order and stops at a random
	// point, inside a write.
	Reorder
	// DropOldest leaves the later writes and loses the earlier ones.
	DropOldest

	// Policies is the number of policies above.
	Policies = int(iota)
)

// String names the policy as tests print it.
func (p Policy) String() string {
	names := [...]string{"drop-all", "keep-all", "keep-done", "random-subset", "torn-last", "torn-all", "reorder", "drop-oldest"}
	if int(p) < len(names) {
		return names[p]
	}
	return "invalid-policy"
}

// Cut returns the disk as after a power failure right after the first n
// events, 0 <= n <= Events(). The new disk completes inline, has no rules, and
// a trace of its own, so that it can be cut again. It shares memory with s but
// neither changes the other; ascending n is cheapest. It may be called while
// s is in use, and from several goroutines. It panics with Options.NoTrace.
func (s *Sim) Cut(n int, policy Policy, seed uint64) *Sim {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o.NoTrace {
		panic("sim: Cut of a disk with NoTrace")
	}
	c := s.hist.seek(n)
	img := c.durable.clone()
	m := medium{img: &img, c: c, rng: rand.New(rand.NewPCG(seed, uint64(n)))}
	m.leave(policy, c.unsynced())
	return newSim(s.sizeBytes, img, s.seq, Options{Seed: seed, Name: s.o.Name})
}

// Snapshot returns a disk with the present content, all of it durable.
func (s *Sim) Snapshot() *Sim {
	s.mu.Lock()
	defer s.mu.Unlock()
	return newSim(s.sizeBytes, s.live.clone(), s.seq, Options{Seed: s.o.Seed, Name: s.o.Name})
}

// unsynced lists what may or may not be on the medium, in order of completion
// with the writes in flight last.
func (c *cursor) unsynced() []*record {
	u := append(append([]*record(nil), c.lost...), c.pending...)
	slices.SortStableFunc(u, func(a, b *record) int {
		x, y := c.doneSeq(a), c.doneSeq(b)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return u
}

// doneSeq is r.seq if r was acknowledged by now, else later than any.
func (c *cursor) doneSeq(r *record) uint64 {
	if r.done >= 0 && r.done < c.n {
		return r.seq
	}
	return math.MaxUint64
}

// medium is an image being made.
type medium struct {
	img *tree
	c   *cursor
	rng *rand.Rand
}

func (m *medium) leave(policy Policy, u []*record) {
	inFlight := func(r *record) bool { return m.c.doneSeq(r) == math.MaxUint64 }
	switch policy {
	case DropAll:
	case KeepAll:
		for _, r := range u {
			m.put(r, whole)
		}
	case KeepDone:
		for _, r := range u {
			if !inFlight(r) {
				m.put(r, whole)
			}
		}
	case RandomSubset:
		for _, r := range u {
			if m.rng.IntN(2) == 0 {
				m.put(r, whole)
			}
		}
	case TornLast:
		var last *record
		for _, r := range u {
			if last == nil || r.start > last.start {
				last = r
			}
		}
		for _, r := range u {
			if r != last && (!inFlight(r) || m.rng.IntN(2) == 0) {
				m.put(r, whole)
			}
		}
		if last != nil {
			m.put(last, m.prefix(last))
		}
	case TornAll:
		for _, r := range u {
			m.put(r, func(int) uint8 { return uint8(m.rng.Uint32()) })
		}
	case Reorder:
		m.rng.Shuffle(len(u), func(i, j int) { u[i], u[j] = u[j], u[i] })
		stop := m.rng.IntN(len(u) + 1)
		for _, r := range u[:stop] {
			m.put(r, whole)
		}
		if stop < len(u) {
			m.put(u[stop], m.prefix(u[stop]))
		}
	case DropOldest:
		if len(u) == 0 {
			return
		}
		for _, r := range u[m.rng.IntN(len(u)):] {
			m.put(r, whole)
		}
	default:
		panic("sim: unknown policy")
	}
}

// whole is the sector mask of a write that is there.
func whole(int) uint8 { return 0xff }

// prefix makes the sector masks of a write that stopped at a random sector.
func (m *medium) prefix(r *record) func(i int) uint8 {
	stop := m.rng.IntN(len(r.pages)*8 + 1)
	return func(i int) uint8 {
		return uint8(1<<min(max(stop-i*8, 0), 8) - 1)
	}
}

// put writes those sectors of r's block i that mask(i) selects, except on
// blocks whose durable content was acknowledged after r.
func (m *medium) put(r *record, mask func(i int) uint8) {
	block, seq := r.off/disk.BlockBytes, m.c.doneSeq(r)
	for i, p := range r.pages {
		k := mask(i)
		b := block + int64(i)
		if p == keep || k == 0 || m.c.durable.get(b).seq > seq {
			continue
		}
		old := m.img.get(b)
		m.img.set(b, ref{torn(old.p, p, k), m.c.durable.get(b).seq})
	}
}

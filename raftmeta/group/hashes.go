package group

import (
	"bytes"
	"context"
	"fmt"
	"sync"
)

// hashes compares this member's state with the leader's. A mark makes every
// member compute the hash of its state at the mark's index; a later entry has
// the leader's. Each may be known first, since hashing goes on beside the log.
type hashes struct {
	mu      sync.Mutex
	local   map[uint64][HashSize]byte // by index of the mark
	leaders map[uint64][]byte
	working sync.WaitGroup
	ready   func(mark uint64, sum [HashSize]byte) // a local hash is there
}

// hashesMax is how many marks are kept; more are only under way when hashing
// is slower than marks come.
const hashesMax = 8

func (m *machine) mark(index uint64) {
	i, h := m.image(), &m.hashes
	i.index = index
	h.working.Go(func() {
		sum := i.Hash()
		h.mu.Lock()
		if h.local == nil {
			h.local = make(map[uint64][HashSize]byte)
		}
		h.local[index] = sum
		dropOldest(h.local)
		leaders, ready := h.leaders[index], h.ready
		h.mu.Unlock()
		if leaders != nil {
			m.judge(index, sum, leaders)
		}
		if ready != nil {
			ready(index, sum)
		}
	})
}

// compare takes the leader's hash at a mark.
func (m *machine) compare(mark uint64, sum []byte) {
	h := &m.hashes
	h.mu.Lock()
	if h.leaders == nil {
		h.leaders = make(map[uint64][]byte)
	}
	h.leaders[mark] = sum
	dropOldest(h.leaders)
	local, ok := h.local[mark]
	h.mu.Unlock()
	if ok {
		m.judge(mark, local, sum)
	}
}

func (m *machine) judge(mark uint64, local [HashSize]byte, leaders []byte) {
	if bytes.Equal(local[:], leaders) {
		m.events(Event{Kind: EventHash, Index: mark})
		return
	}
	m.stop(fmt.Errorf("%w at index %d of the log: %x here, %x there; this is a bug or damaged memory: keep the data folder for its report", ErrDiverged, mark, local[:8], leaders))
}

// forget is for a state that was replaced: marks before it have no hash.
func (h *hashes) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.local)
	clear(h.leaders)
}

func dropOldest[V any](m map[uint64]V) {
	for len(m) > hashesMax {
		oldest := ^uint64(0)
		for i := range m {
			oldest = min(oldest, i)
		}
		delete(m, oldest)
	}
}

// marks is the leader's side of it.
type marks struct {
	mu     sync.Mutex
	wanted bool   // a snapshot was written since the last mark
	last   uint64 // index of this node's last mark as leader; 0 before
	asked  bool   // the leader's hash of last is in the log
	index  uint64 // of the last mark that was hashed here
	sum    [HashSize]byte
}

func (g *Group) hashReady(mark uint64, sum [HashSize]byte) {
	g.marks.mu.Lock()
	if mark > g.marks.index {
		g.marks.index, g.marks.sum = mark, sum
	}
	g.marks.mu.Unlock()
	g.wake()
}

func (g *Group) snapshotPersisted() {
	g.marks.mu.Lock()
	g.marks.wanted = true
	g.marks.mu.Unlock()
	g.wake()
}

// compareHashes puts marks into the log, and this node's hashes for them.
func (g *Group) compareHashes(ctx context.Context) error {
	if len(g.servers()) < 2 {
		return nil // nobody to compare with
	}
	applied, _ := g.machine.position()
	m := &g.marks
	m.mu.Lock()
	report := m.last != 0 && m.index == m.last && !m.asked
	last, sum := m.last, m.sum
	begin := m.wanted || applied >= m.last+g.cfg.HashEvery
	m.mu.Unlock()
	if report {
		if _, err := g.order(ctx, order{Hash: &orderHash{last, sum[:]}}); err != nil {
			return err
		}
		m.mu.Lock()
		m.asked = true
		m.mu.Unlock()
	}
	if begin && (report || last == 0 || m.done()) {
		o, err := g.order(ctx, order{Mark: &struct{}{}})
		if err != nil {
			return err
		}
		m.mu.Lock()
		m.last, m.asked, m.wanted = o.Index, false, false
		m.mu.Unlock()
		g.wake() // the hash may be there already
	}
	return nil
}

func (m *marks) done() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

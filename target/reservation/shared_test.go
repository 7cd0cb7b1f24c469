package reservation

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
)

// sharedLog is a Log of several nodes in one process. Each has its own Shared, and sees
// the log as far as it was told.
type sharedLog struct {
	mu      sync.Mutex
	records [][]byte // of the one volume, by generation less one
	nodes   []*sharedNode
}

type sharedNode struct {
	*Shared
	log  *sharedLog
	seen int // generations
}

func newSharedNodes(n int) (*sharedLog, []*sharedNode) {
	l := &sharedLog{}
	for range n {
		node := &sharedNode{log: l}
		node.Shared = NewShared(node)
		l.nodes = append(l.nodes, node)
	}
	return l, l.nodes
}

func (n *sharedNode) Table(VolumeID) (uint64, []byte) {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	if n.seen == 0 {
		return 0, nil
	}
	return uint64(n.seen), n.log.records[n.seen-1]
}

func (n *sharedNode) Replace(_ context.Context, _ VolumeID, expect uint64, record []byte) error {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	current := len(n.log.records)
	defer func() { n.seen = len(n.log.records) }()
	if expect != uint64(current) {
		return ErrOutdated
	}
	n.log.records = append(n.log.records, bytes.Clone(record))
	return nil
}

// catchUp lets the node see everything, at once.
func (n *sharedNode) catchUp(t testing.TB) {
	t.Helper()
	n.log.mu.Lock()
	n.seen = len(n.log.records)
	n.log.mu.Unlock()
	if err := n.Follow(vol); err != nil {
		t.Fatal(err)
	}
}

func (n *sharedNode) Spread(ctx context.Context, id VolumeID, generation uint64) error {
	for _, o := range n.log.nodes {
		n.log.mu.Lock()
		o.seen = len(n.log.records)
		n.log.mu.Unlock()
		if err := o.Follow(id); err != nil {
			return err
		}
		if err := o.Ended(ctx, id, generation); err != nil {
			return err
		}
	}
	return nil
}

// TestSharedIsEnforcedEverywhere: when a command has answered, every node
// refuses whom it fences, and has told him.
func TestSharedIsEnforcedEverywhere(t *testing.T) {
	_, nodes := newSharedNodes(3)
	mustApply(t, nodes[0], "A register new=1")
	mustApply(t, nodes[1], "B register new=2")
	mustApply(t, nodes[1], "B reserve key=2 type=wero")
	v, err := nodes[2].Volume(vol)
	if err != nil {
		t.Fatal(err)
	}
	var told []*Change
	defer v.Watch(func(c *Change) { told = append(told, c) })()
	mustApply(t, nodes[0], "A preempt-abort key=1 new=2 type=wero")
	b := party("B")
	for i, n := range nodes {
		if got, want := stateOf(t, n), stateOf(t, nodes[0]); got != want {
			t.Errorf("node %d has %s, node 0 %s", i, got, want)
		}
		if v, err := n.Volume(vol); err != nil || v.Allows(&b, AccessWrite) {
			t.Errorf("node %d lets the preempted host write: %v", i, err)
		}
	}
	if len(told) != 1 || !slices.Contains(told[0].Aborts, b) || len(told[0].Events) == 0 {
		t.Errorf("a host elsewhere was told %+v", told)
	}
}

// TestSharedWaitsForTasksElsewhere: the tasks that a command aborts on another
// node have ended when it answers.
func TestSharedWaitsForTasksElsewhere(t *testing.T) {
	_, nodes := newSharedNodes(2)
	mustApply(t, nodes[0], "A register new=1")
	mustApply(t, nodes[1], "B register new=2")
	mustApply(t, nodes[1], "B reserve key=2 type=wero")
	v, err := nodes[1].Volume(vol)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Watch(func(c *Change) {
		if len(c.Aborts) > 0 {
			c.Hold() // a task that never ends
		}
	})()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := nodes[0].Apply(ctx, vol, command(t, "A preempt-abort key=1 new=2 type=wero")); !errors.Is(err, ErrUnfinished) {
		t.Errorf("it answered %v while a task of the preempted host was under way", err)
	}
}

// TestSharedMissesNobody: a node that sees two changes as one still ends the
// tasks of whom the first preempted.
func TestSharedMissesNobody(t *testing.T) {
	_, nodes := newSharedNodes(3)
	mustApply(t, nodes[0], "A register new=1")
	mustApply(t, nodes[0], "B register new=2")
	mustApply(t, nodes[0], "A reserve key=1 type=wero")
	l := nodes[0].log
	l.nodes = nodes[:2] // the third hears nothing
	mustApply(t, nodes[0], "A preempt-abort key=1 new=2 type=wero")
	mustApply(t, nodes[0], "A register key=1 new=3")
	v, err := nodes[2].Volume(vol)
	if err != nil {
		t.Fatal(err)
	}
	var aborted []Identity
	defer v.Watch(func(c *Change) { aborted = append(aborted, c.Aborts...) })()
	nodes[2].catchUp(t)
	if !slices.Contains(aborted, party("B")) {
		t.Errorf("it aborted %v", aborted)
	}
	if err := nodes[2].Ended(t.Context(), vol, 4); err != nil {
		t.Error(err)
	}
}

// TestSharedRacesAreOrdered: commands on several nodes at once all take effect,
// one after the other.
func TestSharedRacesAreOrdered(t *testing.T) {
	_, nodes := newSharedNodes(3)
	var wg sync.WaitGroup
	names := []string{"A", "B", "C"}
	for i, n := range nodes {
		wg.Go(func() {
			for range 50 {
				for _, line := range []string{" ignore new=1", " ignore new=0"} {
					if _, err := n.Apply(t.Context(), vol, command(t, names[i]+line)); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	v, err := nodes[0].Volume(vol)
	if err != nil {
		t.Fatal(err)
	}
	if s := v.State(); len(s.Registrants) != 0 || s.Generation != 300 {
		t.Errorf("%s", describe(s))
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, s := range samples(f) {
		for _, c := range []*Change{{State: s}, {State: s, Events: []Event{{party("A"), ReservationsReleased}}, Aborts: []Identity{party("n")}}} {
			b, err := encodeRecord(c)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeRecord(b)
		if err != nil || len(b) == 0 {
			return
		}
		again, err := encodeRecord(c)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
	})
}

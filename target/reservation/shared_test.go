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
	seen int  // generations
	cut  bool // it hears of nothing, and is not down
}

var errCut = errors.New("cut off")

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

func (n *sharedNode) Barrier(context.Context) error {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	if n.cut {
		return errCut
	}
	n.seen = len(n.log.records)
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
		if err := o.Barrier(ctx); err != nil {
			return err
		}
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

// TestSharedMissesNobodyWhoIsBack: nor does a preempted host that registers again keep its tasks on a
// node which has not heard of the preemption yet.
func TestSharedMissesNobodyWhoIsBack(t *testing.T) {
	_, nodes := newSharedNodes(3)
	mustApply(t, nodes[0], "A register new=1")
	mustApply(t, nodes[1], "B register new=2")
	mustApply(t, nodes[0], "A reserve key=1 type=we")
	v, err := nodes[2].Volume(vol)
	if err != nil {
		t.Fatal(err)
	}
	var aborted []Identity
	defer v.Watch(func(c *Change) { aborted = append(aborted, c.Aborts...) })()
	nodes[2].cut = true
	for n, line := range []string{"A preempt-abort key=1 new=2 type=we", "B register new=2"} {
		if res, err := nodes[n].Apply(t.Context(), vol, command(t, line)); err == nil {
			t.Errorf("%s: %+v while a node has not heard of it", line, res)
		}
	}
	nodes[2].cut = false
	mustApply(t, nodes[1], "B ignore new=2")
	if !slices.Contains(aborted, party("B")) {
		t.Errorf("the node aborted %v", aborted)
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

// TestSharedRepeatIsEnforcedEverywhere: a command that changes nothing, since it repeats
// one that has failed to reach every node, is good only when that has reached them.
func TestSharedRepeatIsEnforcedEverywhere(t *testing.T) {
	for _, tt := range []struct {
		line   string
		before []string
	}{
		{"A legacy-reserve", nil},
		{"A reserve key=1 type=wero", []string{"A register new=1"}},
		{"A release key=1 type=wero", []string{"A register new=1", "A reserve key=1 type=wero"}},
	} {
		_, nodes := newSharedNodes(3)
		for _, line := range tt.before {
			mustApply(t, nodes[0], line)
		}
		nodes[2].cut = true
		for _, attempt := range []string{"first", "second"} {
			if _, err := nodes[0].Apply(t.Context(), vol, command(t, tt.line)); !errors.Is(err, errCut) {
				t.Errorf("%s: the %s answer was %v while a node had not heard of it", tt.line, attempt, err)
			}
		}
		nodes[2].cut = false
		mustApply(t, nodes[0], tt.line)
		if got, want := stateOf(t, nodes[2]), stateOf(t, nodes[0]); got != want {
			t.Errorf("%s was answered: the node that was cut off has %s, not %s", tt.line, got, want)
		}
	}
}

// TestSharedRepeatIsOfTheNewestTable: a node that was cut off answers nothing by the table
// from before, not even to whom it says that he has what he asks for.
func TestSharedRepeatIsOfTheNewestTable(t *testing.T) {
	_, nodes := newSharedNodes(2)
	mustApply(t, nodes[0], "A register new=1")
	mustApply(t, nodes[1], "B register new=2")
	mustApply(t, nodes[0], "A reserve key=1 type=we")
	l := nodes[0].log
	l.nodes = nodes[1:] // the first is down
	mustApply(t, nodes[1], "B preempt key=2 new=1 type=we")
	l.nodes = nodes
	res, err := nodes[0].Apply(t.Context(), vol, command(t, "A reserve key=1 type=we"))
	if err != nil || res.Status != StatusConflict {
		t.Errorf("a host that was preempted reserves by a node that was down: %+v, %v", res, err)
	}
	nodes[0].cut = true
	if res, err := nodes[0].Apply(t.Context(), vol, command(t, "B reserve key=2 type=we")); !errors.Is(err, errCut) {
		t.Errorf("a node that is cut off answered %+v, %v", res, err)
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

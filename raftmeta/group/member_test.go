package group

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Members come and go under load; the number of voters stays odd, and nothing
// is lost.
func TestMembershipUnderLoad(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.ReplaceAfter = time.Second })
	n1 := c.first("n1")
	l := c.load(3, n1.Group)
	c.join(n1, "n2")
	l.more(10)
	if v := c.voters(); len(v) != 1 {
		t.Errorf("of two nodes, %v vote: the loss of either would stop them", v)
	}
	c.join(n1, "n3", "n4")
	c.until("three vote", func() bool { return c.settled(3) })
	l.more(10)

	// A voter that is dead is replaced, and let go.
	dead := c.followers()[0]
	if !slices.Contains(c.voters(), dead.id) {
		dead = c.followers()[1]
	}
	dead.stop()
	c.until("another votes in its place", func() bool {
		v := c.voters()
		return len(v) == 3 && !slices.Contains(v, dead.id)
	})
	l.more(10)
	if err := c.leader().Remove(c.ctx(), dead.id); err != nil {
		t.Fatal(err)
	}
	c.until("it is gone", func() bool { return len(c.leader().servers()) == 3 })

	// It can't come back, and finds that out by itself.
	dead.mustOpen()
	e := dead.await("it stops", func(e Event) bool { return e.Kind == EventHalted })
	if !errors.Is(e.Err, ErrRemoved) {
		t.Errorf("it stopped because of %v", e.Err)
	}
	if err := dead.Join(c.ctx(), map[string]string{n1.id: n1.cfg.Address}); !errors.Is(err, ErrRemoved) {
		t.Errorf("a removed node came back: %v", err)
	}
	dead.stop()

	// The leader leaves: it hands over, is removed, and stops by itself.
	leaver := c.leader()
	if err := leaver.Remove(c.ctx(), leaver.id); err != nil {
		t.Fatal(err)
	}
	e = leaver.await("it stops", func(e Event) bool { return e.Kind == EventHalted })
	if !errors.Is(e.Err, ErrRemoved) || !errors.Is(leaver.Err(), ErrRemoved) {
		t.Errorf("it stopped because of %v", e.Err)
	}
	leaver.stop()
	c.until("one votes", func() bool { return len(c.voters()) == 1 && len(c.leader().servers()) == 2 })
	acked := l.stop() // only n1 was asked; it may be the one that left
	rest := c.leader()
	c.apply(rest, "after")
	c.agree(append(acked, "after")...)
}

// Members that it takes longer than a heartbeat to connect to, as on a machine with too much
// to do, are heard all the same, and vote.
func TestSlowConnectionsAreWaitedFor(t *testing.T) {
	c := newCluster(t, func(cfg *Config) {
		dial := cfg.Dial
		cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			select {
			case <-time.After(3 * testHeartbeat / 2): // sleep: that is how slow it is
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return dial(ctx, address)
		}
	})
	c.join(c.first("n1"), "n2", "n3")
	c.until("three vote", func() bool { return c.settled(3) })
}

func TestTheLastMemberStays(t *testing.T) {
	c := newCluster(t, nil)
	n := c.first("n1")
	if err := n.Remove(c.ctx(), "n1"); !errors.Is(err, ErrRefused) {
		t.Errorf("removed: %v", err)
	}
	if err := n.Remove(c.ctx(), "nobody"); !errors.Is(err, ErrRefused) {
		t.Errorf("removed nobody: %v", err)
	}
	if err := n.TransferLeadership(c.ctx(), ""); !errors.Is(err, ErrRefused) {
		t.Errorf("handed over to nobody: %v", err)
	}
}

// Another address is a matter of a restart.
func TestNodeMoves(t *testing.T) {
	c := start(t, 3, nil)
	n := c.followers()[0]
	n.stop()
	n.cfg.Address = ""
	n.mustOpen()
	c.until("the others know the new address", func() bool {
		m, _ := c.leader().machine.member(n.id)
		return m.Address == n.cfg.Address
	})
	c.apply(n, "moved")
	c.agree("moved")
}

// The gate opens when the last member has announced the version, not before.
// A member that is older than the gate is not admitted, and does not start.
func TestVersionGate(t *testing.T) {
	c := start(t, 3, nil)
	two := Command{Version: 2, Data: []byte("two")}
	upgrade := func(n *node) {
		n.stop()
		n.ledger.version = 2
		n.mustOpen()
		c.until(n.id+" has announced", func() bool {
			l := c.leading()
			if l == nil {
				return false
			}
			m, _ := l.machine.member(n.id)
			return m.MaxVersion == 2
		})
	}
	old := c.followers()[0]
	for _, n := range c.nodes {
		if n != old {
			upgrade(n)
			two.Request = RequestID{}
			if _, err := n.Apply(c.ctx(), two); !errors.Is(err, ErrGate) {
				t.Fatalf("with %s still old: %v", old.id, err)
			}
		}
	}
	upgrade(old)
	c.until("the gate is open", func() bool { l := c.leading(); return l != nil && l.Stats().Gate == 2 })
	if _, err := old.Apply(c.ctx(), two); err != nil {
		t.Fatal(err)
	}
	c.agree("two")

	late := c.prepare("late")
	late.mustOpen()
	if err := late.Join(c.ctx(), map[string]string{old.id: old.cfg.Address}); !errors.Is(err, ErrTooOld) {
		t.Errorf("an old node joined: %v", err)
	}
	late.stop()
	old.stop()
	old.ledger.version = 1
	if err := old.open(); err == nil {
		old.await("it stops", func(e Event) bool { return e.Kind == EventHalted && errors.Is(e.Err, ErrTooOld) })
	} else if !errors.Is(err, ErrTooOld) {
		t.Errorf("downgraded: %v", err)
	}
}

// A node that was away while the log was compacted gets a snapshot.
func TestLaggingNodeGetsASnapshot(t *testing.T) {
	c, lagging, names := startWithOneBehind(t)
	lagging.mustOpen()
	lagging.await("a snapshot", func(e Event) bool { return e.Kind == EventRestored })
	c.agree(names...)
	// Requests are remembered across it.
	lagging.restart()
	c.agree(names...)
}

// startWithOneBehind makes a group of three, of which one is down, and needs a snapshot when it
// comes back. It returns the commands that have been acknowledged.
func startWithOneBehind(t *testing.T) (c *cluster, lagging *node, acknowledged []string) {
	t.Helper()
	c = start(t, 3, func(cfg *Config) { cfg.TrailingLogs, cfg.segmentBytes = 1, 4096 })
	lagging = c.followers()[0]
	lagging.stop()
	for i := range 60 {
		acknowledged = append(acknowledged, fmt.Sprint("x", i))
		c.apply(c.leader(), acknowledged[i])
	}
	for _, n := range c.nodes {
		if n.down {
			continue
		}
		if err := n.Barrier(c.ctx()); err != nil {
			t.Fatal(err)
		}
		if err := n.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		if first, _ := n.storage.wal.FirstIndex(); first < 30 {
			t.Fatalf("%s: the log still begins at %d", n.id, first)
		}
	}
	c.apply(c.leader(), "later")
	return c, lagging, append(acknowledged, "later")
}

// A member whose state differs stops, says so, and does not start again.
func TestDivergenceStopsTheMember(t *testing.T) {
	c := start(t, 3, nil)
	bad := c.followers()[0]
	bad.ledger.setCorrupt()
	c.apply(c.leader(), "x")
	if err := bad.Barrier(c.ctx()); err != nil {
		t.Fatal(err)
	}
	c.until("the states are compared", func() bool {
		if l := c.leader(); l == bad { // by its state, the others would be wrong
			_ = bad.TransferLeadership(c.ctx(), "")
		} else {
			_ = l.raft.Snapshot().Error() // after it, the leader asks for a comparison, unless it was deposed
		}
		return bad.Err() != nil
	})
	e := bad.await("it stops", func(e Event) bool { return e.Kind == EventHalted })
	if !errors.Is(e.Err, ErrDiverged) {
		t.Errorf("it stopped because of %v", e.Err)
	}
	if _, err := bad.Apply(c.ctx(), Command{Version: 1, Data: []byte("y")}); !errors.Is(err, ErrDiverged) {
		t.Errorf("it still answers: %v", err)
	}
	if err := bad.Barrier(c.ctx()); !errors.Is(err, ErrDiverged) {
		t.Errorf("it still reads: %v", err)
	}
	for _, n := range c.nodes {
		if n != bad {
			n.await("the others agree", func(e Event) bool { return e.Kind == EventHash })
		}
	}
	bad.stop()
	if err := bad.open(); !errors.Is(err, ErrHalted) {
		t.Errorf("it started again: %v", err)
	}
	c.apply(c.leader(), "z")
	c.agree("x", "z")
}

// A member whose clock is wrong makes no connections, and both sides are told why: it by the
// certificate that it is shown, the other by the alert that it gets.
func TestWrongClockIsNamed(t *testing.T) {
	c := start(t, 1, nil)
	n := c.nodes["n1"]
	late := c.prepare("n2")
	late.creds = c.credentials("n2")
	late.creds.Now = func() time.Time { return time.Now().Add(48 * time.Hour) }
	late.mustOpen()
	for _, proto := range []string{protoRaft, protoMember} {
		for _, d := range []struct {
			from, to *node
			want     string
		}{
			{late, n, "the certificate of blockd://test/node/n1 was valid until"},
			{n, late, "node n2 refuses this node's certificate; compare the clocks"},
		} {
			conn, err := d.from.dial(c.ctx(), proto, d.to.id, d.to.cfg.Address)
			if err == nil {
				conn.Close()
			}
			if err == nil || !strings.Contains(err.Error(), d.want) || !strings.Contains(err.Error(), "compare the clocks") {
				t.Errorf("%s to %s by %s: %v; want %q", d.from.id, d.to.id, proto, err, d.want)
			}
		}
	}
}

// Who has a certificate of another authority, or is a client, is not heard;
// who answers in another's place is noticed.
func TestStrangersAreRefused(t *testing.T) {
	c := start(t, 1, nil)
	n := c.nodes["n1"]
	other := newCluster(t, nil)
	stranger := other.prepare("n2")
	stranger.mustOpen()
	for _, proto := range []string{protoRaft, protoMember} {
		if conn, err := stranger.dial(c.ctx(), proto, "n1", n.cfg.Address); err == nil {
			conn.Close()
			t.Errorf("%s: a node of another cluster was let in", proto)
		}
	}
	mine := c.prepare("n2")
	mine.mustOpen()
	if conn, err := mine.dial(c.ctx(), protoMember, "n3", n.cfg.Address); err == nil {
		conn.Close()
		t.Error("n1 answered as n3")
	}
	// A member of a later incarnation must not be told that it is the old one.
	for incarnation, want := range map[uint32]error{0: ErrIncarnation, 2: ErrRefused} {
		mine.Group.id.Incarnation = incarnation
		if conn, err := mine.dial(c.ctx(), protoMember, "n1", n.cfg.Address); !errors.Is(err, want) {
			if err == nil {
				conn.Close()
			}
			t.Errorf("of incarnation %d: %v", incarnation, err)
		}
	}
	mine.Group.id.Incarnation = 1
	// It has a good certificate, but is no member: it may join and nothing else.
	for _, e := range []*envelope{
		{kind: kindFSM, version: 1, request: NewRequestID(), command: []byte("x")},
		{kind: kindGroup, version: 1, request: NewRequestID(), command: (&order{Remove: &orderNode{"n1"}}).encode()},
		{kind: kindGroup, version: 1, request: NewRequestID(), command: (&order{TakeOffice: &Member{ID: "n2", Address: "x:1", MaxVersion: 1}}).encode()},
	} {
		if _, _, err := mine.call(c.ctx(), "n1", n.cfg.Address, methodApply, e.encode()); !errors.Is(err, ErrRefused) {
			t.Errorf("no member, and yet: %v", err)
		}
	}
}

func TestFolderBelongsToOneNode(t *testing.T) {
	c := start(t, 1, nil)
	n := c.nodes["n1"]
	n.stop()
	cfg := n.cfg
	cfg.NodeID, cfg.Listener = "n9", nil
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "belongs to node n1") {
		t.Errorf("%v", err)
	}
	cfg.Dir = t.TempDir()
	cfg.Bootstrap, cfg.Incarnation = false, 0
	if _, err := Open(cfg); err == nil {
		t.Error("an empty folder without a cluster was opened")
	}
}

// Whatever the members are, steps of nextVoterChange end at what ChooseVoters
// wants, which keeps its rules.
func TestVotersAreChosenWell(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "members")
		desired := rapid.SampledFrom([]int{1, 3, 5, 7}).Draw(t, "desired")
		members := make([]Candidate, n)
		alive := 0
		for i := range members {
			m := &members[i]
			m.ID = fmt.Sprint("n", i)
			m.Domains = []string{
				rapid.SampledFrom([]string{"", "z1", "z2", "z3"}).Draw(t, "zone"),
				rapid.SampledFrom([]string{"r1", "r2", "r3", "r4"}).Draw(t, "rack"),
			}
			m.Leader = i == 0
			m.Voter = m.Leader || rapid.Bool().Draw(t, "voter")
			m.Ready = m.Leader || rapid.Bool().Draw(t, "ready")
			m.Alive = m.Ready || rapid.Bool().Draw(t, "alive")
		}
		voters := 0
		for _, m := range members {
			if m.Voter {
				voters++
				if m.Ready {
					alive++
				}
			}
		}
		if alive <= voters/2 {
			return // nobody leads
		}
		for range 4 * n {
			should := ChooseVoters(members, desired)
			if len(should)%2 != 1 || len(should) > desired || !slices.Contains(should, "n0") {
				t.Fatalf("%v of %+v", should, members)
			}
			next := nextVoterChange(members, should)
			if next == (voterChange{}) {
				break
			}
			for i := range members {
				if m := &members[i]; m.ID == next.promote {
					if m.Voter || !m.Ready {
						t.Fatalf("promoted %+v", m)
					}
					m.Voter = true
				} else if m.ID == next.demote {
					if !m.Voter || m.Leader {
						t.Fatalf("demoted %+v", m)
					}
					m.Voter = false
				}
			}
			voters, up := 0, 0
			for _, m := range members {
				if m.Voter {
					voters++
					if m.Ready {
						up++
					}
				}
			}
			if up <= voters/2 {
				t.Fatalf("%+v has cost the majority: %+v", next, members)
			}
		}
		should := ChooseVoters(members, desired)
		next := nextVoterChange(members, should)
		if next != (voterChange{}) {
			t.Fatalf("no end: %+v of %+v", next, members)
		}
		// Whoever is silent votes only when too few others could.
		ready := 0
		for _, m := range members {
			if m.Ready {
				ready++
			}
		}
		for _, m := range members {
			if slices.Contains(should, m.ID) && !m.Alive && ready >= len(should) {
				t.Fatalf("%s is gone and votes, with %d ready for %d: %+v", m.ID, ready, len(should), members)
			}
		}
	})
}

// With one ready member in each of three racks, all racks vote.
func TestVotersAreSpread(t *testing.T) {
	var members []Candidate
	for i := range 9 {
		members = append(members, Candidate{ID: fmt.Sprint("n", i), Domains: []string{fmt.Sprint("rack", i/3)},
			Leader: i == 0, Voter: i < 3, Alive: true, Ready: true})
	}
	if got := ChooseVoters(members, 3); !slices.Equal(got, []string{"n0", "n3", "n6"}) {
		t.Errorf("%v", got)
	}
	for i := range members {
		members[i].Domains = nil
	}
	if got := ChooseVoters(members, 3); !slices.Equal(got, []string{"n0", "n1", "n2"}) {
		t.Errorf("without domains, voters change for nothing: %v", got)
	}
}

// What a stopped member answers is not taken to be about who asked.
func TestStoppedMemberStopsNobodyElse(t *testing.T) {
	c := start(t, 1, nil)
	n := c.nodes["n1"]
	asker := c.prepare("n2")
	asker.mustOpen()
	here, there := net.Pipe()
	defer here.Close()
	n.retire(ErrRemoved)
	done := make(chan struct{})
	go func() { n.serve(there, "n2"); close(done) }()
	for _, m := range []method{methodApply, methodStatus, methodJoin} {
		if err := writeFrame(here, byte(m), nil); err != nil {
			t.Fatal(err)
		}
		kind, text, err := readFrame(here, 4096)
		if err != nil {
			t.Fatal(err)
		}
		if err := code(kind).err("n1", string(text)); !errors.Is(err, ErrHalted) || errors.Is(err, ErrRemoved) {
			t.Errorf("method %d: %v", m, err)
		}
	}
	here.Close()
	<-done
}

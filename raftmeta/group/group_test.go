package group

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if runAsNode() {
		return
	}
	goleak.VerifyTestMain(m)
}

// A node alone doesn't wait for an election timeout, which is 20 s here, and
// has its state back after a restart.
func TestOneNodeLeadsAtOnce(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.Heartbeat = 20 * time.Second })
	begin := time.Now()
	n := c.first("n1")
	t.Logf("first command acknowledged after %v", time.Since(begin))
	c.apply(n, "a")
	n.restart()
	begin = time.Now()
	c.apply(n, "b")
	t.Logf("after a restart: %v", time.Since(begin))
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it waited for its election timeout: %v", took)
	}
	c.agree("first", "a", "b")
	if term, err := n.Verify(c.ctx()); err != nil || term < 2 {
		t.Errorf("term %d, %v", term, err)
	}
	if n.Leader().ID != "n1" {
		t.Errorf("leader %+v", n.Leader())
	}
}

// Without certificates a node works alone and admits nobody.
func TestPlainNodeStaysAlone(t *testing.T) {
	c := newCluster(t, nil)
	n := c.prepare("n1")
	n.cfg.Address, n.cfg.Bootstrap = "127.0.0.1:1", true
	g, err := Open(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if _, err := g.Apply(c.ctx(), Command{Version: 1, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if err := g.Barrier(c.ctx()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(n.cfg); err == nil {
		t.Fatal("the folder was opened twice")
	}
}

// Commands and linearizable reads work on every member.
func TestThreeNodes(t *testing.T) {
	c := start(t, 3, steady)
	var names []string
	for _, id := range c.ids() {
		for _, other := range c.ids() {
			name := id + "-" + other
			c.apply(c.nodes[id], name)
			names = append(names, name)
			if err := c.nodes[other].Barrier(c.ctx()); err != nil {
				t.Fatal(err)
			}
			if c.nodes[other].ledger.counts()[name] != 1 {
				t.Fatalf("%s was acknowledged on %s and is not read on %s", name, id, other)
			}
		}
	}
	c.agree(names...)
	for _, f := range c.followers() {
		if _, err := f.Verify(c.ctx()); !errors.Is(err, ErrNotLeader) {
			t.Errorf("%s verified that it leads: %v", f.id, err)
		}
	}
	l := c.leader()
	term, err := l.Verify(c.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if now, ok := l.Leads(); !ok || now != term {
		t.Errorf("leads in %d, verified %d", now, term)
	}
}

func TestRequestTakesEffectOnce(t *testing.T) {
	c := start(t, 3, nil)
	id := NewRequestID()
	first, err := c.nodes["n2"].Apply(c.ctx(), Command{Version: 1, Request: id, Data: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		again, err := n.Apply(c.ctx(), Command{Version: 1, Request: id, Data: []byte("x")})
		if err != nil || again.Index != first.Index || string(again.Data) != string(first.Data) {
			t.Fatalf("%s: %+v, %v; first it was %+v", n.id, again, err, first)
		}
	}
	l := c.leader()
	c.until("a change of leader", func() bool { return l.TransferLeadership(c.ctx(), "") == nil })
	again, err := l.Apply(c.ctx(), Command{Version: 1, Request: id, Data: []byte("x")})
	if err != nil || again.Index != first.Index {
		t.Fatalf("after a change of leader: %+v, %v", again, err)
	}
	c.agree("x")
}

func TestUnknownCommandsStayOutOfTheLog(t *testing.T) {
	c := start(t, 3, steady)
	before := c.leader().Stats().LastIndex
	for _, n := range c.nodes {
		if _, err := n.Apply(c.ctx(), Command{Version: 1, Data: []byte("?")}); !errors.Is(err, ErrUnknownCommand) {
			t.Errorf("%s: unknown: %v", n.id, err)
		}
		if _, err := n.Apply(c.ctx(), Command{Version: 2, Data: []byte("x")}); !errors.Is(err, ErrGate) {
			t.Errorf("%s: version 2: %v", n.id, err)
		}
		if _, err := n.Apply(c.ctx(), Command{Version: 1, Data: make([]byte, CommandMax+1)}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: too large: %v", n.id, err)
		}
	}
	if after := c.leader().Stats().LastIndex; after != before {
		t.Errorf("the log grew from %d to %d", before, after)
	}
}

// The leader dies under load: another takes over, nothing acknowledged is
// lost, and nothing is applied twice.
func TestLeaderDies(t *testing.T) {
	c := start(t, 3, nil)
	l := c.load(4, c.groups()...)
	l.more(100)
	dead := c.leader()
	begin := time.Now()
	dead.stop()
	c.until("another leader", func() bool { n := c.leading(); return n != nil && n != dead })
	t.Logf("another leader after %v, with a heartbeat of %v", time.Since(begin), testHeartbeat)
	l.more(100)
	dead.mustOpen()
	l.groups[0].wake()
	l.more(100)
	c.agree(l.stop()...)
}

// Followers know at once what is committed, however long the library would let them wait.
func TestFollowersLearnOfCommits(t *testing.T) {
	c := start(t, 3, func(cfg *Config) { cfg.Heartbeat = 20 * time.Second }) // it would for 10 to 20 s each time, also while the group begins
	ctx := c.ctx()
	for i := range 20 {
		r, err := c.leader().Apply(ctx, Command{Version: 1, Data: fmt.Appendf(nil, "c%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range c.followers() {
			if err := f.Wait(ctx, r.Index); err != nil {
				t.Fatalf("%s, command %d: %v", f.id, i, err)
			}
		}
	}
}

// A leader whose process has ended is mostly replaced at once, and not after a
// heartbeat: an election may be lost, on a busy machine, and then the library's own come.
func TestDeadLeaderIsReplacedAtOnce(t *testing.T) {
	const rounds = 6
	c := start(t, 3, func(cfg *Config) { cfg.Heartbeat = 6 * time.Second })
	early := 0
	for i := range rounds {
		c.apply(c.nodes["n2"], fmt.Sprintf("before %d", i))
		dead := c.leader()
		begin := time.Now()
		dead.die()
		c.until("another leader", func() bool { n := c.leading(); return n != nil && n != dead })
		took := time.Since(begin)
		t.Logf("another leader after %v", took)
		if took < 5*time.Second { // no follower would stand before 6 s
			early++
		}
		dead.mustOpen()
		for _, n := range c.nodes { // nobody votes for who has less of the log
			if err := n.Barrier(c.ctx()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if early < rounds/3 {
		t.Errorf("%d of %d leaders were replaced before a heartbeat was over", early, rounds)
	}
}

// A leader that has only hung up is not replaced: its port is open.
func TestLeaderThatListensIsNotReplaced(t *testing.T) {
	c := start(t, 3, steady)
	leader := c.leader()
	term, _ := leader.Leads()
	for _, f := range c.followers() {
		f.succeed(f.Leader())
	}
	c.apply(leader, "after")
	if now, ok := leader.Leads(); !ok || now != term {
		t.Errorf("it led in term %d; now %v, in term %d", term, ok, now)
	}
}

func TestStopHandsOver(t *testing.T) {
	c := start(t, 3, steady)
	old := c.leader()
	begin := time.Now()
	if err := old.Stop(c.ctx()); err != nil {
		t.Fatal(err)
	}
	old.stop()
	c.until("another leader", func() bool { n := c.leading(); return n != nil && n != old })
	if took := time.Since(begin); took > 18*time.Second {
		t.Errorf("handing over took %v: the others waited for silence", took)
	}
}

func TestRestartAll(t *testing.T) {
	c := start(t, 3, nil)
	names := []string{"first"}
	for _, name := range []string{"a", "b", "c"} {
		c.apply(c.nodes["n2"], name)
		names = append(names, name)
	}
	for _, n := range c.nodes {
		n.stop()
	}
	for _, n := range c.nodes {
		n.mustOpen()
	}
	c.apply(c.nodes["n3"], "d")
	c.agree(append(names, "d")...)
}

// TestRestartInEveryOrder: two of three suffice to go on, whichever they are, and in
// whatever order all stop and start.
func TestRestartInEveryOrder(t *testing.T) {
	c := start(t, 3, nil)
	names := []string{"first"}
	for i, starts := range orders {
		for _, id := range orders[len(orders)-1-i] {
			c.nodes[id].stop()
		}
		c.nodes[starts[0]].mustOpen()
		c.nodes[starts[1]].mustOpen()
		names = append(names, fmt.Sprint(starts))
		c.apply(c.nodes[starts[0]], names[i+1])
		c.nodes[starts[2]].mustOpen()
	}
	c.agree(names...)
}

// orders are all of three nodes.
var orders = [][]string{{"n1", "n2", "n3"}, {"n1", "n3", "n2"}, {"n2", "n1", "n3"}, {"n2", "n3", "n1"}, {"n3", "n1", "n2"}, {"n3", "n2", "n1"}}

// A leader that is cut off stops: it proves nothing, acknowledges nothing, and
// reads on its side fail, from the first moment. The others go on.
func TestIsolatedLeader(t *testing.T) {
	c := start(t, 3, nil)
	old := c.leader()
	c.wires.isolate(c.ids(), old.id)
	if term, err := old.Verify(c.ctx()); err == nil {
		t.Errorf("verified that it leads in term %d without reaching anybody", term)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := old.Barrier(ctx); err == nil {
		t.Error("a linearizable read on the minority's side")
	}
	r, err := old.Apply(ctx, Command{Version: 1, Data: []byte("minority")})
	if !errors.Is(err, ErrOutcomeUnknown) && !errors.Is(err, ErrNoLeader) {
		t.Errorf("applied by a minority: %+v, %v", r, err)
	}
	c.until("another leader", func() bool { n := c.leading(); return n != nil && n != old })
	c.apply(c.leader(), "majority")
	c.until("the old leader stands down", func() bool { _, leads := old.Leads(); return !leads })
	c.wires.heal()
	c.agree("majority")
}

// What was asked of a leader that is gone without a word is asked of the next one as soon as there is one, and
// not when patience ends.
func TestQuestionsLeaveALeaderThatIsGone(t *testing.T) {
	c := start(t, 3, func(cfg *Config) { cfg.Heartbeat = time.Second }) // patience is 10 s, and leaves time for more than one election
	old, asks := c.leader(), c.followers()[0]
	c.apply(asks, "before")
	began := time.Now()
	c.wires.silence(c.ids(), old.id)
	read := make(chan error, 1)
	go func() { read <- asks.Barrier(c.ctx()) }()
	c.apply(asks, "after")
	if err := <-read; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took >= asks.patience() {
		t.Errorf("a command and a read of a follower took %v after its leader was gone", took)
	}
	c.wires.heal()
	c.agree("before", "after")
}

// A follower that is cut off has no effect on the others, and comes back: it
// stays in its term, since it asks before it stands for election.
func TestIsolatedFollower(t *testing.T) {
	c := start(t, 3, nil)
	leader, cut := c.leader(), c.followers()[0]
	c.wires.isolate(c.ids(), cut.id)
	term := cut.Stats().Term
	l := c.load(2, leader.Group)
	l.more(50)
	<-time.After(3 * testHeartbeat) // sleep: the follower must have stood for election in vain
	if now := cut.Stats().Term; now != term {
		t.Errorf("it went from term %d to %d, which will depose the leader", term, now)
	}
	c.wires.heal()
	l.more(50)
	c.agree(l.stop()...)
}

func TestFiveNodesLoseTwo(t *testing.T) {
	c := start(t, 5, func(cfg *Config) { cfg.Voters = 5 })
	l := c.load(3, c.groups()...)
	l.more(30)
	one, two := c.leader(), c.followers()[1]
	c.wires.isolate(c.ids(), one.id, two.id) // these two still see each other
	c.until("another leader", func() bool { n := c.leading(); return n != nil && n != one && n != two })
	l.more(30)
	c.wires.heal()
	l.more(30)
	c.agree(l.stop()...)
}

// Commands per second, from 64 clients at a time, on the leader.
func BenchmarkApply(b *testing.B) {
	for _, size := range []int{1, 3} {
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			c := start(b, size, func(cfg *Config) { cfg.Heartbeat = time.Second })
			leader := c.leader()
			data := make([]byte, 256)
			data[0] = 1
			b.ResetTimer()
			var next atomic.Int64
			var clients sync.WaitGroup
			for range 64 {
				clients.Go(func() {
					for next.Add(1) <= int64(b.N) {
						if _, err := leader.Apply(context.Background(), Command{Version: 1, Data: data}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			clients.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
		})
	}
}

// One Verify after another, as a lease renewal does it.
func BenchmarkVerify(b *testing.B) {
	c := start(b, 3, func(cfg *Config) { cfg.Heartbeat = time.Second })
	leader := c.leader()
	for b.Loop() {
		if _, err := leader.Verify(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

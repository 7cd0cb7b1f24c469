package membership

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"blockd.dev/internal/clock"
)

// sim is a leader and its peers in simulated time, one heartbeat per step.
type sim struct {
	t     *testing.T
	rng   *rand.Rand
	cfg   Config
	table *Table
	now   clock.Mono
	nodes []*simNode
	loss  float64
	cut   func(from, to int) bool // to -1 is the leader
	got   []Transition
}

type simNode struct {
	name        string
	incarnation uint64
	dead        bool
	heard       []clock.Mono // of each other node
}

func newSim(t *testing.T, seed uint64, nodes int) *sim {
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 2)), cfg: Config{}.withDefaults(), now: 1e9, cut: func(int, int) bool { return false }}
	s.table = New(s.cfg, s.now)
	for i := range nodes {
		n := &simNode{name: fmt.Sprint("n", i), incarnation: 1, heard: make([]clock.Mono, nodes)}
		s.nodes = append(s.nodes, n)
		s.table.Add(n.name, Joining)
	}
	return s
}

func (s *sim) arrives(from, to int) bool {
	return !s.nodes[from].dead && !s.cut(from, to) && s.rng.Float64() >= s.loss
}

// run lets time pass, and returns the transitions of it.
func (s *sim) run(d time.Duration) []Transition {
	first := len(s.got)
	for end := s.now.Add(d); s.now < end; {
		s.now = s.now.Add(s.cfg.Every)
		for i, n := range s.nodes {
			for j, peer := range s.nodes {
				if i != j && !peer.dead && s.arrives(i, j) {
					peer.heard[i] = s.now
				}
			}
			if !s.arrives(i, -1) {
				continue
			}
			s.table.Heartbeat(s.now, n.name, n.incarnation, 100*time.Microsecond)
			for j, at := range n.heard {
				if what := Hears; j != i {
					if at == 0 || s.now.Sub(at) >= s.cfg.SuspectAfter {
						what = Silent
					}
					s.table.Report(s.now, n.name, s.nodes[j].name, s.nodes[j].incarnation, what)
				}
			}
		}
		s.got = append(s.got, s.table.Tick(s.now)...)
	}
	return s.got[first:]
}

// kill ends a process; the leader and the peers see its sockets die.
func (s *sim) kill(i int) []Transition {
	n := s.nodes[i]
	n.dead = true
	s.now = s.now.Add(2 * time.Millisecond)
	s.table.ConnectionDied(n.name, n.incarnation)
	for j, peer := range s.nodes {
		if j != i && !peer.dead {
			s.table.Report(s.now, peer.name, n.name, n.incarnation, Died)
		}
	}
	got := s.table.Tick(s.now)
	s.got = append(s.got, got...)
	return got
}

func (s *sim) start(i int) {
	s.nodes[i].dead = false
	s.nodes[i].incarnation++
}

func (s *sim) want(name string, state State) {
	s.t.Helper()
	if got := s.table.State(name); got != state {
		s.t.Errorf("%s is %s, want %s; so far: %+v", name, got, state, s.got)
	}
}

func TestLossDoesNotFlap(t *testing.T) {
	for seed := range uint64(5) {
		s := newSim(t, seed, 8)
		s.run(5 * time.Second)
		s.loss = 0.3
		if got := s.run(20 * time.Minute); len(got) != 0 {
			t.Errorf("seed %d: 30%% loss: %+v", seed, got)
		}
	}
}

func TestADeadProcessIsDownAtOnce(t *testing.T) {
	s := newSim(t, 1, 4)
	s.run(5 * time.Second)
	if got := s.kill(2); len(got) != 1 || got[0].To != Down || !strings.Contains(got[0].Reason, "4 of 4 nodes saw the connection die") {
		t.Fatalf("got %+v", got)
	}
	s.start(2)
	if got := s.run(5 * time.Second); len(got) != 1 || got[0].To != Up {
		t.Errorf("its new process was heard, what others said of the old one counts no more: %+v", got)
	}
	// The leader's own connection alone says nothing of the process.
	s.table.ConnectionDied("n1", 1)
	if got := s.table.Tick(s.now); len(got) != 0 {
		t.Errorf("one connection died: %+v", got)
	}
	// A heartbeat of the dead process that comes late does not revive it.
	s.kill(2)
	s.table.Heartbeat(s.now, "n2", 1, 0)
	s.table.Tick(s.now)
	s.want("n2", Down)
}

// Peers whose connections were reset don't take down a node which the leader
// hears, and what they say of an earlier process counts for nothing.
func TestPeersAloneKillNobody(t *testing.T) {
	s := newSim(t, 1, 4)
	s.run(5 * time.Second)
	died := func(incarnation uint64) {
		for _, peer := range []string{"n0", "n2", "n3"} {
			s.table.Report(s.now, peer, "n1", incarnation, Died)
		}
	}
	died(1)
	if got := s.table.Tick(s.now); len(got) != 0 {
		t.Errorf("the leader hears it: %+v", got)
	}
	s.table.Heartbeat(s.now, "n1", 2, 0)
	died(1)
	s.now = s.now.Add(2 * s.cfg.Every)
	if got := s.table.Tick(s.now); len(got) != 0 {
		t.Errorf("an earlier process died: %+v", got)
	}
	died(2)
	if got := s.table.Tick(s.now); len(got) != 1 || got[0].To != Down {
		t.Errorf("the present process died, and the leader hears nothing: %+v", got)
	}
}

func TestOneWayPartition(t *testing.T) {
	s := newSim(t, 1, 4)
	s.run(5 * time.Second)
	s.cut = func(from, to int) bool { return from == 1 && to == -1 }
	got := s.run(5 * time.Minute)
	if len(got) != 1 || got[0].To != Suspect || !strings.Contains(got[0].Reason, "3 of 4 nodes hear it") {
		t.Fatalf("got %+v", got)
	}
	s.cut = func(from, to int) bool { return from == 1 } // now nobody hears it
	if got := s.run(20 * time.Second); len(got) != 1 || got[0].To != Down {
		t.Fatalf("got %+v", got)
	}
	s.cut = func(int, int) bool { return false }
	s.run(time.Second)
	s.want("n1", Up)
}

// Heard tells by whom it may that a node is there, and is not older than the term or the leader's last pause.
func TestHeard(t *testing.T) {
	s := newSim(t, 1, 4)
	began := s.now
	if got := s.table.Heard("n1"); got != began || s.table.Heard("nobody") != 0 {
		t.Errorf("at first: %v, want %v", got, began)
	}
	s.run(5 * time.Second)
	s.cut = func(from, to int) bool { return from == 1 && to == -1 }
	s.run(20 * time.Second)
	if got := s.table.Heard("n1"); got != s.now {
		t.Errorf("its peers hear it at %v: %v", s.now, got)
	}
	silent := s.now
	s.cut = func(from, to int) bool { return from == 1 }
	s.run(20 * time.Second)
	if got := s.table.Heard("n1").Sub(silent); got < 0 || got > s.cfg.SuspectAfter {
		t.Errorf("nobody hears it: the last time is %v after it was silent", got)
	}
	s.now = s.now.Add(30 * time.Second) // the leader itself pauses
	s.table.Tick(s.now)
	if got := s.table.Heard("n1"); got != s.now {
		t.Errorf("the leader paused until %v: %v", s.now, got)
	}
}

func TestPauses(t *testing.T) {
	s := newSim(t, 1, 4)
	s.run(5 * time.Second)
	paused := true
	s.cut = func(from, to int) bool { return paused && (from == 3 || to == 3) }
	before := s.now
	got := s.run(30 * time.Second)
	if len(got) != 2 || got[0].To != Suspect || got[1].To != Down {
		t.Fatalf("a node pauses: %+v from %d", got, before)
	}
	paused = false
	if got := s.run(2 * time.Second); len(got) != 1 || got[0].To != Up {
		t.Errorf("it wakes up: %+v", got)
	}
	s.now = s.now.Add(30 * time.Second) // the leader itself pauses
	s.got = nil
	if got := append(s.table.Tick(s.now), s.run(10*time.Second)...); len(got) != 0 {
		t.Errorf("the leader pauses and blames others: %+v", got)
	}
}

func TestFlappingIsHeldDown(t *testing.T) {
	s := newSim(t, 1, 4)
	s.run(5 * time.Second)
	var held []time.Duration
	for range 9 {
		s.kill(0)
		s.want("n0", Down)
		s.start(0)
		s.run(time.Second)
		from := s.now
		for s.table.State("n0") == Held {
			s.run(time.Second)
		}
		s.want("n0", Up)
		held = append(held, s.now.Sub(from).Round(30*time.Second))
	}
	want := []time.Duration{0, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 30 * time.Minute}
	for i := range want {
		if held[i] != want[i] {
			t.Errorf("held for %s after down %d, want %s", held[i], i+1, want[i])
		}
	}
	s.run(2 * time.Hour)
	s.kill(0)
	s.start(0)
	s.run(time.Second)
	s.want("n0", Up) // forgotten

	s.kill(0)
	s.start(0)
	s.run(time.Second)
	s.want("n0", Held)
	if got := s.table.Drain("n0", false); len(got) != 1 || got[0].To != Up {
		t.Errorf("an administrator resumes it: %+v", got)
	}
}

func TestAHoldGoesOnAfterSilence(t *testing.T) {
	s := newSim(t, 1, 3)
	s.run(5 * time.Second)
	for range 2 {
		s.kill(0)
		s.start(0)
		s.run(time.Second)
	}
	s.want("n0", Held)
	s.cut = func(from, _ int) bool { return from == 0 }
	s.run(4 * time.Second)
	s.want("n0", Suspect)
	s.cut = func(int, int) bool { return false }
	s.run(time.Second)
	s.want("n0", Held)
}

func TestAdministratorsWishes(t *testing.T) {
	s := newSim(t, 1, 3)
	s.run(5 * time.Second)
	s.table.Drain("n1", true)
	s.want("n1", Draining)
	s.kill(1)
	s.start(1)
	s.run(time.Second)
	s.want("n1", Draining) // a drain outlives a restart
	s.table.Drain("n1", false)
	s.want("n1", Up)
	s.table.Remove("n2")
	s.run(time.Minute)
	s.want("n2", Left)
	if len(s.table.Drain("n2", true))+len(s.table.Remove("n2"))+len(s.table.Drain("nobody", true)) != 0 {
		t.Error("what has left changes")
	}
	if got := s.table.RTT("n1"); got != 100*time.Microsecond {
		t.Errorf("the round trip is %s", got)
	}
}

// Whatever comes in, transitions follow one another, have a reason, and are
// those of the table in doc.go; nobody comes back who has left.
func TestTransitionsAreOrderly(t *testing.T) {
	allowed := map[[2]State]bool{}
	for _, p := range [][2]State{
		{Joining, Up}, {Joining, Draining}, {Up, Suspect}, {Draining, Suspect}, {Held, Suspect}, {Suspect, Up}, {Suspect, Draining}, {Suspect, Held},
		{Up, Down}, {Suspect, Down}, {Held, Down}, {Draining, Down}, {Down, Up}, {Down, Held}, {Down, Draining}, {Held, Up},
		{Up, Draining}, {Held, Draining}, {Draining, Up},
	} {
		allowed[p] = true
	}
	rapid.Check(t, func(t *rapid.T) {
		now := clock.Mono(1e9)
		table := New(Config{}, now)
		names := []string{"a", "b", "c", "d"}
		state := map[string]State{}
		for _, n := range names {
			table.Add(n, Joining)
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			n := rapid.SampledFrom(names).Draw(t, "node")
			process := rapid.Uint64Range(1, 3).Draw(t, "process")
			var got []Transition
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1, 2:
				table.Heartbeat(now, n, process, time.Duration(rapid.IntRange(-1, 1000).Draw(t, "rtt")))
			case 3:
				table.ConnectionDied(n, process)
			case 4, 5:
				table.Report(now, rapid.SampledFrom(names).Draw(t, "peer"), n, process, Opinion(rapid.IntRange(1, 3).Draw(t, "opinion")))
			case 6:
				got = table.Drain(n, rapid.Bool().Draw(t, "on"))
			case 7:
				if rapid.IntRange(0, 20).Draw(t, "remove") == 0 {
					got = table.Remove(n)
				}
			default:
				now = now.Add(time.Duration(rapid.IntRange(0, 12_000).Draw(t, "ms")) * time.Millisecond)
				got = table.Tick(now)
			}
			for _, tr := range got {
				if tr.From != state[tr.Node] || tr.Reason == "" || !allowed[[2]State{tr.From, tr.To}] && tr.To != Left || tr.From == Left {
					t.Fatalf("%+v, it was %s", tr, state[tr.Node])
				}
				state[tr.Node] = tr.To
			}
			for _, n := range names {
				if table.State(n) != state[n] {
					t.Fatalf("%s is %s without a transition from %s", n, table.State(n), state[n])
				}
			}
		}
	})
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{{SuspectAfter: 1}, {DownAfter: 1}, {OpinionsLast: 1}, {HoldMin: time.Hour}, {Every: -1}} {
		if c.Validate() == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

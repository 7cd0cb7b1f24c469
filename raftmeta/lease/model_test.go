package lease

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"blockd.dev/internal/clock"
)

var replay = flag.Uint64("lease.seed", 0, "simulate this seed alone, and print what happens")

// A world is a cluster in simulated time: three nodes that may be leader, three
// that own volumes, each with a clock that runs at its own rate. Until calm,
// leaders change, messages are lost and late, processes pause and restart.
// After each event it is checked that no volume has two valid holders.
type world struct {
	rng     *rand.Rand
	wrong   mistake
	verbose bool

	now, calm int64 // real time, ns
	queue     events
	order     int

	term      int
	committed Table
	leaders   [3]*member
	owners    [3]*owner
	wanted    map[VolumeID]int // which owner shall have it

	violation string
}

// A mistake is a rule that the simulated nodes break, to see that it is found.
type mistake int

const (
	none               mistake = iota
	answersUnverified          // rule 3
	newLeaderHurries           // does not wait after its election
	driftIgnored               // the leader waits as if clocks were equal
	countsFromAnswer           // the holder counts from the answer
	renewsWhilePending         // rule 4
	releasesTooEarly           // rule 5
	clockStopsInPause          // rule 1
	oldStartLivesOn            // rule 6
	mistakes
)

// modelConfig has drift large enough to matter: rates are within 4.5% of real
// time, so one clock runs at most 1.045/0.955 = 1.0942 times as fast as another.
var modelConfig = Config{Duration: time.Second, Margin: time.Millisecond, DriftPPM: 100_000}

type member struct {
	rate     float64
	term     int
	leading  *Leader // nil while it does not believe to be leader
	table    Table   // the newest that it has applied
	pausedTo int64
}

type owner struct {
	name        string
	rate        float64
	behind      int64 // how far a clock that stops in pauses is behind
	incarnation uint64
	h           *Holder
	draining    map[VolumeID]Release
	undead      []*Holder // mistake oldStartLivesOn
	pausedTo    int64
}

type event struct {
	at    int64
	order int
	do    func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	*q = (*q)[:last]
	return e
}

const ms = int64(time.Millisecond)

func newWorld(seed uint64, wrong mistake) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), wrong: wrong, calm: 9000 * ms, wanted: map[VolumeID]int{{1}: 0, {2}: 1}}
	for i := range w.leaders {
		w.leaders[i] = &member{rate: w.anyRate()}
	}
	for i := range w.owners {
		o := &owner{name: fmt.Sprint("n", i), rate: w.anyRate(), draining: map[VolumeID]Release{}}
		w.owners[i] = o
		w.restart(o)
		w.every(40*ms, func() { w.ownerTick(o) })
	}
	w.elect()
	w.every(50*ms, func() {
		for _, m := range w.leaders {
			w.leaderTick(m)
		}
	})
	w.every(500*ms, w.trouble)
	return w
}

func (w *world) anyRate() float64 {
	return []float64{0.955, 1.045, 0.955 + 0.09*w.rng.Float64()}[w.rng.IntN(3)]
}

func (w *world) after(d int64, do func()) {
	w.order++
	heap.Push(&w.queue, event{w.now + d, w.order, do})
}

func (w *world) every(d int64, do func()) {
	w.after(d, func() { do(); w.every(d, do) })
}

// upTo is a random time below d.
func (w *world) upTo(d int64) int64 { return w.rng.Int64N(d) }

// chance is true in one of n cases, and never in calm.
func (w *world) chance(n int) bool { return w.now < w.calm && w.rng.IntN(n) == 0 }

// send delivers a message after some time, or never.
func (w *world) send(do func()) {
	if w.chance(6) {
		return
	}
	d := 1 + w.upTo(5*ms)
	if w.chance(8) {
		d += w.upTo(2500 * ms)
	}
	w.after(d, do)
	if w.chance(10) {
		w.after(d+w.upTo(1500*ms), do)
	}
}

func (w *world) memberClock(m *member) clock.Mono { return clock.Mono(1e9 + m.rate*float64(w.now)) }

func (w *world) ownerClock(o *owner) clock.Mono {
	return clock.Mono(5e9 + o.rate*float64(w.now-o.behind))
}

func (w *world) log(format string, args ...any) {
	if w.verbose {
		fmt.Printf("%9.3fms %s\n", float64(w.now)/1e6, fmt.Sprintf(format, args...))
	}
}

// trouble makes one fault.
func (w *world) trouble() {
	if w.now >= w.calm {
		return
	}
	o, m := w.owners[w.rng.IntN(3)], w.leaders[w.rng.IntN(3)]
	switch w.rng.IntN(6) {
	case 0, 1:
		w.elect()
	case 2:
		o.pausedTo = w.now + w.upTo(2500*ms)
		if w.wrong == clockStopsInPause {
			o.behind += o.pausedTo - w.now
		}
	case 3:
		m.pausedTo = w.now + w.upTo(2500*ms)
	case 4:
		w.restart(o)
	case 5:
		w.wanted[VolumeID{byte(1 + w.rng.IntN(2))}] = w.rng.IntN(3)
	}
}

// elect makes another leader. The old one learns of it some time later.
func (w *world) elect() {
	w.term++
	term := w.term
	for _, old := range w.leaders {
		if leading := old.leading; leading != nil {
			w.after(w.upTo(3000*ms), func() {
				if old.leading == leading {
					old.leading = nil
				}
			})
		}
	}
	m := w.leaders[w.rng.IntN(3)]
	m.leading = nil
	w.after(w.upTo(30*ms), func() { // the barrier
		if w.term != term {
			return
		}
		m.term, m.table = term, w.committed
		cfg, now := modelConfig, w.memberClock(m)
		if w.wrong == driftIgnored {
			cfg.DriftPPM = 1
		}
		if w.wrong == newLeaderHurries {
			now = now.Add(-cfg.wait())
		}
		m.leading = NewLeader(cfg, now)
		w.log("term %d begins", term)
	})
}

// commit carries a change out if its proposer still leads when a majority has it.
func (w *world) commit(m *member, v VolumeID, change func(Table) (Table, error)) {
	leading, term := m.leading, m.term
	d := 1 + w.upTo(20*ms)
	if w.chance(2) {
		d = w.upTo(400 * ms)
	}
	w.after(d, func() {
		if term != w.term {
			return // the outcome stays unknown to m, until it hears of the new leader
		}
		t, err := change(w.committed)
		if err == nil {
			w.log("committed %x: %+v", v[:1], t.Get(v))
			w.committed = t
		}
		w.after(w.upTo(5*ms), func() { // applied at the leader
			if m.leading == leading {
				m.table = w.committed
				leading.Settled(w.memberClock(m), m.table, v)
			}
		})
	})
}

func (w *world) leaderTick(m *member) {
	if m.leading == nil || w.now < m.pausedTo {
		return
	}
	for v := byte(1); v <= 2; v++ {
		v := VolumeID{v}
		e, to := m.table.Get(v), w.owners[w.wanted[v]]
		if e.Owner != "" && e.Owner != to.name {
			m.leading.Recall(v, to.name)
		} else {
			m.leading.CancelRecall(v)
		}
		if m.leading.Propose(w.memberClock(m), m.table, v) {
			if w.wrong == renewsWhilePending {
				delete(m.leading.pending, v)
			}
			incarnation := to.incarnation
			w.commit(m, v, func(t Table) (Table, error) {
				t, _, err := t.Grant(v, e.Epoch, to.name, incarnation)
				return t, err
			})
		}
	}
}

func (w *world) restart(o *owner) {
	if w.wrong == oldStartLivesOn && o.h != nil {
		o.undead = append(o.undead, o.h)
	}
	o.incarnation++
	o.h = NewHolder(modelConfig, o.name, o.incarnation)
	o.draining = map[VolumeID]Release{}
	w.log("%s starts, incarnation %d", o.name, o.incarnation)
	w.renew(o)
}

func (w *world) ownerTick(o *owner) {
	if w.now < o.pausedTo {
		return
	}
	table := w.committed
	for v, e := range table.All() {
		if w.chance(3) {
			continue // has not applied that yet
		}
		o.h.Learn(v, e)
		if r, ok := o.draining[v]; ok {
			if r.Epoch != e.Epoch || e.Owner != o.name {
				delete(o.draining, v)
			} else {
				w.release(r)
			}
		}
	}
	if o.h.Next() <= w.ownerClock(o) {
		w.renew(o)
	}
}

func (w *world) release(r Release) {
	w.toLeader(func(m *member) {
		if !m.leading.Released(m.table, r) {
			return
		}
		to := w.owners[w.wanted[r.Volume]]
		incarnation := to.incarnation
		w.commit(m, r.Volume, func(t Table) (Table, error) {
			t, _, err := t.Transfer(r.Volume, r.Epoch, r.Node, r.Incarnation, to.name, incarnation)
			return t, err
		})
	})
}

// toLeader sends a message to every node that believes to be leader.
func (w *world) toLeader(do func(*member)) {
	for _, m := range w.leaders {
		if m.leading == nil {
			continue
		}
		leading := m.leading
		w.send(func() {
			w.after(max(0, m.pausedTo-w.now), func() {
				if m.leading == leading {
					do(m)
				}
			})
		})
	}
}

func (w *world) renew(o *owner) {
	h := o.h
	r := h.Renew(w.ownerClock(o))
	w.toLeader(func(m *member) { w.verified(m, func() { w.answer(m, o, h, r) }) })
}

// verified calls do when a majority confirmed after now that m leads. Between
// the confirmation and do, m may be paused and deposed.
func (w *world) verified(m *member, do func()) {
	leading := m.leading
	w.after(1+w.upTo(3*ms), func() {
		if m.term != w.term && w.wrong != answersUnverified {
			return
		}
		d := w.upTo(3 * ms)
		if w.chance(8) {
			d = w.upTo(2500 * ms)
		}
		w.after(d, func() {
			if m.leading == leading {
				do()
			}
		})
	})
}

func (w *world) answer(m *member, o *owner, h *Holder, r Renewal) {
	a := m.leading.Renew(w.memberClock(m), m.table, r)
	w.send(func() {
		w.after(max(0, o.pausedTo-w.now), func() {
			if h != o.h {
				return
			}
			if w.wrong == countsFromAnswer {
				for i := range h.open {
					h.open[i].at = w.ownerClock(o)
				}
			}
			_, recalled := h.Answered(a)
			for _, l := range recalled {
				if w.wrong == releasesTooEarly {
					w.release(Release{o.name, o.incarnation, l.Volume, l.Epoch})
					continue
				}
				w.after(w.upTo(300*ms), func() { // until it stops accepting requests
					if back, ok := h.GiveBack(l.Volume); ok && h == o.h {
						o.draining[l.Volume] = back
					}
				})
			}
		})
	})
}

// check looks for a volume with two valid holders.
func (w *world) check() {
	for v := byte(1); v <= 2; v++ {
		v, holders := VolumeID{v}, ""
		n := 0
		for _, o := range w.owners {
			for _, h := range append(o.undead, o.h) {
				if l := h.Get(v); l != nil && l.Valid(w.ownerClock(o)) {
					n++
					holders += fmt.Sprintf(" %s.%d in epoch %d", o.name, h.incarnation, l.Epoch)
				}
			}
		}
		if n > 1 && w.violation == "" {
			w.violation = fmt.Sprintf("at %v volume %x is held by%s", time.Duration(w.now), v[:1], holders)
		}
	}
}

// run returns what went wrong, or "".
func (w *world) run() string {
	for w.now < w.calm+7000*ms {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		w.check() // just before the event, when leases may have ended
		e.do()
		w.check()
		if w.violation != "" {
			return w.violation
		}
	}
	for v, i := range w.wanted {
		o := w.owners[i]
		if l := o.h.Get(v); l == nil || !l.Valid(w.ownerClock(o)) {
			return fmt.Sprintf("7 s after the last fault volume %x is not held by %s: %+v", v[:1], o.name, w.committed.Get(v))
		}
	}
	return ""
}

// At no instant do two nodes hold one volume, and when the faults stop, who
// should hold it does.
func TestModel(t *testing.T) {
	if *replay != 0 {
		w := newWorld(*replay, none)
		w.verbose = true
		if bad := w.run(); bad != "" {
			t.Fatal(bad)
		}
		return
	}
	const shards = 4
	for shard := range uint64(shards) {
		t.Run(fmt.Sprint(shard), func(t *testing.T) {
			t.Parallel()
			for seed := 1 + shard; seed <= modelSeeds; seed += shards {
				if bad := newWorld(seed, none).run(); bad != "" {
					t.Fatalf("seed %d (replay with -run TestModel -lease.seed %d): %s", seed, seed, bad)
				}
			}
		})
	}
}

// firstFound is where the search for each mistake begins: the seed that found
// it when this was written. After a change of the model it goes on from there.
var firstFound = [mistakes]uint64{
	answersUnverified: 719, newLeaderHurries: 39, driftIgnored: 684, countsFromAnswer: 155,
	renewsWhilePending: 809, releasesTooEarly: 1, clockStopsInPause: 22, oldStartLivesOn: 2,
}

// Each rule is needed: the model finds a node that breaks it.
func TestModelFindsMistakes(t *testing.T) {
	for wrong := none + 1; wrong < mistakes; wrong++ {
		found := false
		for seed := firstFound[wrong]; seed < firstFound[wrong]+2000 && !found; seed++ {
			w := newWorld(seed, wrong)
			w.run()
			if found = w.violation != ""; found {
				t.Logf("mistake %d is found by seed %d: %s", wrong, seed, w.violation)
			}
		}
		if !found {
			t.Errorf("mistake %d is not found in 2000 seeds", wrong)
		}
	}
}

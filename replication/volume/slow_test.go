package volume

import (
	"container/heap"
	"slices"
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
)

// slowConfig has the times of replication/device, and regions that are small.
var slowConfig = Config{
	BlockBytes: 8, RegionBytes: 32, ExtentBytes: 1024 * 32, VolumeBytes: 8 * 1024 * 32, MinInSync: 2,
	OpTimeout: 30 * time.Second, RequestTimeout: 500 * time.Millisecond, HedgeAfter: 10 * time.Millisecond,
	RetryAfter: 50 * time.Millisecond, OutAfter: 300 * time.Millisecond, GoneAfter: 50 * time.Millisecond, StableAfter: 50 * time.Millisecond,
	CompareRegions: 16, CopyRegions: 8, RebuildJobs: 64, Pace: time.Millisecond, PaceListen: time.Second, PaceMax: 5 * time.Millisecond,
}

// cluster is an owner, a disk for each of its replicas, hosts and Meta, under a clock that jumps from one event to the next.
type cluster struct {
	*bench
	events  events
	due     clock.Mono // of the next Tick, at the latest
	count   int
	stores  []*store
	members []Member
	revised uint64
	hosts   []*writer
	done    int           // writes that were acknowledged
	failed  int           // that were not
	longest time.Duration // that one of them took
	out     []int         // how often each replica was marked out
}

// writer is a host that has one write under way.
type writer struct {
	op    Op
	began clock.Mono
	next  int64
}

// store is a disk with a blockdev/store: a write's data, a sync and a batch of the log take an I/O each, one after the
// other, of the last two there is one under way, and the next takes all that have come meanwhile.
type store struct {
	io      time.Duration
	sync    stage
	log     stage
	changes int
	fence   func() // waits until changes is 0
}

type stage struct {
	busy  bool
	queue []func()
}

type event struct {
	at clock.Mono
	n  int
	do func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].n < e[j].n
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func (c *cluster) after(d time.Duration, do func()) {
	c.count++
	heap.Push(&c.events, event{c.now.Add(d), c.count, do})
}

// Send is Env: what a disk does with a request.
func (c *cluster) Send(disk int, q replica.Request) {
	s, data := c.stores[disk], q.Data
	q.Data = nil
	answer := func() { c.answer(sent{disk, q}, whole(sent{disk, q}, ok)) }
	const wire = 50 * time.Microsecond
	c.after(wire, func() {
		switch {
		case q.Kind == replica.Fence:
			s.fence = answer
			c.settled(s)
		case q.Kind == replica.Stable || q.Kind == replica.Versions || q.Kind == replica.Confirm:
			answer()
		case q.Kind == replica.Read:
			c.after(s.io, answer)
		default:
			s.changes++
			logged := func() {
				s.changes--
				answer()
				c.settled(s)
			}
			if len(data) == 0 {
				c.stage(s, &s.log, logged)
				return
			}
			c.after(s.io, func() { c.stage(s, &s.sync, func() { c.stage(s, &s.log, logged) }) })
		}
	})
}

func (c *cluster) settled(s *store) {
	if f := s.fence; f != nil && s.changes == 0 {
		s.fence = nil
		f()
	}
}

func (c *cluster) stage(s *store, g *stage, then func()) {
	if g.queue = append(g.queue, then); g.busy {
		return
	}
	g.busy = true
	batch := g.queue
	g.queue = nil
	c.after(s.io, func() {
		g.busy = false
		for _, then := range batch {
			then()
		}
		if more := g.queue; len(more) > 0 {
			g.queue = nil
			c.stage(s, g, func() {
				for _, then := range more {
					then()
				}
			})
		}
	})
}

// Propose is Env, and what Meta makes of it.
func (c *cluster) Propose(p Proposal) {
	c.after(5*time.Millisecond, func() {
		m := &c.members[p.Disk]
		if p.Gen != m.Gen {
			return
		}
		switch p.Change {
		case MarkOut:
			m.Sync = Out
			m.Gen++
			c.out[p.Disk]++
		case MarkRebuilding:
			m.Sync = Rebuilding
			m.Gen++
		case MarkIn:
			m.Sync = InSync
		case Keep:
			m.Gen++
		case Finish:
		}
		c.revised++
		c.o.Meta(c.now, View{Revision: c.revised, Epoch: 3, Members: slices.Clone(c.members)})
	})
}

// Complete is Env.
func (c *cluster) Complete(op *Op) {
	w := op.Tag.(*writer)
	if op.Err == nil {
		c.done++
	} else {
		c.failed++
	}
	c.longest = max(c.longest, c.now.Sub(w.began))
	c.after(0, func() { c.write(w) })
}

func (c *cluster) write(w *writer) {
	w.op.Off = w.next % (slowConfig.VolumeBytes / 4)
	w.next += int64(len(c.hosts)) * int64(len(w.op.Data))
	w.began = c.now
	c.o.Submit(c.now, &w.op)
}

// run goes on for d, or until done says so.
func (c *cluster) run(d time.Duration, done func() bool) {
	for end := c.now.Add(d); c.now < end && !done(); {
		c.due = min(c.due, c.o.Deadline())
		at := min(c.due, end)
		if len(c.events) > 0 && c.events[0].at <= at {
			e := heap.Pop(&c.events).(event)
			c.now = e.at
			e.do()
		} else {
			c.now = max(at, c.now+1)
			c.due = clock.Never
			c.o.Tick(c.now)
		}
	}
}

// newSlow is a cluster of three replicas, of which the second takes 200 ms for each I/O, with so many hosts.
func newSlow(t *testing.T, cfg Config, hosts int, members ...Member) *cluster {
	c := &cluster{bench: &bench{t: t, now: 1}, due: clock.Never, revised: 1, members: members, out: make([]int, len(members))}
	for i := range members {
		c.stores = append(c.stores, &store{io: fastIO})
		if i == 1 {
			c.stores[i].io = 200 * time.Millisecond
		}
	}
	c.o = New(cfg, c, Grant{View: View{Revision: 1, Epoch: 3, Members: slices.Clone(members)}, Until: 1000e9, Local: 0}, c.now)
	for i := range hosts {
		w := &writer{next: int64(i) * 4 * cfg.RegionBytes}
		w.op = Op{Kind: Write, Data: make([]byte, 4*cfg.RegionBytes), Tag: w}
		c.hosts = append(c.hosts, w)
		c.write(w)
	}
	return c
}

// pass runs for d, and tells how many writes ended.
func (c *cluster) pass(d time.Duration) int {
	was := c.done
	c.run(d, func() bool { return false })
	return c.done - was
}

const (
	fastIO = 10 * time.Millisecond
	// slowPipeline is what a write takes at a store whose I/Os take 200 ms: its own three, and those before it of two stages.
	slowPipeline = 5 * 200 * time.Millisecond
	// heldUp is how much longer a write may take that waits for a region which is being copied, and has then been overtaken once.
	heldUp = slowPipeline
)

// A disk has become slow while another replica is brought back, so that nothing can be written without it: writes go on at
// its speed, the other one is brought back soon, and then the slow one is done without. (Sessions that ended
// since the slow one was late had it begin anew, for ever; no write ended. Then the resync gave way to hosts who waited for the
// slow disk and not for it.)
func TestSlowReplicaThatIsNeeded(t *testing.T) {
	in, back := Member{Sync: InSync, Gen: 1}, Member{Sync: Rebuilding, Gen: 2}
	for _, hosts := range []int{1, 32} {
		c := newSlow(t, slowConfig, hosts, in, in, back)
		c.run(20*time.Second, func() bool { return c.members[2].Sync == InSync })
		if c.members[2].Sync != InSync || c.done == 0 {
			t.Fatalf("%d hosts: %d writes in %v, %d regions are left to copy: want the others in sync", hosts, c.done, c.now, c.o.Status().Members[2].Left)
		}
		c.run(20*time.Second, func() bool { return c.out[1] > 0 })
		if c.out[1] == 0 || c.out[0]+c.out[2] != 0 {
			t.Fatalf("%d hosts: marked out %v times each: want the slow one out, once it is not needed", hosts, c.out)
		}
		if c.failed != 0 || c.longest > slowPipeline+heldUp {
			t.Errorf("%d hosts: %d writes have failed, the longest took %v: want none, and %v at most", hosts, c.failed, c.longest, slowPipeline+heldUp)
		}
		const lasts = 30 * time.Second
		fast := newSlow(t, slowConfig, hosts, in, Member{Sync: InSync, Gen: 1}, in)
		fast.stores[1].io = fastIO
		want := fast.pass(lasts) * 8 / 10
		if got := c.pass(lasts); got < want {
			t.Errorf("%d hosts: %d writes in %v without the slow one: want %d, four fifths of what all take when fast", hosts, got, lasts, want)
		}
	}
}

// Nothing can ever be written without it: hosts have what the disk can do.
func TestSlowReplicaThatStaysNeeded(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	for _, hosts := range []int{1, 32} {
		c := newSlow(t, slowConfig, hosts, in, in)
		const lasts = time.Minute
		got, want := c.pass(lasts), hosts*int(lasts/slowPipeline)*9/10
		if got < want || c.failed != 0 || c.out[0]+c.out[1] != 0 || c.o.conns[1].session != 1 {
			t.Errorf("%d hosts: %d writes in %v, %d have failed, marked out %v, %d sessions: want %d, none, nobody, one", hosts, got, lasts, c.failed, c.out, c.o.conns[1].session, want)
		}
	}
}

// A disk that is slow for a moment only, or as slow as the others, keeps its replica in sync.
func TestReplicasThatAreNotSlowForLong(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	c := newSlow(t, slowConfig, 32, in, in, in)
	c.stores[1].io = 80 * time.Millisecond
	c.pass(lagTimeouts * slowConfig.RequestTimeout * 9 / 10)
	c.stores[1].io = fastIO
	c.pass(lagTimeouts * slowConfig.RequestTimeout)
	if c.out[0]+c.out[1]+c.out[2] != 0 || c.failed != 0 {
		t.Errorf("marked out %v, %d writes failed after a moment of slowness", c.out, c.failed)
	}
	c = newSlow(t, slowConfig, 32, in, in, in)
	for _, s := range c.stores {
		s.io = 80 * time.Millisecond
	}
	c.pass(time.Minute)
	if c.out[0]+c.out[1]+c.out[2] != 0 || c.failed != 0 {
		t.Errorf("marked out %v, %d writes failed where all are as slow", c.out, c.failed)
	}
}

// A needed disk that answers nothing for a while is slower than a replica that is brought back, and is somewhat slow itself.
func TestSlowerThanWhoIsBroughtBack(t *testing.T) {
	in, back := Member{Sync: InSync, Gen: 1}, Member{Sync: Rebuilding, Gen: 2}
	c := newSlow(t, slowConfig, 32, in, in, back)
	c.stores[1].io, c.stores[2].io = time.Second, 100*time.Millisecond
	c.run(5*time.Minute, func() bool { return c.members[2].Sync == InSync })
	if c.members[2].Sync != InSync || c.o.conns[2].session != 1 || c.failed != 0 {
		t.Errorf("after %v replica 2 is %+v in session %d, %d writes have failed: want it in sync in the first one, and none", c.now, c.members[2], c.o.conns[2].session, c.failed)
	}
}

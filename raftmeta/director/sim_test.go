package director

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/lease"
	"blockd.dev/raftmeta/pki"
	"blockd.dev/raftmeta/pulse"
)

var (
	onlySeed  = flag.Uint64("director.seed", 0, "run the simulation with this seed alone")
	moreSeeds = flag.Int("director.seeds", simSeeds, "how many seeds to simulate")
)

// mistake is a rule that the simulation leaves out, to show that it finds that.
type mistake int

const (
	noMistake  mistake = iota
	unverified         // pulses are answered without asking the voters
	anyTerm            // commands of one term may enter the log in another
	tooQuiet           // a new leader takes promises of earlier ones for older than they are
)

// world is a cluster in simulated time. What it does with the group is this:
// commands get into the log of the node that leads, and are committed a little
// later; those that are not when another is elected survive or don't. A leader that was
// replaced may not know it for a while.
type world struct {
	t      *testing.T
	wrong  mistake
	start  time.Time
	nodes  []*simNode
	owners bool // who holds a lease marks and moves copies, as owners do
	disks  int  // of each node; 0 is 1

	mu        sync.Mutex
	rng       *rand.Rand
	calm      bool
	term      uint64
	leader    *simNode // nil while there is none
	committed []entry
	pending   []*attempt
	truth     *catalog.FSM
	confirmed map[uint64]time.Time // by term: when a majority last confirmed it
	changed   chan struct{}        // closed and replaced when something above changes
	violation string
	acquired  int
	started   int // moves
	finished  int
	canceled  int
	done      bool
}

type entry struct {
	term uint64
	cmd  group.Command
}

// attempt is a command in a leader's log that is not committed.
type attempt struct {
	entry
	index  uint64
	result []byte
	done   chan struct{}
	lost   bool // its leader was replaced
}

// simNode is a node, and what it knows of the group: catalog.Log and Group.
type simNode struct {
	w      *world
	number int
	rate   float64 // of its clock
	cut    bool    // from all others
	dead   bool

	// The rest is of one start of its process.
	starts  uint64
	fsm     *catalog.FSM
	cat     *catalog.Catalog
	dir     *Director
	pulse   *pulse.Node
	stop    context.CancelFunc
	wg      *sync.WaitGroup
	applied uint64
	leads   uint64 // the term that it believes to lead, 0 for none
	sees    group.Leader
	seen    chan struct{}
	leases  map[catalog.ID]*lease.Lease
}

func (n *simNode) id() string { return nodeID(n.number).String() }

// Now implements clock.Clock.
func (n *simNode) Now() clock.Mono {
	return clock.Mono(1e9 + n.rate*float64(time.Since(n.w.start)))
}

func (w *world) upTo(d time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.rng.Int64N(int64(d)))
}

// chance is true in that many of a hundred cases, while faults happen.
func (w *world) chance(percent int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.calm && w.rng.IntN(100) < percent
}

// pause lets simulated time pass, or returns false when ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// tell wakes all that wait for a change. The caller has w.mu.
func (w *world) tell() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// Apply implements catalog.Log.
func (n *simNode) Apply(ctx context.Context, cmd group.Command) (group.Result, error) {
	w := n.w
	for {
		if !pause(ctx, w.upTo(3*time.Millisecond)) {
			return group.Result{}, group.ErrNoLeader
		}
		w.mu.Lock()
		if l := w.leader; l == nil || l.leads != w.term || l != n && (l.cut || n.cut) {
			w.mu.Unlock()
			if !pause(ctx, 20*time.Millisecond) {
				return group.Result{}, group.ErrNoLeader
			}
			continue
		}
		if w.wrong == anyTerm {
			cmd.Data = termless(cmd.Data)
		}
		a := &attempt{entry: entry{w.term, cmd}, done: make(chan struct{})}
		w.pending = append(w.pending, a)
		w.mu.Unlock()
		d := w.upTo(5 * time.Millisecond)
		if w.chance(3) {
			d = w.upTo(400 * time.Millisecond)
		}
		select {
		case <-time.After(d):
			w.commitUpTo(a)
		case <-a.done:
		}
		<-a.done
		if a.lost {
			return group.Result{}, fmt.Errorf("%w: another leads", group.ErrOutcomeUnknown)
		}
		return group.Result{Index: a.index, Term: a.term, Data: a.result}, nil
	}
}

// termless is a command that counts in any term.
func termless(data []byte) []byte {
	cmd := &catalogpb.Command{}
	if err := proto.Unmarshal(data, cmd); err != nil {
		panic(err)
	}
	cmd.Term = 0
	data, err := proto.Marshal(cmd)
	if err != nil {
		panic(err)
	}
	return data
}

// commitUpTo commits a, and what is before it in the log.
func (w *world) commitUpTo(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := slices.Index(w.pending, a); i >= 0; i-- {
		w.commitFirst()
	}
}

// commitFirst commits the oldest attempt. The caller has w.mu.
func (w *world) commitFirst() *attempt {
	a := w.pending[0]
	w.pending = w.pending[1:]
	w.committed = append(w.committed, a.entry)
	a.index = uint64(len(w.committed))
	before := w.truth.State()
	a.result = w.truth.Apply(a.index, a.term, a.cmd.Version, slices.Clone(a.cmd.Data))
	if w.owners {
		w.judgeMoves(before, w.truth.State(), a.cmd.Data)
	}
	close(a.done)
	w.tell()
	return a
}

// Wait implements catalog.Log.
func (n *simNode) Wait(ctx context.Context, index uint64) error {
	for {
		n.w.mu.Lock()
		changed, there := n.w.changed, n.applied >= index
		n.w.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Barrier implements catalog.Log.
func (n *simNode) Barrier(ctx context.Context) error {
	for {
		n.w.mu.Lock()
		l, index := n.w.leader, uint64(len(n.w.committed))
		reached := l != nil && l.leads == n.w.term && (l == n || !l.cut && !n.cut)
		n.w.mu.Unlock()
		if reached {
			return n.Wait(ctx, index)
		}
		if !pause(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// Err implements catalog.Log.
func (n *simNode) Err() error { return nil }

// Leads implements Group.
func (n *simNode) Leads() (uint64, bool) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.leads, n.leads != 0
}

// Verify implements Group.
func (n *simNode) Verify(ctx context.Context) (uint64, error) {
	term, leads := n.Leads()
	if !leads || !pause(ctx, n.w.upTo(3*time.Millisecond)) {
		return 0, group.ErrNotLeader
	}
	n.w.mu.Lock()
	confirmed := n.w.term == term && !n.cut || n.w.wrong == unverified
	if n.w.term == term && !n.cut {
		n.w.confirmed[term] = time.Now()
	}
	n.w.mu.Unlock()
	d := n.w.upTo(3 * time.Millisecond)
	if n.w.chance(5) { // what was confirmed may be over when the answer is read
		d = n.w.upTo(2500 * time.Millisecond)
	}
	if !pause(ctx, d) || !confirmed {
		return 0, group.ErrNotLeader
	}
	return term, nil
}

// Quiet implements Group. Those who are asked have clocks of their own.
func (n *simNode) Quiet(ctx context.Context) (time.Duration, error) {
	term, leads := n.Leads()
	if !leads || n.w.chance(20) || !pause(ctx, n.w.upTo(100*time.Millisecond)) {
		return 0, group.ErrNotLeader
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	last := n.w.start
	for t, at := range n.w.confirmed {
		if t < term && at.After(last) {
			last = at
		}
	}
	quiet := time.Duration(float64(time.Since(last)) * n.w.nodes[n.w.rng.IntN(len(n.w.nodes))].rate)
	if n.w.wrong == tooQuiet {
		quiet += 500 * time.Millisecond
	}
	return quiet, nil
}

// WatchLeader implements Group.
func (n *simNode) WatchLeader() (group.Leader, <-chan struct{}) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.sees, n.seen
}

// TransferLeadership implements Group.
func (n *simNode) TransferLeadership(context.Context, string) error {
	n.w.depose(n)
	return nil
}

// see tells a node who leads. The caller has w.mu.
func (n *simNode) see(l group.Leader) {
	if n.sees == l {
		return
	}
	n.sees = l
	close(n.seen)
	n.seen = make(chan struct{})
}

// depose ends the time of a leader for the others; some time later they have
// elected another. The old one may go on believing.
func (w *world) depose(old *simNode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leader != old || w.done {
		return
	}
	w.leader = nil
	wait := 400*time.Millisecond + time.Duration(w.rng.Int64N(int64(600*time.Millisecond)))
	time.AfterFunc(wait, w.elect)
}

// elect makes a node the leader of the next term, after it has all that survives.
func (w *world) elect() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var able []*simNode
	for _, n := range w.nodes {
		if !n.dead && !n.cut {
			able = append(able, n)
		}
	}
	if w.done || w.leader != nil {
		return
	}
	if len(able) <= len(w.nodes)/2 {
		time.AfterFunc(300*time.Millisecond, w.elect)
		return
	}
	w.term++
	n := able[w.rng.IntN(len(able))]
	w.leader = n
	for _, a := range w.pending {
		a.lost = true
	}
	for len(w.pending) > 0 && w.rng.IntN(2) == 0 {
		w.commitFirst()
	}
	for _, a := range w.pending {
		close(a.done)
	}
	w.pending = nil
	term, index := w.term, uint64(len(w.committed))
	for _, m := range w.nodes {
		after := time.Duration(w.rng.Int64N(int64(60 * time.Millisecond)))
		if m != n && m.leads != 0 { // it has not heard of that
			after = time.Duration(w.rng.Int64N(int64(2 * time.Second)))
		}
		if m == n {
			after = 0
		}
		time.AfterFunc(after, func() { w.hear(m, n, term, index) })
	}
}

// hear tells m that n leads in a term, and n that it takes office.
func (w *world) hear(m, n *simNode, term, index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.term != term || m.dead || w.done:
		return
	case m != n:
		m.leads = 0
	case m.applied < index:
		time.AfterFunc(time.Millisecond, func() { w.hear(m, n, term, index) })
		return
	default:
		m.leads = term
	}
	m.see(group.Leader{ID: n.id(), Address: "-", Term: term})
	w.tell()
}

// follow applies what is committed, a little later than the leader.
func (n *simNode) follow(ctx context.Context, fsm *catalog.FSM) {
	for {
		n.w.mu.Lock()
		changed, here := n.w.changed, !n.cut || n.w.leader == n
		var next *entry
		if here && n.applied < uint64(len(n.w.committed)) {
			next = &n.w.committed[n.applied]
		}
		leads := n.w.leader == n
		n.w.mu.Unlock()
		if next == nil {
			select {
			case <-changed:
				continue
			case <-time.After(100 * time.Millisecond):
				continue
			case <-ctx.Done():
				return
			}
		}
		if !leads && n.w.chance(20) && !pause(ctx, n.w.upTo(30*time.Millisecond)) {
			return
		}
		fsm.Apply(n.applied+1, next.term, next.cmd.Version, slices.Clone(next.cmd.Data))
		n.w.mu.Lock()
		n.applied++
		n.w.tell()
		n.w.mu.Unlock()
	}
}

// call carries a pulse to the leader, and the answer back.
func (n *simNode) call(ctx context.Context, leader group.Leader, req *blockdv1.PulseRequest) (*blockdv1.PulseResponse, error) {
	w := n.w
	i := slices.IndexFunc(w.nodes, func(m *simNode) bool { return m.id() == leader.ID })
	to := w.nodes[i]
	if !w.carry(ctx, n, to) {
		return nil, errors.New("lost on the way")
	}
	w.mu.Lock()
	dir, starts := to.dir, to.starts
	w.mu.Unlock()
	res, err := dir.Pulse(ctx, n.id(), proto.CloneOf(req))
	w.mu.Lock()
	same := to.starts == starts && !to.dead
	w.mu.Unlock()
	if !same || !w.carry(ctx, to, n) {
		return nil, errors.New("the answer was lost on the way")
	}
	return res, err
}

// carry lets a message take its time; it does not arrive always.
func (w *world) carry(ctx context.Context, from, to *simNode) bool {
	if from != to {
		d := w.upTo(2 * time.Millisecond)
		if w.chance(5) {
			d = w.upTo(900 * time.Millisecond)
		}
		if !pause(ctx, d) {
			return false
		}
	}
	w.mu.Lock()
	gone := from != to && (from.cut || to.cut) || to.dead
	w.mu.Unlock()
	if gone || from != to && w.chance(8) {
		pause(ctx, time.Minute) // silence
		return false
	}
	return true
}

// Acquired implements pulse.Events.
func (n *simNode) Acquired(l *lease.Lease, waits clock.Mono) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if n.dead {
		return // its process has ended
	}
	n.leases[catalog.ID(l.Volume)] = l
	n.w.acquired++
}

// Lost implements pulse.Events.
func (n *simNode) Lost(volume catalog.ID) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	delete(n.leases, volume)
}

// Recalled implements pulse.Events: what is accepted is ended, then it is given back.
func (n *simNode) Recalled(volume catalog.ID) {
	node, drain := n.pulse, n.w.upTo(200*time.Millisecond)
	time.AfterFunc(drain, func() {
		n.w.mu.Lock()
		delete(n.leases, volume)
		n.w.mu.Unlock()
		node.GaveBack(volume)
	})
}

// boot starts the node's process.
func (n *simNode) boot() {
	w := n.w
	fsm := catalog.NewFSM()
	w.mu.Lock()
	n.dead, n.starts, n.fsm, n.applied, n.leads = false, n.starts+1, fsm, 0, 0
	n.sees, n.seen, n.leases = group.Leader{}, make(chan struct{}), map[catalog.ID]*lease.Lease{}
	n.wg = &sync.WaitGroup{}
	leader, term := w.leader, w.term
	w.mu.Unlock()
	n.cat = catalog.New(fsm, n, pki.NewKeyring)
	dir, err := New(Config{Node: n.id(), Clock: n, Catalog: n.cat, Group: n, RebuildAfter: simRebuildAfter})
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	n.dir = dir
	w.mu.Unlock()
	n.pulse, err = pulse.New(pulse.Config{Node: n.id(), Incarnation: n.starts, Clock: n, Catalog: n.cat, Leader: n.WatchLeader, Call: n.call, Events: n})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	node := n.pulse
	n.wg.Go(func() { n.follow(ctx, fsm) })
	n.wg.Go(func() { _ = dir.Run(ctx) })
	n.wg.Go(func() { _ = node.Run(ctx) })
	if w.owners {
		n.wg.Go(func() { n.own(ctx) })
	}
	if leader != nil {
		time.AfterFunc(w.upTo(300*time.Millisecond), func() { w.hear(n, leader, term, 0) })
	}
}

// kill ends it.
func (n *simNode) kill() {
	n.w.mu.Lock()
	n.dead, n.leads, n.leases = true, 0, map[catalog.ID]*lease.Lease{}
	wasLeader := n.w.leader == n
	n.w.mu.Unlock()
	n.stop()
	n.wg.Wait()
	if wasLeader {
		n.w.depose(n)
	}
}

// check looks for a volume with two valid holders.
func (w *world) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	holder := map[catalog.ID]string{}
	for _, n := range w.nodes {
		now := n.Now()
		for v, l := range n.leases {
			if !l.Valid(now) {
				continue
			}
			me := fmt.Sprintf("node %d in epoch %d", n.number, l.Epoch)
			if holder[v] != "" && w.violation == "" {
				w.violation = fmt.Sprintf("after %v volume %s is held by %s and %s", time.Since(w.start), v, holder[v], me)
			}
			holder[v] = me
		}
	}
}

func (w *world) broken() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.violation
}

// do has some node propose a command; refusals are part of life here.
func (w *world) do(cmd *catalogpb.Command) error {
	n := w.nodes[w.upTo(time.Duration(len(w.nodes)))]
	w.mu.Lock()
	dead, cat := n.dead, n.cat
	w.mu.Unlock()
	if dead {
		return errors.New("the node is down")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := cat.DoContext(ctx, cmd)
	return err
}

const (
	simNodes   = 5
	simFaulty  = 20 * time.Second
	simCalm    = 14 * time.Second
	simVolumes = 16
)

// trouble does something to the cluster.
func (w *world) trouble(next *int) {
	n := w.nodes[w.upTo(simNodes)]
	v := 1 + int(w.upTo(time.Duration(max(1, *next))))
	switch w.upTo(12) {
	case 0, 1:
		if w.alive() == simNodes {
			n.kill()
			time.AfterFunc(w.upTo(3*time.Second), n.boot)
		}
	case 2, 3:
		w.isolate(n, w.upTo(3*time.Second))
	case 4:
		w.mu.Lock()
		l := w.leader
		w.mu.Unlock()
		if l != nil {
			w.depose(l)
		}
	case 5:
		_ = w.do(nodeStateCmd(n.number, catalog.NodeDraining))
	case 6:
		_ = w.do(nodeStateCmd(n.number, catalog.NodeActive))
	case 7:
		_ = w.do(moveCmd(v, n.number))
	case 8:
		_ = w.do(retireCmd(v))
	case 9:
		_ = w.do(jobCmd(*next, JobDrain, nodeName(n.number)))
	default:
		if *next < simVolumes && w.do(volumeCmd(*next+1, 1+int64(w.upTo(20)))) == nil {
			*next++
		}
	}
}

func (w *world) alive() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.nodes {
		if !m.dead {
			n++
		}
	}
	return n
}

// isolate cuts a node off for a while; only one at a time.
func (w *world) isolate(n *simNode, d time.Duration) {
	w.mu.Lock()
	for _, m := range w.nodes {
		if m.cut || m.dead {
			w.mu.Unlock()
			return
		}
	}
	n.cut = true
	leads := w.leader == n
	w.mu.Unlock()
	if leads {
		w.depose(n)
	}
	time.AfterFunc(d, func() {
		w.mu.Lock()
		n.cut = false
		w.tell()
		w.mu.Unlock()
	})
}

// begin starts a world of that many nodes, in a bubble of synctest; end ends it.
func begin(t *testing.T, seed uint64, w *world, nodes int) (_ *world, end func()) {
	w.t, w.start, w.rng = t, time.Now(), rand.New(rand.NewPCG(seed, 7))
	w.truth, w.confirmed, w.changed = catalog.NewFSM(), map[uint64]time.Time{}, make(chan struct{})
	for i := 1; i <= nodes; i++ {
		w.nodes = append(w.nodes, &simNode{w: w, number: i, rate: 0.9955 + 0.009*w.rng.Float64(), dead: true})
	}
	for _, n := range w.nodes {
		n.boot()
	}
	w.elect()
	stopChecks := make(chan struct{})
	var checks sync.WaitGroup
	checks.Go(func() {
		for {
			w.check()
			select {
			case <-time.After(time.Millisecond):
			case <-stopChecks:
				return
			}
		}
	})
	return w, func() {
		w.mu.Lock()
		w.done = true
		w.mu.Unlock()
		time.Sleep(5 * time.Second) // sleep: what is on its way by time.AfterFunc finds that it is over
		for _, n := range w.nodes {
			n.kill()
		}
		close(stopChecks)
		checks.Wait()
	}
}

// simulate runs one seed, in a bubble of synctest. It returns what went wrong, or "".
func simulate(t *testing.T, seed uint64, wrong mistake) string {
	w, end := begin(t, seed, &world{wrong: wrong}, simNodes)
	defer end()
	for _, cmd := range nodesAndPool(simNodes) {
		for w.do(cmd) != nil {
			time.Sleep(10 * time.Millisecond) // sleep: simulated time
		}
	}
	volumes := 0
	for volumes < simVolumes/2 {
		if w.do(volumeCmd(volumes+1, 2)) == nil {
			volumes++
		}
	}
	for time.Since(w.start) < simFaulty && w.broken() == "" {
		time.Sleep(w.upTo(250 * time.Millisecond)) // sleep: simulated time
		w.trouble(&volumes)
	}
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	time.Sleep(simCalm) // sleep: simulated time, in which all has to get well
	if bad := w.broken(); bad != "" {
		return bad
	}
	t.Logf("seed %d: %d terms, %d commands, %d volumes of %d are left, %d leases began", seed, w.term, len(w.committed), len(w.truth.State().Volumes), volumes, w.acquired)
	return w.judge()
}

// held is who holds the lease of each volume.
func (w *world) held() map[catalog.ID]*simNode {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := map[catalog.ID]*simNode{}
	for _, n := range w.nodes {
		for v, l := range n.leases {
			if l.Valid(n.Now()) {
				held[v] = n
			}
		}
	}
	return held
}

// judge says what is not well after the calm, or "".
func (w *world) judge() string {
	s, held := w.truth.State(), w.held()
	active := slices.ContainsFunc(s.Nodes, func(n catalog.Node) bool { return n.State == catalog.NodeActive })
	for i := range s.Volumes {
		v := &s.Volumes[i]
		n := held[v.ID]
		switch l, _ := s.Lease(v.ID); {
		case v.Retired:
			return fmt.Sprintf("volume %s was deleted, and is still there", v.Name)
		case !s.Allocated(v.ID) && placeable(s):
			return fmt.Sprintf("volume %s has no disks", v.Name)
		case n == nil && active && s.Allocated(v.ID):
			return fmt.Sprintf("nobody serves volume %s; the catalog says %+v", v.Name, l)
		case n != nil && s.Node(nodeName(n.number)).State != catalog.NodeActive && active:
			return fmt.Sprintf("volume %s is served by node %d, which is %s", v.Name, n.number, s.Node(nodeName(n.number)).State)
		}
		if bad := apart(s, v); bad != "" {
			return bad
		}
	}
	for i := range s.Jobs {
		if j := &s.Jobs[i]; !j.Ended() && active {
			return fmt.Sprintf("job %+v has not ended", j)
		}
	}
	return ""
}

// placeable reports whether three copies can be placed at all.
func placeable(s *catalog.State) bool {
	n := 0
	for i := range s.Nodes {
		if s.Nodes[i].State == catalog.NodeActive {
			n++
		}
	}
	return n >= 3
}

// apart says which extent has two copies on one node, or "".
func apart(s *catalog.State, v *catalog.Volume) string {
	m := s.Map().Volume(extmap.VolumeID(v.ID))
	for i := range m.Layout().Extents() {
		e, ok := m.Extent(i)
		nodes := map[catalog.ID]bool{}
		for _, d := range e.Disks {
			if ok {
				nodes[s.DiskByNumber(d).Node] = true
			}
		}
		if ok && len(nodes) != 3 {
			return fmt.Sprintf("extent %d of volume %s is on the disks %d", i, v.Name, e.Disks)
		}
	}
	return ""
}

// Never do two nodes hold one volume, whatever happens; and when nothing happens any more,
// all volumes are placed and served, what was deleted is gone, and drains end.
func TestSimulation(t *testing.T) {
	first, n := uint64(1), *moreSeeds
	if *onlySeed != 0 {
		first, n = *onlySeed, 1
	}
	for seed := first; seed < first+uint64(n); seed++ {
		synctest.Test(t, func(t *testing.T) {
			if bad := simulate(t, seed, noMistake); bad != "" {
				t.Errorf("seed %d: %s; again by -run Simulation -director.seed %d", seed, bad, seed)
			}
		})
	}
}

// The simulation finds what it is there to find.
func TestSimulationFindsMistakes(t *testing.T) {
	for wrong, name := range map[mistake]string{unverified: "pulses are answered without a majority", anyTerm: "commands count in any term", tooQuiet: "earlier promises are taken for older than they are"} {
		found := ""
		for seed := uint64(1); seed <= mistakeSeeds && found == ""; seed++ {
			synctest.Test(t, func(t *testing.T) { found = simulate(t, seed, wrong) })
			if found != "" {
				t.Logf("%s: found with seed %d: %s", name, seed, found)
			}
		}
		if found == "" && mistakeSeeds > 0 {
			t.Errorf("%s: not found", name)
		}
	}
}

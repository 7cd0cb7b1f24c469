package director

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/membership"
	"blockd.dev/raftmeta/placement"
	"blockd.dev/raftmeta/pulse"
)

// Health says how a volume is.
type Health string

// The states of volumes.
const (
	Healthy  Health = "healthy"  // all copies are good, and it is served
	Degraded Health = "degraded" // it is served, with fewer copies than it should have
	Starting Health = "starting" // it gets its disks and its first owner; or the node that is asked starts
	Stuck    Health = "stuck"    // hosts wait: it can't be written, or is not served
)

// Explanation is how a volume is, why, what happens next, and what there is
// to do for an administrator. Each is a list of sentences.
type Explanation struct {
	State   Health
	Because []string
	Next    []string
	Advice  []string
}

// Explain says how a volume is, by the catalog and by how the leader sees the
// nodes (pulse.Node.Members), whose director has that RebuildAfter. ok is false when there is no such volume.
//
// Of a node that has joined just now, and of all when this one has just started, nothing is
// known until the leader's next answer. That is no reason to say that hosts wait, nor
// that all is well: where it makes a difference, it is what is said.
func Explain(s *catalog.State, members []pulse.NodeView, volume catalog.ID, rebuildAfter time.Duration) (e Explanation, ok bool) {
	vol := s.VolumeByID(volume)
	if vol == nil {
		return Explanation{}, false
	}
	nodes := map[string]pulse.NodeView{}
	for _, n := range members {
		nodes[n.Node] = n
	}
	hoped, unknown := maps.Clone(nodes), []string(nil)
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if _, known := nodes[n.ID.String()]; !known {
			unknown = append(unknown, n.Name)
			hoped[n.ID.String()] = pulse.NodeView{Node: n.ID.String(), State: membership.Up}
		}
	}
	e = explain(s, vol, hoped, rebuildAfter)
	if len(unknown) > 0 && explain(s, vol, nodes, rebuildAfter).State != e.State {
		e = Explanation{State: Starting,
			Because: []string{"this node has not heard yet how these nodes are: " + strings.Join(unknown, ", ")},
			Next:    []string{"the leader's next answer says it; ask again in a second, or at another node"}}
	}
	return e, true
}

// explain says how a volume is when nodes that are not among those given are away.
func explain(s *catalog.State, vol *catalog.Volume, nodes map[string]pulse.NodeView, rebuildAfter time.Duration) Explanation {
	x := &explainer{s: s, vol: vol, pool: s.Pool(vol.Pool), m: s.Map().Volume(extmap.VolumeID(vol.ID)), nodes: nodes, jobs: diskJobs(s), rebuildAfter: rebuildAfter}
	x.State = Healthy
	switch {
	case vol.Retired:
		x.because("it was deleted; hosts don't see it any more")
		x.next("when its owner has stopped to serve it, all nodes free its data")
	case x.m == nil:
		x.oneCopy()
	default:
		x.extents()
		x.owner()
		x.replicas()
		x.moves()
	}
	return x.Explanation
}

type explainer struct {
	Explanation
	s     *catalog.State
	vol   *catalog.Volume
	pool  *catalog.Pool
	m     *extmap.Volume
	nodes map[string]pulse.NodeView
	jobs  map[diskJob]*catalog.Job

	rebuildAfter time.Duration
}

func (x *explainer) because(format string, args ...any) {
	x.Because = append(x.Because, fmt.Sprintf(format, args...))
}
func (x *explainer) next(format string, args ...any) {
	x.Next = append(x.Next, fmt.Sprintf(format, args...))
}

// advise says what to do, once.
func (x *explainer) advise(format string, args ...any) {
	if what := fmt.Sprintf(format, args...); !slices.Contains(x.Advice, what) {
		x.Advice = append(x.Advice, what)
	}
}

// worse makes the state a worse one, if it is.
func (x *explainer) worse(h Health) {
	order := []Health{Healthy, Degraded, Starting, Stuck}
	if slices.Index(order, h) > slices.Index(order, x.State) {
		x.State = h
	}
}

// unready is how a volume is that can't be served yet, but will be at once: one
// that never was has no hosts that wait.
func (x *explainer) unready() Health {
	if l, _ := x.s.Lease(x.vol.ID); l.Epoch == 0 {
		return Starting
	}
	return Stuck
}

// alive reports whether a node is heard by the leader.
func (x *explainer) alive(id catalog.ID) bool {
	n, known := x.nodes[id.String()]
	return known && (n.State == membership.Up || n.State == membership.Held || n.State == membership.Draining)
}

// node is a node in words, with what is wrong with it.
func (x *explainer) node(id catalog.ID) string {
	n := x.s.NodeByID(id)
	if n == nil {
		return fmt.Sprintf("node %s, which was removed", id)
	}
	v := x.nodes[id.String()]
	switch {
	case x.alive(id):
		return "node " + n.Name
	case v.Since.IsZero():
		return fmt.Sprintf("node %s, which is %s", n.Name, v.State)
	}
	return fmt.Sprintf("node %s, which is %s since %s (%s)", n.Name, v.State, clockTime(v.Since), v.Reason)
}

func clockTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// oneCopy is a volume of a pool with one copy: it lives where its data is.
func (x *explainer) oneCopy() {
	home := x.s.NodeOfVolume(x.vol)
	switch {
	case home == nil:
		x.because("it has one copy, and the node that has it is not known")
		x.worse(Stuck)
	case x.alive(home.ID):
		x.because("it has one copy, on %s, which serves it", x.node(home.ID))
	default:
		x.because("it has one copy, on %s", x.node(home.ID))
		x.worse(Stuck)
		x.next("hosts reach it again when that node is back")
		x.advise("start node %s; a pool with --replicas 3 keeps volumes reachable without it", home.Name)
	}
}

// extents is whether all of the volume has disks.
func (x *explainer) extents() {
	total, have := x.m.Layout().Extents(), x.m.Allocated()
	if have == total {
		return
	}
	x.because("%d of its %d extents have no disks yet", total-have, total)
	c, err := x.cluster()
	if err == nil {
		err = c.Explain(x.m.Policy())
	}
	if err != nil {
		x.worse(Stuck)
		x.because("%s", strings.TrimPrefix(err.Error(), "placement: "))
		x.next("they get disks as soon as there are enough")
		return
	}
	x.worse(x.unready())
	x.next("they get disks now")
}

// owner is who serves the volume, or why nobody does.
func (x *explainer) owner() {
	l, _ := x.s.Lease(x.vol.ID)
	switch {
	case l.Owner.IsZero() && l.Epoch == 0:
		x.because("no node serves it yet")
		x.unserved("the leader of the cluster chooses one")
	case l.Owner.IsZero():
		x.because("no node serves it since %s", clockTime(l.Since))
		x.unserved("the leader of the cluster chooses another")
	case x.alive(l.Owner):
		x.because("%s serves it since %s (epoch %d)", x.node(l.Owner), clockTime(l.Since), l.Epoch)
	default:
		x.because("it was served by %s", x.node(l.Owner))
		x.unserved(fmt.Sprintf("another node takes it over when its lease has ended for certain, %s after it was last heard",
			(pulse.Defaults.Lease.Duration + pulse.Defaults.Lease.Duration/100).Round(10*time.Millisecond)))
	}
	if n := x.s.NodeByID(l.MoveTo); n != nil && l.MoveTo != l.Owner {
		if x.alive(l.MoveTo) && n.State == catalog.NodeActive {
			x.next("it moves to node %s, as an administrator wants it", n.Name)
		} else {
			x.next("it is to move to %s, when that can serve volumes", x.node(l.MoveTo))
		}
	}
	if n := x.s.NodeByID(l.Owner); n != nil && n.State == catalog.NodeDraining {
		x.next("it moves away from node %s, which is being drained", n.Name)
	}
}

// unserved is what follows from a volume that nobody serves.
func (x *explainer) unserved(next string) {
	for i := range x.s.Nodes {
		if n := &x.s.Nodes[i]; n.State == catalog.NodeActive && n.Plays(RoleTarget) && x.alive(n.ID) {
			x.worse(x.unready())
			x.next("%s; hosts wait until then", next)
			return
		}
	}
	x.worse(Stuck)
	x.next("nobody can take it: no node is up and active that serves volumes")
	x.advise("start a node, or resume one (blockctl node list)")
}

// replicas is how the copies are, and whether there are enough to write.
func (x *explainer) replicas() {
	need := int(x.pool.MinInSync)
	var lines []string
	good := map[extmap.Disk]bool{}
	for _, r := range x.s.Replicas(x.vol.ID) {
		good[r.Disk] = r.Sync == extmap.InSync
		if line := x.replica(r); line != "" {
			lines = append(lines, line)
		}
		x.elsewhere(r)
	}
	least := x.leastGood(good)
	reached := x.leastGood(x.reachable(good))
	copies := x.m.Policy().Width()
	switch {
	case len(lines) == 0 && x.m.Allocated() > 0:
		x.because("all %d copies are in sync", copies)
	case x.m.Allocated() > 0:
		x.worse(Degraded)
		x.Because = append(x.Because, lines...)
		x.because("%d of %d copies are in sync where there are fewest", least, copies)
	}
	if x.m.Allocated() == 0 {
		return
	}
	x.because("a write waits for all copies in sync, and for %d at least", need)
	switch {
	case least < need:
		x.worse(Stuck)
		x.because("so it can't be written now")
		x.next("writes go on when %d copies are in sync again", need)
	case reached < need:
		x.worse(Stuck)
		x.because("only %d of those in sync can be reached, so it can't be written now", reached)
		x.next("writes go on when %d of them can be reached", need)
	}
}

// replica is what is wrong with a copy, in words, or "".
func (x *explainer) replica(r catalog.Replica) string {
	d := x.s.DiskByID(r.DiskID)
	where := fmt.Sprintf("disk %d on %s", r.Disk, x.node(r.Node))
	if n := x.s.NodeByID(r.Node); n != nil && !x.alive(r.Node) {
		x.advise("start node %s, or see why it is not heard (blockctl node list)", n.Name)
		if r.Sync == extmap.InSync {
			x.next("the owner marks disk %d out of sync, and writes go on without it, if enough others are in sync", r.Disk)
		} else {
			x.next("when node %s is back, what disk %d has missed is copied to it", n.Name, r.Disk)
		}
		return where + " is " + r.Sync.String()
	}
	switch {
	case d != nil && d.State == catalog.DiskFailed:
		x.advise("replace disk %s, which has failed: %s", d.ID, cmp.Or(d.Reason, "no reason is known"))
		return where + " has failed, and is " + r.Sync.String()
	case r.Sync == extmap.OutOfSync:
		x.next("the owner begins to copy to disk %d what it has missed", r.Disk)
		return where + " is out of sync: it has missed writes"
	case r.Sync == extmap.Rebuilding:
		x.next("disk %d is in sync when all has been copied that it missed", r.Disk)
		return where + " is rebuilding: it takes new writes, and the others are being copied"
	}
	return ""
}

// elsewhere is which disks take the place of one that is lost or to be emptied.
func (x *explainer) elsewhere(r catalog.Replica) {
	d, n := x.s.DiskByID(r.DiskID), x.s.NodeByID(r.Node)
	if d == nil || n == nil {
		return
	}
	j := jobOf(x.jobs, d)
	if j != nil && !goes(j) {
		x.held(r.Disk, d, j)
		return
	}
	when, moved := "", ""
	if j != nil {
		moved = fmt.Sprintf("; job %s has %d of %d extents moved", j.ID, j.StepsDone, j.StepsTotal)
	}
	if j == nil && !isLeaving(x.s, x.jobs, d, n) {
		if x.alive(r.Node) || n.State == catalog.NodeDraining {
			return
		}
		when = fmt.Sprintf("if node %s stays away for %v, its copies are made anew: ", n.Name, x.rebuildAfter)
	}
	c, err := x.cluster()
	if err != nil {
		return
	}
	moves, err := c.Evacuate(x.m, func(from extmap.Disk) bool { return from == r.Disk }, batch)
	switch {
	case err != nil:
		x.next("%s%s", when, strings.TrimPrefix(err.Error(), "placement: "))
	case len(moves) > 0:
		x.next("%s%s the place of disk %d, of up to %d extents at a time, and at most %d volumes%s", when, takers(moves), r.Disk, batch.Moves, movingMax, moved)
	}
}

// held is why nothing takes the place of a disk that should be emptied.
func (x *explainer) held(number extmap.Disk, d *catalog.Disk, j *catalog.Job) {
	x.next("no disk takes the place of disk %d: job %s (%s) is %s", number, j.ID, j.Kind, j.State)
	if j.State == catalog.JobPaused {
		x.advise("blockctl job resume %s, to have other disks take the place of disk %d", j.ID, number)
		return
	}
	x.advise("blockctl disk drain %s, to have other disks take the place of disk %d after all", d.ID, number)
}

// takers are the disks that extents move to, in words.
func takers(moves []extmap.Move) string {
	var to []extmap.Disk
	for _, m := range moves {
		to = append(to, m.To)
	}
	slices.Sort(to)
	to = slices.Compact(to)
	if len(to) == 1 {
		return fmt.Sprintf("disk %d takes", to[0])
	}
	return fmt.Sprintf("disks %s take", numbers(to))
}

// numbers lists disks: "1, 2 and 3".
func numbers(disks []extmap.Disk) string {
	var words []string
	for _, d := range disks {
		words = append(words, fmt.Sprint(d))
	}
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// moves is which extents are on the move.
func (x *explainer) moves() {
	to := map[extmap.Disk]int{}
	n := 0
	for m := range x.m.Moves() {
		to[m.To]++
		n++
	}
	if n == 0 {
		return
	}
	disks := slices.Sorted(maps.Keys(to))
	x.because("%d of its %d extents are being copied to other disks: to %s", n, x.m.Layout().Extents(), numbers(disks))
	x.next("when all is there, they take the place of those that have these extents now, and their owner begins anew with them")
}

// cluster is the disks that its extents may be on.
func (x *explainer) cluster() (*placement.Cluster, error) {
	return Cluster(x.s, x.vol.Pool, func(node string) bool { id, _ := catalog.ParseID(node); return x.alive(id) })
}

// reachable is good without the disks of nodes that are not heard.
func (x *explainer) reachable(good map[extmap.Disk]bool) map[extmap.Disk]bool {
	out := map[extmap.Disk]bool{}
	for _, r := range x.s.Replicas(x.vol.ID) {
		out[r.Disk] = good[r.Disk] && x.alive(r.Node)
	}
	return out
}

// explainedMax is how many extents Explain looks at, one by one. Sets repeat, so
// it finds those that there are with near certainty.
const explainedMax = 16384

// leastGood returns the fewest good copies that an extent has.
func (x *explainer) leastGood(good map[extmap.Disk]bool) int {
	least := x.m.Policy().Width()
	for i := range min(x.m.Layout().Extents(), explainedMax) {
		e, ok := x.m.Extent(i)
		if !ok {
			continue
		}
		n := 0
		for _, d := range e.Disks {
			if good[d] {
				n++
			}
		}
		least = min(least, n)
	}
	return least
}

package director

import (
	"slices"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/lease"
	"blockd.dev/raftmeta/membership"
	"blockd.dev/raftmeta/pulse"
)

// term is one term of this node as leader. Its methods are the decisions;
// they are called one at a time, and read no clock.
type term struct {
	number   uint64
	self     string
	times    pulse.Times
	start    clock.Mono
	leases   *lease.Leader
	members  *membership.Table
	peers    map[string]*peer
	known    map[string]bool // nodes of the catalog that members has
	draining map[string]bool
	notes    map[string]note

	underWay  map[string]bool       // keys of proposals without an outcome
	refused   map[string]clock.Mono // keys that are not proposed again before
	granting  map[lease.VolumeID]string
	recalling map[lease.VolumeID]string // by volume, its owner

	rebuildAfter time.Duration
	silentSince  map[string]clock.Mono     // when those that are down were last heard
	stuck        map[extmap.Disk]string    // why nothing takes the place of a disk
	moveAt       clock.Mono                // no moves are planned before
	moveFrom     int                       // the volume to begin with
	unserved     map[catalog.ID]clock.Mono // volumes that nobody serves
	even         int                       // volumes in a row of which nothing is worth moving
}

// peer is a node that was heard in this term.
type peer struct {
	incarnation uint64
	heard       clock.Mono
	leaving     bool
}

// note is why a node is in its state.
type note struct {
	reason string
	since  time.Time
}

// proposal is a command that a term wants in the log.
type proposal struct {
	key    string // nothing else of this key is proposed before the outcome is known
	cmd    *catalogpb.Command
	volume lease.VolumeID // its lease is pending until then; zero for none
}

// proposalsMax is how many commands are under way at a time; what is not
// proposed now is when there is room. A leader commits those that come together with
// one write to its disk.
const proposalsMax = 128

// refusedPause is for how long what was refused is not proposed again: the
// state must change, and refusals are kept in the audit log.
const refusedPause = time.Second

// newTerm begins a term. now is a reading from after the Barrier (rule 2).
func newTerm(number uint64, self string, times pulse.Times, now clock.Mono) *term {
	return &term{number: number, self: self, times: times, start: now,
		leases: lease.NewLeader(times.Lease, now), members: membership.New(membership.Config{Every: times.Every}, now),
		peers: map[string]*peer{}, known: map[string]bool{}, draining: map[string]bool{}, notes: map[string]note{},
		underWay: map[string]bool{}, refused: map[string]clock.Mono{},
		granting: map[lease.VolumeID]string{}, recalling: map[lease.VolumeID]string{},
		rebuildAfter: RebuildAfter, silentSince: map[string]clock.Mono{}, stuck: map[extmap.Disk]string{}, unserved: map[catalog.ID]clock.Mono{}}
}

// turn is what came of one look at everything.
type turn struct {
	proposals   []proposal
	transitions []membership.Transition
	wake        clock.Mono // look again then, or when something has changed
}

// look decides what to do now. wall is the time of day, for what people read.
func (t *term) look(now clock.Mono, wall time.Time, s *catalog.State) turn {
	out := turn{wake: now.Add(t.times.Every)}
	out.transitions = t.followMembers(now, wall, s)
	v := t.view(now, s)
	if !v.complete { // nodes send a pulse at once when another leads
		out.wake = min(out.wake, t.start.Add(t.times.Every/2))
	}
	t.assignExtents(v, &out)
	t.assignLeases(v, &out)
	t.moveExtents(v, &out)
	t.carryOn(v, &out)
	for key, until := range t.refused {
		if until <= now {
			delete(t.refused, key)
			continue
		}
		out.wake = min(out.wake, until)
	}
	return out
}

// propose puts a command into the turn, which mayPropose has allowed.
func (t *term) propose(out *turn, p proposal) {
	t.underWay[p.key] = true
	p.cmd.Term, p.cmd.Actor = t.number, "cluster"
	out.proposals = append(out.proposals, p)
}

// mayPropose reports whether there is room for a command, and none of its key is
// under way or was refused just now.
func (t *term) mayPropose(now clock.Mono, key string) bool {
	return len(t.underWay) < proposalsMax && !t.underWay[key] && t.refused[key] <= now
}

// settled ends a proposal whose outcome is known: s has it, or it was refused.
func (t *term) settled(now clock.Mono, s *catalog.State, p proposal, refused bool) {
	delete(t.underWay, p.key)
	delete(t.refused, p.key)
	if refused {
		t.refused[p.key] = now.Add(refusedPause)
	}
	if p.volume != (lease.VolumeID{}) {
		t.leases.Settled(now, s.LeaseTable(), p.volume)
		delete(t.granting, p.volume)
	}
}

// followMembers makes the membership that of the catalog, and lets time pass.
func (t *term) followMembers(now clock.Mono, wall time.Time, s *catalog.State) (all []membership.Transition) {
	first := len(t.known) == 0
	there := map[string]bool{}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		id, drain := n.ID.String(), n.State == catalog.NodeDraining || n.State == catalog.NodeDrained
		there[id] = true
		if !t.known[id] {
			t.known[id], t.draining[id] = true, drain && first
			state := membership.Joining
			switch { // who was a member before this term has the time from now on to be heard
			case first && drain:
				state = membership.Draining
			case first:
				state = membership.Up
			}
			t.members.Add(id, state)
		}
		if t.draining[id] != drain {
			t.draining[id] = drain
			all = append(all, t.members.Drain(id, drain)...)
		}
	}
	for id := range t.known {
		if !there[id] {
			all = append(all, t.members.Remove(id)...)
		}
	}
	all = append(all, t.members.Tick(now)...)
	for _, m := range all {
		t.notes[m.Node] = note{m.Reason, wall}
	}
	return all
}

// life takes what a pulse says of its sender and of others. It reports whether
// there is something in it that wants a look.
func (t *term) life(now clock.Mono, from string, req *blockdv1.PulseRequest) (news bool) {
	p := t.peers[from]
	if p == nil {
		p = &peer{}
		t.peers[from] = p
	}
	if req.GetIncarnation() < p.incarnation {
		return false // of a process that is gone
	}
	news = p.incarnation != req.GetIncarnation() || p.leaving != req.GetLeaving() || !t.hears(now, from) || t.members.State(from) != membership.Up
	p.incarnation, p.heard, p.leaving = req.GetIncarnation(), now, req.GetLeaving()
	t.members.Heartbeat(now, from, req.GetIncarnation(), time.Duration(req.GetRttNano()))
	for _, o := range req.GetOpinions() {
		what, ok := pulse.Opinion(o.GetWhat())
		switch {
		case !ok:
			continue
		case from != t.self:
			t.members.Report(now, from, o.GetNode(), o.GetIncarnation(), what)
		case what == membership.Died: // the leader's own view has a voice of its own
			t.members.ConnectionDied(o.GetNode(), o.GetIncarnation())
		}
		news = news || what == membership.Died
	}
	return news
}

// hears reports whether a node was heard within three pulses.
func (t *term) hears(now clock.Mono, node string) bool {
	p := t.peers[node]
	return p != nil && now.Sub(p.heard) <= 3*t.times.Every
}

// views is how the nodes of the catalog are, by node.
func (t *term) views() []pulse.NodeView {
	var out []pulse.NodeView
	for id := range t.known {
		if t.members.State(id) == membership.Left {
			continue
		}
		v := pulse.NodeView{Node: id, State: t.members.State(id), Reason: t.notes[id].reason, Since: t.notes[id].since, RTT: t.members.RTT(id)}
		if p := t.peers[id]; p != nil {
			v.Incarnation, v.Leaving = p.incarnation, p.leaving
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b pulse.NodeView) int { return compare(a.Node, b.Node) })
	return out
}

package director

import (
	"cmp"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/lease"
	"blockd.dev/raftmeta/membership"
)

// recallsMax is how many leases are recalled from one node at a time: each
// move interrupts a volume for some milliseconds, and those to come go on meanwhile.
const recallsMax = 32

// RoleTarget is the role of nodes that may own volumes.
const RoleTarget = "target"

func compare(a, b string) int { return cmp.Compare(a, b) }

// view is what one look goes by.
type view struct {
	now      clock.Mono
	state    *catalog.State
	table    lease.Table
	eligible map[string]*catalog.Node // may be granted leases
	load     map[string]int           // leases that a node has, or is about to get
	nodeOf   map[extmap.Disk]string
	emptying map[string]bool // shall have no leases
	diskJobs map[diskJob]*catalog.Job
	complete bool // all that may be granted leases have been heard, or had the time for it
}

func (t *term) view(now clock.Mono, s *catalog.State) *view {
	v := &view{now: now, state: s, table: s.LeaseTable(), eligible: map[string]*catalog.Node{}, load: map[string]int{}, nodeOf: map[extmap.Disk]string{}, emptying: map[string]bool{}, diskJobs: diskJobs(s)}
	active := 0
	for i := range s.Nodes {
		n := &s.Nodes[i]
		v.emptying[n.ID.String()] = n.State == catalog.NodeDraining || n.State == catalog.NodeDrained
		if n.State != catalog.NodeActive || !n.Plays(RoleTarget) {
			continue
		}
		active++
		if id := n.ID.String(); t.hears(now, id) && !t.peers[id].leaving && t.members.State(id) == membership.Up {
			v.eligible[id] = n
		}
	}
	for id, p := range t.peers {
		v.emptying[id] = v.emptying[id] || p.leaving
	}
	v.complete = len(v.eligible) == active || now >= t.start.Add(t.times.Every/2)
	for i := range s.Disks {
		v.nodeOf[s.Disks[i].Number] = s.Disks[i].Node.String()
	}
	for id, e := range v.table.All() {
		if t.granting[id] == "" && t.recalling[id] != e.Owner {
			v.load[e.Owner]++
		}
	}
	for _, to := range t.granting { // also what the table has already, while the outcome is on its way
		v.load[to]++
	}
	for id, owner := range t.recalling {
		if t.granting[id] == "" && v.table.Get(id).Owner == owner {
			to, _ := t.leases.RecallTo(id)
			v.load[to]++
		}
	}
	return v
}

// choose returns who should have a volume: the first of the preferred ones
// that may, else the node with fewest leases of those with a replica in sync, else of
// all. "" when nobody may. avoid is taken when it is the only one. A node that
// leads the group comes last among equals: what it owns waits for an election
// before it can be taken over.
func (t *term) choose(v *view, id lease.VolumeID, avoid string, preferred ...string) string {
	for _, node := range preferred {
		if v.eligible[node] != nil {
			return node
		}
	}
	good := map[string]bool{}
	if m := v.state.Map().Volume(id); m != nil {
		for _, d := range m.Disks() {
			if m.Sync(d).State == extmap.InSync {
				good[v.nodeOf[d]] = true
			}
		}
	}
	best := ""
	for node := range v.eligible {
		if best == "" || t.better(v, good, avoid, node, best) {
			best = node
		}
	}
	return best
}

func (t *term) better(v *view, good map[string]bool, avoid, a, b string) bool {
	if (a == avoid) != (b == avoid) {
		return b == avoid
	}
	if good[a] != good[b] {
		return good[a]
	}
	if v.load[a] != v.load[b] {
		return v.load[a] < v.load[b]
	}
	if (a == t.self) != (b == t.self) {
		return b == t.self
	}
	return a < b
}

// assignLeases looks at the lease of each replicated volume.
func (t *term) assignLeases(v *view, out *turn) {
	pools := replicated(v.state)
	recalls := map[string]int{}
	for id, owner := range t.recalling {
		if e := v.table.Get(id); e.Owner != owner {
			t.leases.CancelRecall(id)
			delete(t.recalling, id)
			continue
		}
		recalls[owner]++
	}
	for i := range v.state.Volumes {
		vol := &v.state.Volumes[i]
		if !pools[vol.Pool] {
			continue
		}
		id := lease.VolumeID(vol.ID)
		at := t.leases.FreeAt(v.now, v.table, id)
		free := at <= v.now
		if !free {
			out.wake = min(out.wake, at)
		}
		switch {
		case vol.Retired:
			t.forget(v, vol, free, out)
		case free:
			t.grant(v, vol, out)
		default:
			t.recall(v, vol, recalls)
		}
	}
}

// replicated returns the pools whose volumes have several copies.
func replicated(s *catalog.State) map[string]bool {
	pools := map[string]bool{}
	for i := range s.Pools {
		pools[s.Pools[i].Name] = s.Pools[i].Spread() > 1
	}
	return pools
}

func leaseKey(id lease.VolumeID) string { return "lease " + catalog.ID(id).String() }

// grant gives a volume an owner that nobody can be serving.
func (t *term) grant(v *view, vol *catalog.Volume, out *turn) {
	id := lease.VolumeID(vol.ID)
	e := v.table.Get(id)
	// One that never was served waits for all of its extents. Another has
	// grown, and is served meanwhile.
	if e.Epoch == 0 && !v.state.Allocated(vol.ID) || !v.complete || !t.mayPropose(v.now, leaseKey(id)) {
		return
	}
	// An owner that has started again gets back what it had. One that is alive
	// and has not claimed its lease for all of that time is tried last.
	again := ""
	if p := t.peers[e.Owner]; p != nil && p.incarnation > e.Incarnation {
		again = e.Owner
	}
	to := t.choose(v, id, e.Owner, moveTo(v.state, vol.ID), again)
	if to == "" || !t.leases.Propose(v.now, v.table, id) {
		return
	}
	t.granting[id] = to
	v.load[to]++
	node, _ := catalog.ParseID(to)
	t.propose(out, proposal{key: leaseKey(id), volume: id, cmd: &catalogpb.Command{Kind: &catalogpb.Command_GrantLease{GrantLease: &catalogpb.GrantLease{
		Volume: id[:], Node: node[:], Incarnation: t.peers[to].incarnation, ExpectEpoch: e.Epoch}}}})
}

func moveTo(s *catalog.State, volume catalog.ID) string {
	l, ok := s.Lease(volume)
	if !ok || l.MoveTo.IsZero() {
		return ""
	}
	return l.MoveTo.String()
}

// recall asks the owner for a lease that should be elsewhere.
func (t *term) recall(v *view, vol *catalog.Volume, recalls map[string]int) {
	id := lease.VolumeID(vol.ID)
	owner := v.table.Get(id).Owner
	to := moveTo(v.state, vol.ID)
	_, asked := t.recalling[id]
	switch {
	case to != "" && to != owner && v.eligible[to] != nil:
		t.leases.Recall(id, to)
		t.recalling[id] = owner
	case !v.emptying[owner] || len(v.eligible) == 0:
		t.leases.CancelRecall(id)
		delete(t.recalling, id)
	case !asked && recalls[owner] < recallsMax:
		recalls[owner]++
		to = t.choose(v, id, owner)
		v.load[to]++
		t.leases.Recall(id, to)
		t.recalling[id] = owner
	}
}

// forget takes a deleted volume out of the catalog when nobody can be serving
// it any more. Its owner sees that it is deleted and gives it back.
func (t *term) forget(v *view, vol *catalog.Volume, free bool, out *turn) {
	id := lease.VolumeID(vol.ID)
	if !free {
		t.leases.Recall(id, "")
		t.recalling[id] = v.table.Get(id).Owner
		return
	}
	if t.mayPropose(v.now, leaseKey(id)) && t.leases.Propose(v.now, v.table, id) {
		t.propose(out, proposal{key: leaseKey(id), volume: id, cmd: &catalogpb.Command{Kind: &catalogpb.Command_RemoveVolume{RemoveVolume: &catalogpb.RemoveVolume{Id: id[:]}}}})
	}
}

// release takes a lease that its owner gives back, and hands it on.
func (t *term) release(now clock.Mono, s *catalog.State, r lease.Release, out *turn) {
	v := t.view(now, s)
	if !t.mayPropose(now, leaseKey(r.Volume)) || !t.leases.Released(v.table, r) {
		return
	}
	to := t.heir(v, r)
	cmd := &catalogpb.ReleaseLease{Volume: r.Volume[:], Epoch: r.Epoch, Incarnation: r.Incarnation}
	owner, _ := catalog.ParseID(r.Node)
	cmd.Node = owner[:]
	if to != "" {
		node, _ := catalog.ParseID(to)
		cmd.ToNode, cmd.ToIncarnation = node[:], t.peers[to].incarnation
		t.granting[r.Volume] = to
	}
	t.propose(out, proposal{key: leaseKey(r.Volume), volume: r.Volume, cmd: &catalogpb.Command{Kind: &catalogpb.Command_ReleaseLease{ReleaseLease: cmd}}})
}

// heir is who gets a lease that was given back. One whose time was over, since
// the leader could not be reached, goes back to where it was.
func (t *term) heir(v *view, r lease.Release) string {
	vol := v.state.VolumeByID(catalog.ID(r.Volume))
	if vol == nil || vol.Retired {
		return ""
	}
	to, recalled := t.leases.RecallTo(r.Volume)
	if !recalled {
		return t.choose(v, r.Volume, "", moveTo(v.state, vol.ID), r.Node)
	}
	return t.choose(v, r.Volume, r.Node, moveTo(v.state, vol.ID), to)
}

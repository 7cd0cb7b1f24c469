package director

import (
	"fmt"
	"strings"
	"time"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/membership"
	"blockd.dev/raftmeta/placement"
)

// RebuildAfter is for how long a node is waited for: one that is down, and was not heard for longer, is
// taken for lost, and its copies are made anew on other disks. A node that was
// drained for an upgrade is waited for without end. The time begins anew with each leader.
const RebuildAfter = 10 * time.Minute

// cancelAfter is for how long extents wait for a node that is down and that they move to;
// then they go elsewhere. What has been copied is not lost by that.
const cancelAfter = time.Minute

// unservedAfter is for how long a volume takes part in movingMax that nobody serves: owners
// change when its moves begin and end.
const unservedAfter = 10 * time.Second

// movingMax is how many volumes have extents on the move at a time. Volumes whose
// copies are made good again on the disk that they were on count too: all of them load
// the same disks.
const movingMax = 4

// batch bounds what moves of one volume at a time: its owner begins anew before and after, and
// what was lost is whole again when all of the batch is. 256 extents are 16 GiB at most.
var batch = placement.Limits{Moves: 256, PerDisk: 64}

// moveEvery is the time between two plans, and moveExtents how many
// extents are looked at for one, about.
const (
	moveEvery   = time.Second
	moveExtents = 1 << 17
)

// moveExtents moves extents from disks that are lost or to be emptied, and, when a job
// asks for it, from those that have more than their share; some volumes at a time, and a batch
// of each. What is lost goes first.
func (t *term) moveExtents(v *view, out *turn) {
	t.followDown(v)
	t.finishDisks(v, out)
	lost, draining := t.leaving(v)
	for d := range t.stuck {
		if !lost[d] && !draining[d] {
			delete(t.stuck, d)
		}
	}
	if !v.complete || v.now < t.moveAt {
		return
	}
	t.moveAt = v.now.Add(moveEvery)
	t.cancelMoves(v, out, func(d extmap.Disk) bool {
		return lost[d] || draining[d] || v.state.DiskByNumber(d).State != catalog.DiskActive || t.away(v, d)
	})
	t.followUnserved(v)
	busy, all := t.moving(v)
	if all > 0 {
		t.even = 0
	}
	p := &planner{t: t, v: v, out: out, clusters: t.clusters(v), balances: map[string]*placement.Balance{}, room: movingMax - busy, left: moveExtents}
	for _, disks := range []map[extmap.Disk]bool{lost, draining} {
		if len(disks) > 0 {
			p.each(func(vol *catalog.Volume, m *extmap.Volume) []extmap.Move { return p.evacuate(vol, m, disks) })
		}
	}
	if j := rebalancing(v.state); j != nil && j.Cursor == cursorBegun {
		p.each(p.rebalance)
	}
}

// planner is one look for extents that should be elsewhere.
type planner struct {
	t        *term
	v        *view
	out      *turn
	clusters func(pool string) *placement.Cluster
	balances map[string]*placement.Balance
	room     int // volumes that may begin
	left     int // extents to look at
}

// each has plan choose the moves of volumes, one after the other, from where the last
// look ended, and proposes them.
func (p *planner) each(plan func(*catalog.Volume, *extmap.Volume) []extmap.Move) {
	t, volumes := p.t, p.v.state.Volumes
	for i := 0; i < len(volumes) && p.room > 0 && p.left > 0; i++ {
		vol := &volumes[t.moveFrom%len(volumes)]
		t.moveFrom = t.moveFrom%len(volumes) + 1
		m := p.v.state.Map().Volume(extmap.VolumeID(vol.ID))
		if m == nil || p.v.busy(t, m) || !p.v.served(t, vol.ID) || !t.mayPropose(p.v.now, moveKey(vol.ID)) || p.clusters(vol.Pool) == nil {
			continue
		}
		moves := plan(vol, m)
		if len(moves) == 0 {
			continue
		}
		p.room--
		start := &catalogpb.StartMoves{Volume: vol.ID[:]}
		for _, move := range moves {
			start.Moves = append(start.Moves, &catalogpb.Move{Extent: move.Extent, From: uint32(move.From), To: uint32(move.To)})
		}
		t.propose(p.out, proposal{key: moveKey(vol.ID), cmd: &catalogpb.Command{Kind: &catalogpb.Command_StartMoves{StartMoves: start}}})
	}
}

// evacuate plans what moves off disks, and notes why nothing can.
func (p *planner) evacuate(vol *catalog.Volume, m *extmap.Volume, leaving map[extmap.Disk]bool) []extmap.Move {
	var from []extmap.Disk
	for _, d := range m.Disks() {
		if leaving[d] {
			from = append(from, d)
		}
	}
	if len(from) == 0 {
		return nil
	}
	p.left -= int(m.Allocated())
	moves, err := p.clusters(vol.Pool).Evacuate(m, func(d extmap.Disk) bool { return leaving[d] }, batch)
	for _, d := range from {
		if err == nil {
			delete(p.t.stuck, d)
		} else if p.t.stuck[d] == "" {
			p.t.stuck[d] = fmt.Sprintf("volume %s: %s", vol.Name, strings.TrimPrefix(err.Error(), "placement: "))
		}
	}
	return moves
}

// rebalance plans what moves to disks that have less than their share. It counts the
// volumes of which nothing does, one after the other.
func (p *planner) rebalance(vol *catalog.Volume, m *extmap.Volume) []extmap.Move {
	p.left -= int(m.Allocated())
	moves := p.balance(vol.Pool).Moves(m, batch)
	if p.t.even++; len(moves) > 0 {
		p.t.even = 0
	}
	return moves
}

// balance is what is even by the failure domains of a pool.
func (p *planner) balance(pool string) *placement.Balance {
	if p.balances[pool] == nil {
		p.balances[pool] = p.clusters(pool).Balance(p.v.state.Map())
	}
	return p.balances[pool]
}

const movePrefix = "move "

func moveKey(volume catalog.ID) string { return movePrefix + volume.String() }

// cancelMoves has extents stay that move to a disk which gets none any more; then they
// can go elsewhere.
func (t *term) cancelMoves(v *view, out *turn, unfit func(extmap.Disk) bool) {
	for id, m := range v.state.Map().Volumes() {
		if !t.mayPropose(v.now, moveKey(catalog.ID(id))) {
			continue
		}
		for move := range m.Moves() {
			if unfit(move.To) {
				t.propose(out, proposal{key: moveKey(catalog.ID(id)), cmd: &catalogpb.Command{Kind: &catalogpb.Command_CancelMoves{CancelMoves: &catalogpb.CancelMoves{
					Volume: id[:], Disk: uint32(move.To)}}}})
				break
			}
		}
	}
}

// away reports whether the node of a disk is silent for so long that nothing is moved to it.
func (t *term) away(v *view, d extmap.Disk) bool {
	since, down := t.silentSince[v.nodeOf[d]]
	return down && v.now.Sub(since) >= min(cancelAfter, t.rebuildAfter)
}

// followDown notes since when nodes are silent that are down. A silent one is not down at once, and
// has its copies made anew no later for that.
func (t *term) followDown(v *view) {
	for i := range v.state.Nodes {
		id := v.state.Nodes[i].ID.String()
		if t.members.State(id) != membership.Down {
			delete(t.silentSince, id)
		} else if _, known := t.silentSince[id]; !known {
			t.silentSince[id] = t.members.Heard(id)
		}
	}
}

// leaving returns the disks with copies that other disks are to have: those that can't be read any
// more, and those that are to be emptied.
func (t *term) leaving(v *view) (lost, draining map[extmap.Disk]bool) {
	lost, draining = map[extmap.Disk]bool{}, map[extmap.Disk]bool{}
	for i := range v.state.Disks {
		d := &v.state.Disks[i]
		n := v.state.NodeByID(d.Node)
		if n == nil || v.state.Map().Used(d.Number) == 0 {
			continue
		}
		switch {
		case t.isLost(v, d, n) && goes(v.diskJobs[diskJob{JobRebuild, d.ID}]):
			lost[d.Number] = true
		case isLeaving(v.state, v.diskJobs, d, n):
			draining[d.Number] = true
		}
	}
	return lost, draining
}

// isLeaving reports whether a disk is to be emptied by what the catalog says.
func isLeaving(s *catalog.State, jobs map[diskJob]*catalog.Job, d *catalog.Disk, n *catalog.Node) bool {
	if d.State == catalog.DiskFailed && goes(jobs[diskJob{JobRebuild, d.ID}]) || d.State == catalog.DiskDraining && goes(jobs[diskJob{JobDrainDisk, d.ID}]) {
		return true
	}
	for i := range s.Jobs {
		j := &s.Jobs[i]
		if j.Kind == JobRemove && j.Subject == n.Name && j.Cursor == cursorBegun && (j.State == catalog.JobRunning || j.State == catalog.JobWaiting) {
			return true
		}
	}
	return false
}

// moving counts the volumes with extents on the move, or about to be, and with copies that are
// being made good; all are those too that nobody serves for long, of which nothing is copied.
func (t *term) moving(v *view) (moving, all int) {
	for id, m := range v.state.Map().Volumes() {
		if !t.underWay[moveKey(catalog.ID(id))] && !v.busy(t, m) {
			continue
		}
		all++
		if v.served(t, catalog.ID(id)) || v.now.Sub(t.unserved[catalog.ID(id)]) < unservedAfter {
			moving++
		}
	}
	return moving, all
}

// followUnserved notes since when nobody serves volumes.
func (t *term) followUnserved(v *view) {
	for id := range t.unserved {
		if v.state.Map().Volume(extmap.VolumeID(id)) == nil || v.served(t, id) {
			delete(t.unserved, id)
		}
	}
	for id := range v.state.Map().Volumes() {
		if _, known := t.unserved[catalog.ID(id)]; !known && !v.served(t, catalog.ID(id)) {
			t.unserved[catalog.ID(id)] = v.now
		}
	}
}

// served reports whether the owner of a volume is heard.
func (v *view) served(t *term, volume catalog.ID) bool {
	owner := v.table.Get(volume).Owner
	return owner != "" && t.hears(v.now, owner)
}

// busy reports whether extents of a volume move, or a copy of it is being made good on
// a disk that is there to stay.
func (v *view) busy(t *term, m *extmap.Volume) bool {
	for range m.Moves() {
		return true
	}
	for _, number := range m.Disks() {
		if m.Sync(number).State == extmap.InSync {
			continue
		}
		d := v.state.DiskByNumber(number)
		n := v.state.NodeByID(d.Node)
		if n != nil && diskState(d, n, func(node string) bool { return v.eligibleStore(t, node) }) == placement.Up {
			return true
		}
	}
	return false
}

// stuckOn is why the copies on a node stay where they are, or "".
func (t *term) stuckOn(v *view, n *catalog.Node) string {
	for i := range v.state.Disks {
		if d := &v.state.Disks[i]; d.Node == n.ID && t.stuck[d.Number] != "" {
			return t.stuck[d.Number]
		}
	}
	return ""
}

// finishDisks makes disks that drain, and have nothing any more, drained.
func (t *term) finishDisks(v *view, out *turn) {
	for i := range v.state.Disks {
		d := &v.state.Disks[i]
		key := "disk " + d.ID.String()
		if d.State != catalog.DiskDraining || v.state.Map().Used(d.Number) > 0 || hasHome(v.state, d.ID) || !t.mayPropose(v.now, key) {
			continue
		}
		t.propose(out, proposal{key: key, cmd: &catalogpb.Command{Kind: &catalogpb.Command_SetDiskState{SetDiskState: &catalogpb.SetDiskState{
			Id: d.ID[:], State: string(catalog.DiskDrained), Reason: "nothing is left on it"}}}})
	}
}

// hasHome reports whether a volume lives on a disk alone.
func hasHome(s *catalog.State, disk catalog.ID) bool {
	for i := range s.Volumes {
		if s.Volumes[i].Home == disk {
			return true
		}
	}
	return false
}

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

// RebuildAfter is for how long a node is waited for: one that is down for longer is
// taken for lost, and its copies are made anew on other disks. A node that was
// drained for an upgrade is waited for without end. The time begins anew with each leader.
const RebuildAfter = 10 * time.Minute

// replacementsMax is how many volumes get a copy on another disk at a time.
// Copies that are made good again on the disk that they were on count too: all of them load
// the same disks.
const replacementsMax = 4

// replaceEvery is the time between two plans, and replaceExtents how many
// extents are looked at for one, about.
const (
	replaceEvery   = time.Second
	replaceExtents = 1 << 17
)

// replaceLost has other disks take the place of those that are lost or to be
// emptied, some volumes at a time; a volume is done when its new copy is in sync.
func (t *term) replaceLost(v *view, out *turn) {
	t.followDown(v)
	t.finishDisks(v, out)
	leaving := t.leaving(v)
	for d := range t.stuck {
		if !leaving[d] {
			delete(t.stuck, d)
		}
	}
	if len(leaving) == 0 || !v.complete || v.now < t.replaceAt {
		return
	}
	t.replaceAt = v.now.Add(replaceEvery)
	room := replacementsMax - t.replacing(v)
	clusters := t.clusters(v)
	n := len(v.state.Volumes)
	for i, left := 0, replaceExtents; i < n && room > 0 && left > 0; i++ {
		vol := &v.state.Volumes[t.replaceFrom%n]
		t.replaceFrom = t.replaceFrom%n + 1
		m := v.state.Map().Volume(extmap.VolumeID(vol.ID))
		if m == nil || v.rebuilds(t, m) || !t.mayPropose(v.now, replaceKey(vol.ID)) {
			continue
		}
		cluster := clusters(vol.Pool)
		if cluster == nil {
			continue
		}
		for _, from := range m.Disks() {
			if !leaving[from] {
				continue
			}
			left -= int(m.Allocated())
			to, err := cluster.Replace(m, from, int(v.state.Pool(vol.Pool).MinInSync))
			if err != nil {
				if t.stuck[from] == "" {
					t.stuck[from] = fmt.Sprintf("volume %s: %s", vol.Name, strings.TrimPrefix(err.Error(), "placement: "))
				}
				continue
			}
			delete(t.stuck, from)
			room--
			t.propose(out, proposal{key: replaceKey(vol.ID), cmd: &catalogpb.Command{Kind: &catalogpb.Command_ReplaceReplica{ReplaceReplica: &catalogpb.ReplaceReplica{
				Volume: vol.ID[:], From: uint32(from), To: uint32(to), Generation: m.Sync(from).Generation}}}})
			break
		}
	}
}

const replacePrefix = "replace "

func replaceKey(volume catalog.ID) string { return replacePrefix + volume.String() }

// followDown notes since when nodes are down.
func (t *term) followDown(v *view) {
	for i := range v.state.Nodes {
		id := v.state.Nodes[i].ID.String()
		if t.members.State(id) != membership.Down {
			delete(t.downSince, id)
		} else if _, known := t.downSince[id]; !known {
			t.downSince[id] = v.now
		}
	}
}

// leaving returns the disks with copies that other disks are to have.
func (t *term) leaving(v *view) map[extmap.Disk]bool {
	out := map[extmap.Disk]bool{}
	for i := range v.state.Disks {
		d := &v.state.Disks[i]
		n := v.state.NodeByID(d.Node)
		if n == nil || v.state.Map().Used(d.Number) == 0 {
			continue
		}
		since, down := t.downSince[n.ID.String()]
		lost := down && n.State != catalog.NodeDraining && v.now.Sub(since) >= t.rebuildAfter
		if lost || isLeaving(v.state, d, n) {
			out[d.Number] = true
		}
	}
	return out
}

// isLeaving reports whether a disk is to be emptied by what the catalog says.
func isLeaving(s *catalog.State, d *catalog.Disk, n *catalog.Node) bool {
	if d.State == catalog.DiskFailed || d.State == catalog.DiskDraining {
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

// replacing counts the volumes that get a copy now.
func (t *term) replacing(v *view) (n int) {
	for key := range t.underWay {
		if strings.HasPrefix(key, replacePrefix) {
			n++
		}
	}
	for _, m := range v.state.Map().Volumes() {
		if v.rebuilds(t, m) {
			n++
		}
	}
	return n
}

// rebuilds reports whether a copy of a volume is being made good on a disk that
// is there to stay.
func (v *view) rebuilds(t *term, m *extmap.Volume) bool {
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

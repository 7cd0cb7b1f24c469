package director

import (
	"errors"
	"math"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/placement"
)

// extentsMax is how many extents get disks in one look, of all volumes.
const extentsMax = 4 * extmap.BatchMax

// assignExtents gives disks to extents that have none. What one look has
// chosen is in the map before the next one chooses, so that disks fill evenly.
func (t *term) assignExtents(v *view, out *turn) {
	if !v.complete || t.allocating() {
		return
	}
	room, clusters := extentsMax, t.clusters(v)
	for i := range v.state.Volumes {
		vol := &v.state.Volumes[i]
		m := v.state.Map().Volume(extmap.VolumeID(vol.ID))
		if m == nil || m.Allocated() == m.Layout().Extents() || vol.Retired || room == 0 || !t.mayPropose(v.now, extentsKey(vol.ID)) {
			continue
		}
		cluster := clusters(vol.Pool)
		if cluster == nil {
			continue
		}
		first, n := hole(m, min(room, extmap.BatchMax))
		sets, err := cluster.Place(m.Policy(), n, seed(vol.ID)+uint64(first))
		var impossible *placement.Impossible
		if errors.As(err, &impossible) && len(sets) == 0 {
			continue // Explain says why
		}
		room -= len(sets) / m.Policy().Width()
		cmd := &catalogpb.AllocateExtents{Volume: vol.ID[:], First: first}
		for _, d := range sets {
			cmd.Sets = append(cmd.Sets, uint32(d))
		}
		t.propose(out, proposal{key: extentsKey(vol.ID), cmd: &catalogpb.Command{Kind: &catalogpb.Command_AllocateExtents{AllocateExtents: cmd}}})
	}
}

// clusters returns a function that gives the disks of a pool, the same ones at each
// call, so that what was placed on them counts; nil for two disks of one number,
// a state that the catalog does not allow.
func (t *term) clusters(v *view) func(pool string) *placement.Cluster {
	made := map[string]*placement.Cluster{}
	return func(pool string) *placement.Cluster {
		if made[pool] == nil {
			if c, err := Cluster(v.state, pool, func(node string) bool { return v.eligibleStore(t, node) }); err == nil {
				made[pool] = c
			}
		}
		return made[pool]
	}
}

const extentsPrefix = "extents "

func extentsKey(volume catalog.ID) string { return extentsPrefix + volume.String() }

// allocating reports whether disks that were chosen are not in the map yet.
func (t *term) allocating() bool {
	for key := range t.underWay {
		if len(key) > len(extentsPrefix) && key[:len(extentsPrefix)] == extentsPrefix {
			return true
		}
	}
	return false
}

// eligibleStore reports whether new extents may be placed on a node.
func (v *view) eligibleStore(t *term, node string) bool {
	return t.hears(v.now, node) && !t.peers[node].leaving
}

// hole returns the first extents without disks, at most limit of them.
func hole(m *extmap.Volume, limit int) (first uint32, n int) {
	total := m.Layout().Extents()
	has := func(i uint32) bool { _, ok := m.Extent(i); return ok }
	for has(first) {
		first++
	}
	for n < limit && first+uint32(n) < total && !has(first+uint32(n)) {
		n++
	}
	return first, n
}

func seed(id catalog.ID) (s uint64) {
	for _, b := range id {
		s = s*1099511628211 + uint64(b) // FNV's prime: volumes differ
	}
	return s
}

// Cluster is the disks of a pool as placement takes them. alive says which
// nodes can be reached. Volumes are thin, so no disk is full by what is placed on
// it; its size is its share of new extents.
func Cluster(s *catalog.State, pool string, alive func(node string) bool) (*placement.Cluster, error) {
	level := "host"
	if p := s.Pool(pool); p != nil {
		level = p.Domain
	}
	var disks []placement.Disk
	for i := range s.Disks {
		d := &s.Disks[i]
		n := s.NodeByID(d.Node)
		if n == nil || d.Number == 0 {
			continue
		}
		disks = append(disks, placement.Disk{Number: d.Number, Domain: n.FailureDomain(level), Extents: math.MaxUint32,
			Weight: weight(d), State: diskState(d, n, alive), Used: s.Map().Used(d.Number)})
	}
	return placement.New(level, disks)
}

// weight is a disk's size in extents; a disk whose size is not known counts as 1 TiB.
func weight(d *catalog.Disk) uint32 {
	if d.CapacityBytes == 0 {
		return 1 << 14
	}
	return uint32(min(math.MaxUint32, max(1, d.CapacityBytes/extmap.ShardBytes)))
}

func diskState(d *catalog.Disk, n *catalog.Node, alive func(node string) bool) placement.State {
	switch {
	case d.State == catalog.DiskFailed || !alive(n.ID.String()):
		return placement.Down
	case d.State != catalog.DiskActive || n.State != catalog.NodeActive:
		return placement.Draining
	}
	return placement.Up
}

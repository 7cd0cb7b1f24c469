package director

import (
	"fmt"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/placement"
)

// JobRebalance moves extents from disks that have more than their share, by size, to those
// that have less. Its subject is RebalanceSubject: it is about all disks.
const (
	JobRebalance     = "rebalance"
	RebalanceSubject = "cluster"
)

// rebalancing returns the job that evens disks out and may go on, or nil.
func rebalancing(s *catalog.State) *catalog.Job {
	for i := range s.Jobs {
		if j := &s.Jobs[i]; j.Kind == JobRebalance && (j.State == catalog.JobRunning || j.State == catalog.JobWaiting) {
			return j
		}
	}
	return nil
}

// rebalanceStep returns the next command of JobRebalance. It is done when all volumes were
// looked at in a row and nothing of them was worth moving, while nothing moved.
func (t *term) rebalanceStep(v *view, j *catalog.Job) *catalogpb.Command {
	_, busy := t.moving(v)
	under := uint64(0)
	for _, m := range v.state.Map().Volumes() {
		for range m.Moves() {
			under++
		}
	}
	left := uint64(above(v.state, func(node string) bool { return v.eligibleStore(t, node) })) + under
	switch {
	case j.Cursor != cursorBegun:
		t.even = 0
		return progress(j, 0, left, left, fmt.Sprintf("%d extents are on disks that have more than their share", left))
	case busy == 0 && t.even >= spread(v.state):
		if j.StepsDone < j.StepsTotal {
			return progress(j, j.StepsTotal, j.StepsTotal, 0, "")
		}
		return setJob(j, catalog.JobDone, "all disks have their share, as far as failure domains allow")
	}
	total := max(j.StepsTotal, left)
	if done := total - left; done != j.StepsDone || total != j.StepsTotal {
		return progress(j, done, total, left, fmt.Sprintf("%d extents are to move, %d of them do now, of at most %d volumes at a time", left, under, movingMax))
	}
	return nil
}

// spread counts the volumes of the map.
func spread(s *catalog.State) (n int) {
	for range s.Map().Volumes() {
		n++
	}
	return n
}

// above is how many extents are on disks that have more than their share, by the pool
// that says most.
func above(s *catalog.State, alive func(node string) bool) (extents int) {
	for i := range s.Pools {
		if p := &s.Pools[i]; p.Spread() > 1 {
			if c, err := Cluster(s, p.Name, alive); err == nil {
				extents = max(extents, c.Balance(s.Map()).Left())
			}
		}
	}
	return extents
}

// Moved is what a JobRebalance would move, from one disk to another.
type Moved struct {
	From, To extmap.Disk
	Extents  int
}

// PlanRebalance returns what a JobRebalance would move if nothing else happened, ordered by
// disks. alive says which nodes can be reached. It looks at every extent.
func PlanRebalance(s *catalog.State, alive func(node string) bool) (plan []Moved) {
	m := s.Map()
	count := map[[2]extmap.Disk]int{}
	balances := map[string]*placement.Balance{}
	for i := range s.Volumes {
		vol := &s.Volumes[i]
		v := m.Volume(extmap.VolumeID(vol.ID))
		if v == nil {
			continue
		}
		if balances[vol.Pool] == nil {
			c, err := Cluster(s, vol.Pool, alive)
			if err != nil {
				continue
			}
			balances[vol.Pool] = c.Balance(m)
		}
		for _, move := range balances[vol.Pool].Moves(v, placement.Limits{Moves: int(v.Allocated()), PerDisk: int(v.Allocated())}) {
			count[[2]extmap.Disk{move.From, move.To}]++
		}
	}
	for _, from := range s.Disks {
		for _, to := range s.Disks {
			if n := count[[2]extmap.Disk{from.Number, to.Number}]; n > 0 {
				plan = append(plan, Moved{from.Number, to.Number, n})
			}
		}
	}
	return plan
}

package placement

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"blockd.dev/raftmeta/extmap"
)

// replaceTrials is how many disks that may take some extents are looked at for
// one that takes more of them.
const replaceTrials = 8

// Replace chooses the disk that takes the place of from in a volume, and counts
// its extents as used: the least full one that may take all of them, or else one
// that may take many; what is left is for another disk, when that one is in sync.
// When there is none it returns an *Impossible. minInSync is that of the pool; the
// rules are those of extmap.Volume.Replaceable.
func (c *Cluster) Replace(v *extmap.Volume, from extmap.Disk, minInSync int) (to extmap.Disk, err error) {
	all, best, trials := int(v.Uses(from)), 0, 0
	var why refusals
	for _, i := range c.leastFullFirst() {
		if c.disks[i].Number == from || trials == replaceTrials {
			continue
		}
		extents, err := v.Replaceable(from, c.disks[i].Number, minInSync, c)
		if err != nil {
			why.add(v, c.disks[i].Number, err)
			continue
		}
		if trials++; len(extents) > best {
			to, best = c.disks[i].Number, len(extents)
		}
		if best == all {
			break
		}
	}
	if to == 0 {
		return 0, &Impossible{Reason: why.words(c, v, from, minInSync)}
	}
	c.disks[c.byNum[to]].Used += uint32(best)
	return to, nil
}

// leastFullFirst returns the indexes of the disks that are up and have room.
func (c *Cluster) leastFullFirst() (order []int) {
	for i := range c.disks {
		if c.disks[i].State == Up && c.disks[i].Used < c.disks[i].Extents {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(uint64(c.disks[a].Used)*uint64(c.disks[b].Weight), uint64(c.disks[b].Used)*uint64(c.disks[a].Weight))
	})
	return order
}

// refusals are why disks can't take the place of another.
type refusals struct {
	few    bool // without it too few are in sync, even on a disk that has nothing of the volume
	shares int  // disks that are needed in the meantime
	behind int  // disks that are not in sync themselves
}

func (r *refusals) add(v *extmap.Volume, d extmap.Disk, err error) {
	switch {
	case errors.Is(err, extmap.ErrLastCopy) && v.Uses(d) == 0:
		r.few = true
	case errors.Is(err, extmap.ErrLastCopy):
		r.shares++
	case errors.Is(err, extmap.ErrNotInSync):
		r.behind++
	}
}

func (r *refusals) words(c *Cluster, v *extmap.Volume, from extmap.Disk, minInSync int) string {
	switch {
	case r.few:
		return fmt.Sprintf("no disk can take the place of disk %d before more of the other copies are in sync: writes need %d of %d", from, minInSync, v.Policy().Width())
	case r.behind > 0:
		return fmt.Sprintf("no disk can take the place of disk %d before %d that are out of sync for the volume are in sync again", from, r.behind)
	case r.shares > 0:
		return fmt.Sprintf("no disk can take the place of disk %d: each of the %d that might keeps other extents of the volume beside it, and would be out of sync for all of them meanwhile; "+
			"add a disk or a %s, which has none", from, r.shares, c.level)
	}
	return fmt.Sprintf("no disk can take the place of disk %d: none that is up is on another %s than the other copies; add a disk or a %s, or make one active again", from, c.level, c.level)
}

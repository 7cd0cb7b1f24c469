package volume

import (
	"math/bits"

	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// MaxMembers is how many disks the extents of a volume may be on in all.
const MaxMembers = 64

// disks is a set of members, a bit each.
type disks uint64

func (s disks) has(d int) bool { return s&(1<<d) != 0 }
func (s disks) count() int     { return bits.OnesCount64(uint64(s)) }
func (s disks) first() int     { return bits.TrailingZeros64(uint64(s)) }
func one(d int) disks          { return 1 << d }

// place is where an extent is.
type place struct {
	disks disks // its set
	to    disks // the member that it is moved to, none of the set; or nobody
}

// group is all extents that the same members keep, and that move to the same one. It is taken over, and
// counts its replicas, by itself: a member that is missing holds up no extent
// that it does not keep.
type group struct {
	place
	bytes   int64
	phase   phase
	repairs int    // pieces of the takeover that are left
	fresh   bool   // equalize looks at it
	doubt   disks  // may lack acknowledged writes
	top     uint64 // every replica that was in sync had every write up to it, when the takeover began
	check   check
}

// addExtents takes over the sets of the extents up to VolumeBytes.
func (o *Owner) addExtents() {
	if o.cfg.Sets == nil {
		if len(o.groups) == 0 {
			o.addGroup(place{disks: one(len(o.conns)) - 1})
		}
		o.groups[0].bytes = o.cfg.VolumeBytes
		return
	}
	for e := int64(len(o.groupOf)); e < o.cfg.VolumeBytes/o.cfg.ExtentBytes; e++ {
		at := o.placeOf(e)
		if _, ok := o.byPlace[at]; !ok {
			o.byPlace[at] = int32(len(o.groups))
			o.addGroup(at)
		}
		o.groupOf = append(o.groupOf, o.byPlace[at])
		o.groups[o.byPlace[at]].bytes += o.cfg.ExtentBytes
	}
}

// placeOf asks where an extent is, and where it arrives.
func (o *Owner) placeOf(extent int64) (at place) {
	for _, d := range o.cfg.Sets(extent) {
		at.disks |= one(d)
	}
	if o.cfg.Arriving == nil {
		return at
	}
	if d := o.cfg.Arriving(extent); d >= 0 {
		at.to = one(d)
		o.conns[d].arrives(replica.Range{Off: extent * o.cfg.ExtentBytes, Len: o.cfg.ExtentBytes})
	}
	return at
}

func (o *Owner) addGroup(at place) {
	g := &group{place: at}
	o.groups = append(o.groups, g)
	o.unserved = append(o.unserved, g)
	for d, c := range o.conns {
		if g.disks.has(d) {
			c.unserved++
		}
	}
}

// requiredOf is who must have a write to g before it is acknowledged.
func (o *Owner) requiredOf(g *group) disks {
	list := o.required & g.disks
	if g.to != 0 && o.conns[g.to.first()].re.finishing() {
		list |= g.to
	}
	return list
}

// targetsOf is who is sent new writes to g.
func (o *Owner) targetsOf(g *group) disks {
	list := o.targets & g.disks
	if g.to != 0 && o.conns[g.to.first()].re.arriving() {
		list |= g.to
	}
	return list
}

// groupAt is the group of the extent at off; nil beyond the volume.
func (o *Owner) groupAt(off int64) *group {
	if off >= o.cfg.VolumeBytes {
		return nil
	}
	if o.cfg.Sets == nil {
		return o.groups[0]
	}
	return o.groups[o.groupOf[off/o.cfg.ExtentBytes]]
}

// spares tells whether replica d may be marked out, with these in sync and there. An extent that is served
// keeps as many in sync as its writes need, and these have to be there: with fewer
// nothing can be written, and if this owner is cut off there has to be somebody
// to take over from. A takeover may go down to the last one, if that is there and proven [I3] [I15].
func (o *Owner) spares(d int, there disks) bool {
	for _, g := range o.groups {
		switch {
		case !g.disks.has(d):
		case g.phase == serving && !mutation.On(mutation.OutBelowMin):
			if (g.disks & there).those(o.lacksNothing).count() < o.cfg.MinInSync {
				return false
			}
		case !o.suffice(d, g.disks&there):
			return false
		}
	}
	return true
}

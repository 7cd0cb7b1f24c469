package placement

import (
	"slices"

	"blockd.dev/raftmeta/extmap"
)

// Copy is one step of a plan: a move of the map, and where to read.
type Copy struct {
	Volume extmap.VolumeID
	Move   extmap.Move
	// Source is a disk of the set that is in sync and not down; with erasure
	// coding others of the set are read as well when it is not Move.From.
	Source extmap.Disk
}

// Limits bound a batch.
type Limits struct {
	Copies  int // in the batch
	PerDisk int // of the batch that read from one disk, or write to one
}

// plan is a batch in the making.
type plan struct {
	c       *Cluster
	limits  Limits
	copies  []Copy
	reads   map[extmap.Disk]int
	writes  map[extmap.Disk]int
	blocked int // extents that nothing could be found for
}

func (c *Cluster) plan(l Limits) *plan {
	return &plan{c: c, limits: l, reads: map[extmap.Disk]int{}, writes: map[extmap.Disk]int{}}
}

func (p *plan) full() bool { return len(p.copies) >= p.limits.Copies }

// Evacuate plans to move extents off disk d, be it draining or down, the first
// ones first. Extents that move already are left alone. left is how many it
// looked at and found neither a source nor a target for within the limits; when copies
// is empty and left is 0, what remains on d is on the move or nothing is.
// Targets are the least full disks; reads and writes are spread by Limits.
func (c *Cluster) Evacuate(m extmap.Map, d extmap.Disk, l Limits) (copies []Copy, left int) {
	p := c.plan(l)
	refs := make([]extmap.Ref, 0, 1024)
	for from, more := (extmap.Ref{}), true; more && !p.full(); {
		refs, from, more = m.OnDisk(d, from, refs[:0])
		for _, r := range refs {
			if p.full() {
				break
			}
			v := m.Volume(r.Volume)
			e, _ := v.Extent(r.Extent)
			if e.To != 0 {
				continue
			}
			to := c.leastFull(p.mayTake(v, e, d), mix(uint64(r.Extent)))
			p.add(v, r, e, d, to)
		}
	}
	return p.copies, p.blocked
}

// mayTake returns whether a disk may take the place of from in a set: it is in
// no domain of the others, in sync, and has writes to spare.
func (p *plan) mayTake(v *extmap.Volume, e extmap.Extent, from extmap.Disk) func(i int) bool {
	return func(i int) bool {
		d := p.c.disks[i].Number
		if d == from || p.writes[d] >= p.limits.PerDisk || v.Sync(d).State != extmap.InSync {
			return false
		}
		for _, o := range e.Disks {
			if k, ok := p.c.byNum[o]; ok && o != from && p.c.domain[k] == p.c.domain[i] {
				return false
			}
		}
		return !slices.Contains(e.Disks, d)
	}
}

// source is the disk of the set that is read least in this batch, or 0.
func (p *plan) source(v *extmap.Volume, e extmap.Extent, from extmap.Disk) (source extmap.Disk) {
	for _, d := range e.Disks {
		i, known := p.c.byNum[d]
		if !known || p.c.disks[i].State == Down || v.Sync(d).State != extmap.InSync || p.reads[d] >= p.limits.PerDisk {
			continue
		}
		if v.Policy().Data > 0 && d == from {
			return d // the shard itself: one read in place of one per data disk
		}
		if source == 0 || p.reads[d] < p.reads[source] {
			source = d
		}
	}
	return source
}

// add takes a move into the batch; to is an index, or -1.
func (p *plan) add(v *extmap.Volume, r extmap.Ref, e extmap.Extent, from extmap.Disk, to int) bool {
	source := p.source(v, e, from)
	if to < 0 || source == 0 {
		p.blocked++
		return false
	}
	t := &p.c.disks[to]
	t.Used++
	p.reads[source]++
	p.writes[t.Number]++
	p.copies = append(p.copies, Copy{r.Volume, extmap.Move{Extent: r.Extent, From: from, To: t.Number}, source})
	return true
}

// Rebalance plans to move extents from disks that have more than their fair
// share to those that have less, until each is within one extent of it as far
// as domains allow. An empty batch means that nothing is worth moving.
func (c *Cluster) Rebalance(m extmap.Map, l Limits) []Copy {
	p := c.plan(l)
	fair, moving := c.fair(m), c.outgoing(m)
	surplus := func(i int) float64 {
		return float64(c.disks[i].Used) - float64(moving[c.disks[i].Number]) - fair[i]
	}
	for id, v := range m.Volumes() {
		for index := range v.Layout().Extents() {
			if p.full() {
				return p.copies
			}
			e, ok := v.Extent(index)
			if !ok || e.To != 0 {
				continue
			}
			from := -1
			for _, d := range e.Disks {
				if i, known := c.byNum[d]; known && c.disks[i].State == Up && surplus(i) >= 1 && (from < 0 || surplus(i) > surplus(from)) {
					from = i
				}
			}
			if from < 0 {
				continue
			}
			may := p.mayTake(v, e, c.disks[from].Number)
			to := c.leastFull(func(i int) bool { return surplus(i) <= -1 && may(i) }, mix(uint64(index)))
			if p.add(v, extmap.Ref{Volume: id, Extent: index}, e, c.disks[from].Number, to) {
				moving[c.disks[from].Number]++
			}
		}
	}
	return p.copies
}

// outgoing counts the moves off each disk that have begun.
func (c *Cluster) outgoing(m extmap.Map) map[extmap.Disk]int {
	n := map[extmap.Disk]int{}
	for _, v := range m.Volumes() {
		for move := range v.Moves() {
			n[move.From]++
		}
	}
	return n
}

// fair is how many extents each disk should have: in proportion to its
// weight, but no domain has more than one disk of an extent, so what is above
// that goes to the other domains.
func (c *Cluster) fair(m extmap.Map) []float64 {
	total, extents := 0.0, 0.0
	for _, v := range m.Volumes() {
		extents += float64(v.Allocated())
		total += float64(v.Allocated()) * float64(v.Policy().Width())
	}
	weight := make([]float64, len(c.domains))
	for i, d := range c.disks {
		if d.State == Up {
			weight[c.domain[i]] += float64(d.Weight)
		} else {
			total -= float64(d.Used) // not for Rebalance to move
		}
	}
	share := make([]float64, len(c.domains)) // extents per domain
	capped := make([]bool, len(c.domains))
	for again := true; again; {
		again = false
		open, rest := 0.0, total
		for k := range weight {
			if capped[k] {
				rest -= share[k]
			} else {
				open += weight[k]
			}
		}
		for k := range weight {
			if capped[k] || open == 0 {
				continue
			}
			if share[k] = rest * weight[k] / open; share[k] > extents {
				share[k], capped[k], again = extents, true, true
			}
		}
	}
	fair := make([]float64, len(c.disks))
	for i, d := range c.disks {
		if k := c.domain[i]; d.State == Up && weight[k] > 0 {
			fair[i] = share[k] * float64(d.Weight) / weight[k]
		}
	}
	return fair
}

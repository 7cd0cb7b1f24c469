package placement

import (
	"fmt"
	"iter"

	"blockd.dev/raftmeta/extmap"
)

// Limits bound a batch of moves of one volume.
type Limits struct {
	Moves int // in the batch
	// PerDisk is how many of them one disk gets, as long as another can take the rest.
	PerDisk int
}

// plan is a batch in the making.
type plan struct {
	c      *Cluster
	v      *extmap.Volume
	limits Limits
	moves  []extmap.Move
	writes map[extmap.Disk]int
}

func (c *Cluster) plan(v *extmap.Volume, l Limits) *plan {
	return &plan{c: c, v: v, limits: l, writes: map[extmap.Disk]int{}}
}

func (p *plan) full() bool { return len(p.moves) >= p.limits.Moves }

// Evacuate plans to move extents of a volume off the disks that leaving names, be
// they draining or down, the first extents first, and counts them as used where they go.
// Extents that move already are left alone; of two disks of an extent the one that is out of
// sync goes first. The new disks are the least full ones. When nothing can be
// planned, though there is something to move, it returns an *Impossible.
func (c *Cluster) Evacuate(v *extmap.Volume, leaving func(extmap.Disk) bool, l Limits) ([]extmap.Move, error) {
	p := c.plan(v, l)
	var stays *extmap.Extent
	for index, e := range p.resting() {
		from := p.leaves(e, leaving)
		if from == 0 {
			continue
		}
		if to := p.target(e, from, index, func(int) bool { return true }); to >= 0 {
			p.add(index, from, to)
		} else if stays == nil {
			e.From = from
			stays = &e
		}
	}
	if len(p.moves) == 0 && stays != nil {
		return nil, &Impossible{Reason: p.why(*stays)}
	}
	return p.moves, nil
}

// resting yields the extents that don't move, the first ones first, until the plan is full.
func (p *plan) resting() iter.Seq2[uint32, extmap.Extent] {
	return func(yield func(uint32, extmap.Extent) bool) {
		for index := range p.v.Layout().Extents() {
			if p.full() {
				return
			}
			if e, ok := p.v.Extent(index); ok && e.To == 0 && !yield(index, e) {
				return
			}
		}
	}
}

// leaves returns the disk that an extent leaves first, or 0.
func (p *plan) leaves(e extmap.Extent, leaving func(extmap.Disk) bool) (from extmap.Disk) {
	for _, d := range e.Disks {
		if leaving(d) && (from == 0 || p.v.Sync(from).State == extmap.InSync && p.v.Sync(d).State != extmap.InSync) {
			from = d
		}
	}
	return from
}

// target returns the index of the disk that an extent goes to from another, or -1: the least
// full one of those that may, first of those that don't have their share of the batch yet.
func (p *plan) target(e extmap.Extent, from extmap.Disk, index uint32, may func(i int) bool) int {
	fits := func(i int) bool {
		return may(i) && p.fits(e, from, i) && p.v.Sync(p.c.disks[i].Number).State == extmap.InSync
	}
	to := p.c.leastFull(func(i int) bool { return p.writes[p.c.disks[i].Number] < p.limits.PerDisk && fits(i) }, mix(uint64(index)))
	if to < 0 {
		to = p.c.leastFull(fits, mix(uint64(index)))
	}
	return to
}

// fits reports whether a disk is in no domain of the others of a set.
func (p *plan) fits(e extmap.Extent, from extmap.Disk, i int) bool {
	for _, o := range e.Disks {
		if k, known := p.c.byNum[o]; k == i || known && o != from && p.c.domain[k] == p.c.domain[i] {
			return false
		}
	}
	return true
}

func (p *plan) add(index uint32, from extmap.Disk, to int) {
	t := &p.c.disks[to]
	t.Used++
	p.writes[t.Number]++
	p.moves = append(p.moves, extmap.Move{Extent: index, From: from, To: t.Number})
}

// why says what keeps an extent on the disk e.From.
func (p *plan) why(e extmap.Extent) string {
	behind := 0
	for i := range p.c.disks {
		d := &p.c.disks[i]
		if d.State == Up && d.Used < d.Extents && p.fits(e, e.From, i) {
			behind++
		}
	}
	if behind > 0 {
		return fmt.Sprintf("no disk can take the place of disk %d before %d that might are in sync for the volume again", e.From, behind)
	}
	return fmt.Sprintf("no disk can take the place of disk %d: none that is up is on another %s than the other copies; add a disk or a %s, or make one active again", e.From, p.c.level, p.c.level)
}

// Balance knows how many extents each disk of a Cluster should have.
type Balance struct {
	c      *Cluster
	fair   []float64
	moving map[extmap.Disk]int // that leave a disk
}

// Balance returns what a Cluster looks like when it is even.
func (c *Cluster) Balance(m extmap.Map) *Balance {
	moving := outgoing(m)
	return &Balance{c, c.fair(m, moving), moving}
}

// surplus is how many extents a disk has above its share.
func (b *Balance) surplus(i int) float64 {
	return float64(b.stays(i)) - b.fair[i]
}

// stays is how many extents a disk has when those that move have moved.
func (b *Balance) stays(i int) int64 {
	d := &b.c.disks[i]
	return int64(d.Used) - int64(b.moving[d.Number])
}

// Left is how many extents are on disks above their share.
func (b *Balance) Left() (extents int) {
	for i := range b.c.disks {
		if b.c.disks[i].State == Up {
			extents += int(max(0, b.surplus(i)))
		}
	}
	return extents
}

// Moves plans to move extents of a volume from disks that have more than their share to
// those that have less, until each is within one extent of it as far as domains
// allow, and counts them. An empty batch means that nothing of the volume is worth moving.
func (b *Balance) Moves(v *extmap.Volume, l Limits) []extmap.Move {
	p := b.c.plan(v, l)
	for index, e := range p.resting() {
		from := b.most(v, e)
		if from < 0 {
			continue
		}
		d := b.c.disks[from].Number
		to := p.target(e, d, index, func(i int) bool { return b.surplus(i) <= -1 && b.emptier(i, from) })
		if to >= 0 {
			p.add(index, d, to)
			b.moving[d]++
		}
	}
	return p.moves
}

// most returns the index of the disk of a set that has most above its share, at least
// one extent, and could be read; or -1.
func (b *Balance) most(v *extmap.Volume, e extmap.Extent) int {
	from := -1
	for _, d := range e.Disks {
		i, known := b.c.byNum[d]
		if known && b.c.disks[i].State == Up && v.Sync(d).State == extmap.InSync && b.surplus(i) >= 1 && (from < 0 || b.surplus(i) > b.surplus(from)) {
			from = i
		}
	}
	return from
}

// emptier reports whether disk i is less full than disk j also with an extent more. So
// each move makes disks more even, whatever their shares are: those of two pools with
// different domains differ, and nothing goes to and fro between them.
func (b *Balance) emptier(i, j int) bool {
	return (b.stays(i)+1)*int64(b.c.disks[j].Weight) < b.stays(j)*int64(b.c.disks[i].Weight)
}

// outgoing counts the moves off each disk that have begun.
func outgoing(m extmap.Map) map[extmap.Disk]int {
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
func (c *Cluster) fair(m extmap.Map, moving map[extmap.Disk]int) []float64 {
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
			total -= float64(int(d.Used) - moving[d.Number]) // not for a Balance to move
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

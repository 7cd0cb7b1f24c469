package sim

import (
	"slices"
	"time"

	"blockd.dev/replication/replica"
	"blockd.dev/replication/volume"
)

// A disk lies: it says that what it was given is durable, and when its machine goes down the
// last of that is gone. A store that finds this is what it was some changes ago. The
// protocol promises that nothing acknowledged is lost or served in an old state, as long as of each
// extent another replica that has all is in sync; so a disk lies under the conditions of mayLie.

// pastMost is how many changes a disk may lose.
const pastMost = 60

// past is what a disk was before a change.
type past struct {
	image    []byte
	versions []replica.Version
	present  []bool
	state    replica.State
}

// keep notes what d is, before op changes it. What was cleared for the sake of a move is not lost: what
// was there before is of any age, and nobody could tell.
func (d *disk) keep(op *replica.Op) {
	if !d.w.lying || !op.Changes() {
		return
	}
	if len(d.past) == pastMost {
		d.past = slices.Delete(d.past, 0, 1)
	}
	p := past{image: slices.Clone(d.image), versions: slices.Clone(d.versions), present: slices.Clone(d.present), state: d.state}
	p.state.Tail = slices.Clone(d.state.Tail)
	d.past = append(d.past, p)
	if op.Kind == replica.OpClear && op.Copied && op.Ver == (replica.Version{}) {
		d.past = nil
	}
}

// outage has the machine of n go down, or all, and come back no sooner than a lease can last. A disk may lie.
func (w *world) outage(n *node, all bool) {
	if n.disk == nil {
		n = w.nodes[w.rng.IntN(w.disks)]
	}
	for _, x := range w.nodes {
		if (x == n || all) && x.alive {
			if x.disk != nil {
				x.disk.down, x.disk.lies = true, x == n && w.lying
			}
			w.crashFor(x, w.between(longest*105/100, 200*time.Millisecond))
		}
	}
}

// mayLie tells whether the promises hold when the disk of n loses what it has acknowledged.
func (w *world) mayLie(n *node) bool {
	if w.calm || w.liar != nil && w.liar != n && w.doubtful(w.liar) {
		return false
	}
	return !slices.ContainsFunc(w.meta.sets, func(set []int) bool {
		return slices.Contains(set, n.index) && !slices.ContainsFunc(set, func(o int) bool {
			return o != n.index && w.meta.view.Members[o].Sync == volume.InSync && w.now >= w.meta.leaving[o]
		})
	})
}

// doubtful tells whether n, whose disk has lied, counts and was not vouched for.
func (w *world) doubtful(n *node) bool {
	return n.disk.state.Unproven && n.index < len(w.meta.view.Members) && w.meta.view.Members[n.index].Sync == volume.InSync
}

// wakes has d be what it is when its machine is there again: perhaps what it was some changes ago.
func (d *disk) wakes(n *node) {
	if !d.down {
		return
	}
	if d.lies && len(d.past) > 0 && d.w.mayLie(n) {
		most := len(d.past)
		if d.w.chance(0.5) {
			most = min(most, 8)
		}
		p := d.past[len(d.past)-1-d.w.rng.IntN(most)]
		d.image, d.versions, d.present, d.state = p.image, p.versions, p.present, p.state
		d.w.liar, d.lied = n, true
		d.w.lies++
	}
	d.past, d.down, d.lies = nil, false, false
	d.state.Unproven = true
}

// unnoticed has a machine go down, and come back, while hosts ask for nothing and the owner keeps its lease: it need
// not hear of that. Then the other disk of some extent is cut off, which it does hear of.
func (w *world) unnoticed() {
	w.after(w.between(5*time.Millisecond, 15*time.Millisecond), func() {
		if w.calm {
			return
		}
		w.unnoticed()
		set := w.meta.sets[w.rng.IntN(len(w.meta.sets))]
		if o := w.well(); o != nil && w.now >= w.still && !slices.Contains(set, o.index) && w.chance(0.2) {
			w.heal()
			w.inTurn(set, w.rng.IntN(2))
		}
	})
}

// inTurn has disk n of set go first.
func (w *world) inTurn(set []int, n int) {
	const down, back = 30 * time.Millisecond, 240 * time.Millisecond
	w.quiet = w.now + back + 30*time.Millisecond
	w.still = w.quiet
	w.after(down, func() {
		if !w.calm {
			w.outage(w.nodes[set[n]], false)
		}
	})
	for at := time.Duration(0); at < back; at += 10 * time.Millisecond {
		w.after(at, func() {
			if o := w.holder(); o != nil {
				epoch, sent := o.epoch, o.clock()
				w.send(o.index, w.meta.index(), func() { w.meta.renew(o, epoch, sent) })
			}
		})
	}
	w.after(back, func() {
		o := w.holder()
		if w.calm || o == nil {
			return
		}
		w.isolate(w.nodes[set[1-n]])
		w.healAfter(w.between(20*time.Millisecond, 60*time.Millisecond))
		o.do(func() {
			if o.owner != nil {
				o.owner.Unreachable(o.clock(), set[1-n])
			}
		})
	})
}

// holder is the owner with the newest lease.
func (w *world) holder() *node {
	for _, n := range w.nodes {
		if n.alive && n.owner != nil && !n.owner.Over() && n.epoch == w.meta.view.Epoch {
			return n
		}
	}
	return nil
}

// accused checks that no owner tells of a disk that it had lost something which has never lied.
func (w *world) accused(n *node) {
	for d, m := range n.owner.Status().Members {
		if (m.LostRegions > 0 || m.LostWrites > 0) && !w.nodes[d].disk.lied {
			w.fail("the owner of epoch %d says that disk %d, which has lost nothing, had lost %d regions, %d writes", n.epoch, d, m.LostRegions, m.LostWrites)
		}
	}
}

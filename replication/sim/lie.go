package sim

import (
	"slices"
	"time"

	"blockd.dev/replication/replica"
	"blockd.dev/replication/volume"
)

// A disk lies: it says that what it was given is durable, and when its power is cut the
// last of that is gone. A store that finds this is what it was some changes ago. The
// protocol promises that nothing acknowledged is lost or served in an old state, as long as of each
// extent another replica that has all is in sync, and can be asked; so a disk lies under
// the conditions of mayLie, and until an owner has judged it (believed) no change of
// membership leaves it as the only one in sync of an extent, and no other disk has blocks that can't be read.

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

// liar is the disk that has lied, while no owner has judged it.
type liar struct {
	node  *node
	since time.Duration
}

// outage cuts the power of all nodes, or of one; the disk of one may lie.
func (w *world) outage(n *node, all bool) {
	if n.disk == nil {
		n = w.nodes[w.rng.IntN(w.disks)]
	}
	n.disk.cutOff = true
	for _, x := range w.nodes {
		if x == n || all {
			w.crash(x)
		}
	}
}

// mayLie tells whether the promises hold when the disk of n loses what it has acknowledged.
func (w *world) mayLie(n *node) bool {
	if w.liar.node != nil || w.calm {
		return false
	}
	for _, x := range w.nodes {
		if x != n && x.disk != nil && len(x.disk.bad) > 0 {
			return false
		}
	}
	return !w.meta.onlyOf(n.index, -1)
}

// onlyOf tells whether some extent of d has nobody else in sync, without a third.
func (m *meta) onlyOf(d, without int) bool {
	return slices.ContainsFunc(m.sets, func(set []int) bool {
		return slices.Contains(set, d) && !slices.ContainsFunc(set, func(o int) bool {
			return o != d && o != without && m.view.Members[o].Sync == volume.InSync
		})
	})
}

// lie has the disk of n, which is about to start, be what it was some changes ago. The epoch by which
// it was fenced may be lost too if no owner of an older one can be left.
func (w *world) lie(n *node, off time.Duration) {
	d := n.disk
	cut := d.cutOff
	d.cutOff = false
	if !cut || !w.mayLie(n) {
		d.past = nil
		return
	}
	most := len(d.past)
	if off < longest*105/100 {
		for most = 0; most < len(d.past) && d.past[len(d.past)-1-most].state.Fenced == d.state.Fenced; most++ {
		}
	}
	if most == 0 {
		d.past = nil
		return
	}
	if w.chance(0.5) {
		most = min(most, 8)
	}
	p := d.past[len(d.past)-1-w.rng.IntN(most)]
	d.image, d.versions, d.present, d.state, d.past = p.image, p.versions, p.present, p.state, nil
	d.space = 0
	w.liar = liar{n, w.now}
	w.lies++
}

// judged ends the time of the liar when it is out, or an owner has it in a session and serves.
func (w *world) judged(n *node) {
	l := w.liar
	if l.node == nil {
		return
	}
	if i := l.node.index; i >= len(w.meta.view.Members) || w.meta.view.Members[i].Sync != volume.InSync || w.now > l.since+40*time.Millisecond && n.believes(i) {
		w.liar.node = nil
	}
}

// believes tells whether n serves, and has a session with replica d.
func (n *node) believes(d int) bool {
	if n.owner == nil || n.owner.Over() || n.epoch != n.w.meta.view.Epoch {
		return false
	}
	st := n.owner.Status()
	return st.Serving && d < len(st.Members) && st.Members[d].Connected
}

// trusts tells whether a MarkOut of d, by the owner on n, leaves more than the liar.
func (w *world) trusts(n *node, d int) bool {
	l := w.liar.node
	if l == nil || l.index == d || !w.meta.onlyOf(l.index, d) || n.believes(l.index) {
		return true
	}
	if n.owner == nil || n.owner.Over() { // it has looked at what d has in its tail
		return false
	}
	st := n.owner.Status()
	return st.Members[d].Doubted && st.Members[d].Connected
}

package sim

import (
	"slices"
	"time"

	"blockd.dev/replication/volume"
)

// moves are the extents that are on their way, and those that were.
type moves struct {
	to    []int  // by extent: where it is being moved to, or -1
	from  []int  // ... and whose place that member takes
	began uint64 // epoch in which moves began or were cancelled
	ended uint64 // epoch in which moves were finished
	count int    // extents that were moved
}

// moving tells whether extents are on their way.
func (m *meta) moving() bool { return slices.ContainsFunc(m.to, func(to int) bool { return to >= 0 }) }

// restless has extents move all the time.
func (m *meta) restless() {
	m.w.after(m.w.between(5*time.Millisecond, 50*time.Millisecond), func() {
		if !m.w.calm {
			if m.w.now >= m.w.still {
				m.move()
			}
			m.restless()
		}
	})
}

// toAndFro has the extent that hosts like best move between disks, or begin to, over
// and over again, and writes go missing where a part of it has arrived. Then nothing
// happens for a while but that the owner drains, or that it ends, the move is cancelled,
// the next owner does not know of it, and it begins anew.
func (m *meta) toAndFro() {
	m.w.after(m.w.between(4*time.Millisecond, 8*time.Millisecond), func() {
		if m.w.calm {
			return
		}
		m.toAndFro()
		switch {
		case m.holder < 0, m.w.now < m.w.storm, m.w.now < m.w.still:
		case !m.moving():
			if x := m.w.nodes[m.holder].owner; m.w.now < m.w.quiet && (x == nil || !x.Serving() || m.w.chance(0.8)) {
				return
			}
			m.start(0, m.w.rng.IntN(len(m.view.Members)))
		case m.w.arrived() && m.w.chance(0.5):
			m.w.gap()
			m.w.after(m.w.storm-m.w.now, func() {
				if n := m.w.nodes[m.holder]; m.w.chance(0.4) && m.to[0] >= 0 && n.alive {
					m.w.crash(n)
					m.cancel(0)
					m.w.quiet += 100 * time.Millisecond
				}
			})
		}
	})
}

// arrived tells whether some, but not all, is there of what moves.
func (w *world) arrived() bool {
	for _, n := range w.nodes {
		if !n.alive || n.owner == nil || n.epoch != w.meta.view.Epoch {
			continue
		}
		for _, x := range n.owner.Status().Members {
			if a := x.Arriving; a.Left < a.Regions {
				return true
			}
		}
	}
	return false
}

// start begins to move extent e to a disk if that can be.
func (m *meta) start(e, to int) {
	if m.to[e] >= 0 || m.view.Members[to].Sync != volume.InSync || slices.Contains(m.sets[e], to) {
		return
	}
	m.view.Revision++
	m.to[e], m.from[e], m.began = to, m.sets[e][m.w.rng.IntN(len(m.sets[e]))], m.view.Epoch
}

// cancel ends a move.
func (m *meta) cancel(e int) {
	m.view.Revision++
	m.to[e], m.began = -1, m.view.Epoch
}

// move begins to move some extents, each from a disk of its set, whatever the
// state of that, to one in sync that is none of it; a disk may be new. Where extents are on
// their way already some or all of that is cancelled, now and then.
func (m *meta) move() {
	if m.w.whole {
		return
	}
	if m.moving() {
		if m.w.chance(0.2) {
			all := m.w.chance(0.5)
			for e, to := range m.to {
				if to >= 0 && (all || m.w.chance(0.5)) {
					m.cancel(e)
				}
			}
		}
		return
	}
	if len(m.view.Members) < m.w.disks && m.w.chance(0.5) {
		m.view.Revision++
		m.view.Members = append(m.view.Members, volume.Member{Sync: volume.InSync})
	}
	for range 1 + m.w.rng.IntN(8) {
		m.start(m.w.rng.IntN(len(m.sets)), m.w.rng.IntN(len(m.view.Members)))
	}
}

// finish gives disk to the extents that are moved there. That is when their owner
// gets cut off, now and then; it may still read the disks that they have left.
func (m *meta) finish(to int) {
	moved := 0
	for e, d := range m.to {
		if d == to {
			set := m.sets[e]
			set[slices.Index(set, m.from[e])] = to
			slices.Sort(set)
			m.to[e] = -1
			m.ended = m.view.Epoch
			m.count++
			moved = e
		}
	}
	if n := m.w.nodes[m.holder]; !m.w.calm && m.w.chance(0.4) && n.disk != nil {
		m.w.cutOff(n)
		m.w.watch(n, moved)
	}
}

// watch reads a block of an extent by node n for a while, and writes it by other
// owners, if there are any.
func (w *world) watch(n *node, extent int) {
	b := (int64(extent)*extentBytes/blockBytes + w.rng.Int64N(extentBytes/blockBytes)) * blockBytes
	h := &host{w: w, last: map[int64]uint64{}}
	for at := time.Millisecond; at < longest; at += 3 * time.Millisecond {
		w.after(at, func() {
			for _, o := range w.nodes {
				if w.calm || !o.alive || o.owner == nil || o.owner.Over() {
					continue
				}
				r := &record{kind: volume.Write, off: b, blocks: 1}
				if o == n {
					r.kind = volume.Read
				}
				h.issue(o, r, func() {})
			}
		})
	}
}

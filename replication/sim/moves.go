package sim

import (
	"slices"

	"blockd.dev/replication/volume"
)

// moving tells whether extents are on their way.
func (m *meta) moving() bool { return slices.ContainsFunc(m.to, func(to int) bool { return to >= 0 }) }

// move begins to move some extents, each from a disk of its set, whatever the
// state of that, to one in sync that is none of it; a disk may be new. Where extents are on
// their way already some or all of that is cancelled, now and then.
func (m *meta) move() {
	if m.w.whole {
		return
	}
	m.view.Revision++
	if m.moving() {
		if m.w.chance(0.2) {
			all := m.w.chance(0.5)
			for e := range m.to {
				if all || m.w.chance(0.5) {
					m.to[e] = -1
				}
			}
			m.began = m.view.Epoch
		}
		return
	}
	if len(m.view.Members) < m.w.disks && m.w.chance(0.5) {
		m.view.Members = append(m.view.Members, volume.Member{Sync: volume.InSync})
	}
	for range 1 + m.w.rng.IntN(4) {
		e := m.w.rng.IntN(len(m.sets))
		to, from := m.w.rng.IntN(len(m.view.Members)), m.sets[e][m.w.rng.IntN(len(m.sets[e]))]
		if m.to[e] < 0 && m.view.Members[to].Sync == volume.InSync && !slices.Contains(m.sets[e], to) {
			m.to[e], m.from[e] = to, from
			m.began = m.view.Epoch
		}
	}
}

// finish gives disk to the extents that are moved there.
func (m *meta) finish(to int) {
	for e, d := range m.to {
		if d == to {
			set := m.sets[e]
			set[slices.Index(set, m.from[e])] = to
			slices.Sort(set)
			m.to[e] = -1
			m.ended = m.view.Epoch
			m.moved++
		}
	}
}

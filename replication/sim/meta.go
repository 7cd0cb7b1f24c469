package sim

import (
	"slices"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
	"blockd.dev/replication/volume"
)

// meta is the linearizable log that owners propose to, and the leases.
type meta struct {
	w      *world
	view   volume.View
	end    time.Duration // when every lease so far has ended for sure, true time
	holder int
}

func newMeta(w *world, replicas int) *meta {
	m := &meta{w: w, holder: -1}
	for range replicas {
		m.view.Members = append(m.view.Members, volume.Member{Sync: volume.InSync, Gen: 1})
	}
	return m
}

func (m *meta) index() int { return len(m.w.nodes) }

func (m *meta) copyView() volume.View {
	v := m.view
	v.Members = slices.Clone(v.Members)
	return v
}

// propose handles a proposal that has arrived from node.
func (m *meta) propose(from *node, p volume.Proposal) {
	m.w.after(m.w.between(100*time.Microsecond, 3*time.Millisecond), func() { // a Raft commit
		m.apply(p)
		v := m.copyView()
		m.w.send(m.index(), from.index, func() {
			from.do(func() {
				if from.owner != nil {
					from.owner.Meta(from.clock(), v)
				}
			})
		})
	})
}

func (m *meta) apply(p volume.Proposal) {
	m.view.Revision++
	x := &m.view.Members[p.Disk]
	if p.Epoch != m.view.Epoch || p.Gen != x.Gen && !mutation.On(mutation.LateMarkIn) {
		return
	}
	switch p.Change {
	case volume.MarkOut:
		others := 0
		for d, o := range m.view.Members {
			if d != p.Disk && o.Sync == volume.InSync {
				others++
			}
		}
		if x.Sync != volume.Out && others > 0 {
			x.Sync, x.Gen = volume.Out, x.Gen+1
		}
	case volume.MarkRebuilding:
		if x.Sync != volume.InSync {
			x.Sync, x.Gen = volume.Rebuilding, x.Gen+1
		}
	case volume.Keep:
		if x.Sync == volume.InSync {
			x.Gen++
		}
	case volume.MarkIn:
		if x.Sync == volume.Rebuilding {
			x.Sync = volume.InSync
		}
	}
}

// lease is how long a lease lasts by any clock, and longest what that is by
// the slowest, with both clocks 1% off.
const (
	lease   = 60 * time.Millisecond
	longest = lease * 104 / 100
)

// acquire handles node's wish to be owner, sent when its clock showed sent.
func (m *meta) acquire(n *node, sent clock.Mono, boot uint64, early bool) {
	if m.w.now < m.end && !early {
		return
	}
	old := m.end
	m.view.Revision++
	m.view.Epoch++
	m.holder = n.index
	m.end = max(m.end, m.w.now+longest)
	v := m.copyView()
	wait := max(0, old-m.w.now) * 102 / 100
	m.w.send(m.index(), n.index, func() {
		n.do(func() { n.granted(v, sent, boot, wait) })
	})
}

// renew prolongs the lease of epoch, and of no older one.
func (m *meta) renew(n *node, epoch uint64, sent clock.Mono) {
	if epoch != m.view.Epoch || m.holder != n.index {
		return
	}
	m.end = max(m.end, m.w.now+longest)
	m.w.send(m.index(), n.index, func() {
		n.do(func() {
			if n.owner != nil && n.epoch == epoch {
				n.owner.Renew(n.clock(), sent.Add(lease))
			}
		})
	})
}

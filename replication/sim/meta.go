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
	w    *world
	view volume.View
	sets [][]int // by extent; grows
	moves
	end    time.Duration // when every lease so far has ended for sure, true time
	before time.Duration // the same without the newest lease
	holder int

	leaving [maxNodes]time.Duration // until then a proposal to mark a member out may arrive
}

// news is the state at a revision, as nodes learn of it.
type news struct {
	view  volume.View
	bytes int64
	sets  [][]int
	to    []int
	began uint64
	ended uint64
}

func newMeta(w *world) *meta {
	m := &meta{w: w, holder: -1}
	members := w.disks
	if members > w.copies && w.chance(0.4) {
		members-- // the last one comes when the volume grows
	}
	for range members {
		m.view.Members = append(m.view.Members, volume.Member{Sync: volume.InSync})
	}
	m.addExtents(fewExtents)
	return m
}

func (m *meta) index() int { return len(m.w.nodes) }

func (m *meta) bytes() int64 { return int64(len(m.sets)) * extentBytes }

func (m *meta) news() news {
	v := m.view
	v.Members = slices.Clone(v.Members)
	n := news{view: v, bytes: m.bytes(), to: slices.Clone(m.to), began: m.began, ended: m.ended}
	for _, set := range m.sets {
		n.sets = append(n.sets, slices.Clone(set))
	}
	return n
}

// addExtents gives the volume extents, each on random members in sync.
func (m *meta) addExtents(n int) {
	var from []int
	for d, x := range m.view.Members {
		if x.Sync == volume.InSync || mutation.On(mutation.GrowOnStale) {
			from = append(from, d)
		}
	}
	for range n {
		if len(from) < m.w.copies {
			return
		}
		m.w.rng.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
		set := slices.Clone(from[:m.w.copies])
		slices.Sort(set)
		m.sets, m.to, m.from = append(m.sets, set), append(m.to, -1), append(m.from, -1)
	}
}

// grow makes the volume larger, perhaps by extents on another disk.
func (m *meta) grow() {
	if len(m.sets) >= mostExtents {
		return
	}
	m.view.Revision++
	if len(m.view.Members) < m.w.disks {
		m.view.Members = append(m.view.Members, volume.Member{Sync: volume.InSync})
	}
	m.addExtents(1)
}

// lastOf tells whether no replica of some extent would be in sync without d.
func (m *meta) lastOf(d int) bool {
	all := make([]int, len(m.view.Members))
	for i := range all {
		all[i] = i
	}
	sets := m.sets
	if mutation.On(mutation.LastOfVolume) {
		sets = [][]int{all}
	}
	return slices.ContainsFunc(sets, func(set []int) bool {
		return slices.Contains(set, d) && !slices.ContainsFunc(set, func(o int) bool {
			return o != d && m.view.Members[o].Sync == volume.InSync
		})
	})
}

// commits is the longest that a Raft commit takes.
const commits = 3 * time.Millisecond

// propose handles a proposal that has arrived from node.
func (m *meta) propose(from *node, p volume.Proposal) {
	m.w.after(m.w.between(100*time.Microsecond, commits), func() {
		m.apply(p)
		v := m.news()
		m.w.send(m.index(), from.index, func() {
			from.do(func() { from.learn(v) })
		})
	})
}

func (m *meta) apply(p volume.Proposal) {
	m.view.Revision++
	x := &m.view.Members[p.Disk]
	if p.Epoch != m.view.Epoch || p.Gen != x.Gen && !mutation.On(mutation.LateMarkIn) {
		return
	}
	if p.Change != volume.Finish && m.ended == p.Epoch && !mutation.On(mutation.MarkAfterFinish) {
		return
	}
	switch p.Change {
	case volume.Finish:
		if x.Sync == volume.InSync && (p.Epoch > m.began || mutation.On(mutation.FinishUnknown)) {
			x.Proof = max(x.Proof, p.Proof)
			m.finish(p.Disk)
		}
	case volume.MarkOut:
		if x.Sync != volume.Out && !m.lastOf(p.Disk) {
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
			x.Sync, x.Proof = volume.InSync, max(x.Proof, p.Proof)
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
	if m.w.now < m.end && (!early || m.ended == m.view.Epoch && !mutation.On(mutation.ReadAfterMove)) {
		return // the disk that an extent has left may still be read, and is not fenced
	}
	old := m.end
	m.before = old
	m.view.Revision++
	m.view.Epoch++
	m.holder = n.index
	m.end = max(m.end, m.w.now+longest)
	v := m.news()
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
	v := m.news()
	m.w.send(m.index(), n.index, func() {
		n.do(func() {
			if n.owner != nil && n.epoch == epoch {
				n.owner.Renew(n.clock(), sent.Add(lease))
				n.learn(v)
			}
		})
	})
}

// release ends the lease of epoch, whose owner is over. Leases before it may
// live on.
func (m *meta) release(n *node, epoch uint64) {
	if epoch == m.view.Epoch && m.holder == n.index {
		m.end = min(m.end, max(m.before, m.w.now))
	}
}

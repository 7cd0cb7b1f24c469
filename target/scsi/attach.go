package scsi

import (
	"slices"
	"sync/atomic"

	"blockd.dev/internal/clock"
)

// Nexus is an I_T nexus: one session of one initiator through one target port.
// Prepare, Execute, Cancel and TaskManagement may be called from any
// goroutine.
type Nexus struct {
	target *Target
	id     NexusID
	view   atomic.Pointer[lunMap]
	gone   atomic.Bool
	since  clock.Mono
}

// lunMap is the immutable view of a nexus.
type lunMap struct {
	dense  []*itl // LUNs below denseLUNs
	sparse map[uint16]*itl
	luns   []uint16 // sorted
}

const denseLUNs = 256

func (m *lunMap) at(lun uint16) *itl {
	if int(lun) < len(m.dense) {
		return m.dense[lun]
	}
	return m.sparse[lun] // nil map for nearly everyone
}

func (m *lunMap) put(lun uint16, i *itl) {
	m.luns = append(m.luns, lun)
	if lun < denseLUNs {
		for int(lun) >= len(m.dense) {
			m.dense = append(m.dense, nil)
		}
		m.dense[lun] = i
		return
	}
	if m.sparse == nil {
		m.sparse = make(map[uint16]*itl)
	}
	m.sparse[lun] = i
}

// Attach establishes the I_T nexus id. One that exists is lost first, as by
// Detach: that is what session reinstatement wants.
func (t *Target) Attach(id NexusID) *Nexus {
	t.mu.Lock()
	old := t.mu.nexuses[id]
	t.mu.Unlock()
	if old != nil {
		old.Detach()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := &Nexus{target: t, id: id, since: t.deps.Clock.Now()}
	n.view.Store(&lunMap{})
	t.mu.nexuses[id] = n
	n.remapLocked(t.conf.Load(), t.mu.units) // drops nothing: the view was empty
	greeting := uaPowerOn
	if t.mu.departed.has(id) {
		greeting = uaNexusLoss
	}
	for _, i := range n.itls() {
		i.ua.drop(^attention(0))
		i.ua.raise(greeting)
	}
	return n
}

// ID is the name of the nexus.
func (n *Nexus) ID() NexusID { return n.id }

// Detach ends the nexus (I_T nexus loss, SAM-5 §6.3.5): its tasks end
// silently, those that the device works on when it is done. The transport
// cancels the tasks that it has not executed yet. A second call does nothing.
func (n *Nexus) Detach() {
	if n.gone.Swap(true) {
		return
	}
	t := n.target
	t.mu.Lock()
	if t.mu.nexuses[n.id] == n {
		delete(t.mu.nexuses, n.id)
	}
	t.mu.departed.add(n.id)
	lost := n.itls()
	n.view.Store(&lunMap{})
	t.mu.Unlock()
	// Tasks end here, and their Done may take the transport's locks: the
	// target's is not held.
	for _, i := range lost {
		i.drop(abortSilent)
	}
}

// drop ends an I_T_L nexus and its tasks, in the way that kind says. The unit knows it until the
// last of these has ended: PREEMPT AND ABORT and resets, by other nexuses, wait for them.
func (i *itl) drop(kind abortKind) {
	w := newAbortWait(func() { i.lu.leave(i) })
	i.set.close(kind, w)
	w.release()
	i.lu.reservationsNexusLost(i.nexus)
}

func (n *Nexus) itls() []*itl {
	m := n.view.Load()
	out := make([]*itl, 0, len(m.luns))
	for _, l := range m.luns {
		out = append(out, m.at(l))
	}
	return out
}

// remapLocked makes the view of n what s says, keeping what did not change.
// Called with target.mu; the caller drops what is returned when it has let go
// of the lock.
func (n *Nexus) remapLocked(s *snapshot, units map[UnitID]*LU) (lost []*itl) {
	want := make(map[uint16]*LU)
	for lun, id := range s.AnyView {
		want[lun] = units[id]
	}
	for lun, id := range s.Views[n.id.InitiatorName] {
		want[lun] = units[id]
	}
	luns := make([]uint16, 0, len(want))
	for lun := range want {
		luns = append(luns, lun)
	}
	slices.Sort(luns)

	old := n.view.Load()
	next := &lunMap{}
	changed := len(luns) != len(old.luns)
	kept := make(map[*itl]bool, len(old.luns))
	for _, lun := range luns {
		if i := old.at(lun); i != nil && i.lu == want[lun] {
			kept[i] = true
			next.put(lun, i)
			continue
		}
		i := &itl{lu: want[lun], nexus: n, lun: lun}
		i.ua.raise(uaPowerOn)
		i.lu.join(i)
		next.put(lun, i)
		changed = true
	}
	n.view.Store(next)
	for _, lun := range old.luns {
		if i := old.at(lun); !kept[i] {
			lost = append(lost, i)
		}
	}
	if changed {
		for i := range kept {
			i.ua.raise(uaReportedLUNs)
		}
	}
	return lost
}

package scsi

import (
	"encoding/binary"
	"maps"
	"slices"

	"blockd.dev/target/access"
)

// hostAccess is the access states that hosts gave the port groups of one unit
// with SET TARGET PORT GROUPS. It is replaced, never changed.
type hostAccess map[uint16]hostState

// hostState holds for as long as the configuration says of the group what it
// said when the host chose.
type hostState struct {
	state AccessState
	basis GroupConfig
}

// Why a group is in its state: the STATUS CODE field of RTPG.
const (
	statusUnchanged = 0x00
	statusByHost    = 0x01
	statusByTarget  = 0x02
)

// stateOf is the asymmetric access state that a volume's access gives its unit.
func stateOf(s access.State) AccessState {
	switch s {
	case access.NonOptimized:
		return AccessNonOptimized
	case access.Inaccessible:
		return AccessUnavailable
	case access.Transition:
		return AccessTransitioning
	default:
		return AccessOptimized
	}
}

// accessIn is the access state of the unit through group g, and why. What the
// unit itself is comes first: no host can reach a volume that is not here.
func (lu *LU) accessIn(s *snapshot, g *GroupConfig) (AccessState, byte) {
	state, why := lu.groupAccess(s, g)
	if own := stateOf(lu.conf.Load().Access); own > state {
		return own, statusByTarget
	}
	if why == statusUnchanged && lu.moved.Load() {
		why = statusByTarget
	}
	return state, why
}

// accessIn is that of the unit, and worse where that was withdrawn from the initiator: through the
// port by which it comes.
func (i *itl) accessIn(s *snapshot, g *GroupConfig) (AccessState, byte) {
	state, why := i.lu.accessIn(s, g)
	if own := s.groupOf(i.nexus.id.TargetPort); i.withdrawn.Load() && own != nil && own.ID == g.ID {
		return max(state, AccessUnavailable), statusByTarget
	}
	return state, why
}

// groupAccess is accessIn without what the unit itself is.
func (lu *LU) groupAccess(s *snapshot, g *GroupConfig) (AccessState, byte) {
	if p := lu.access.Load(); p != nil {
		if h, ok := (*p)[g.ID]; ok && h.basis == *g {
			return h.state, statusByHost
		}
	}
	return g.State, s.changed[g.ID]
}

// accessThrough is the access state of the unit through a port; ports that are
// not configured are active/optimized.
func (lu *LU) accessThrough(s *snapshot, port uint16) AccessState {
	g := s.groupOf(port)
	if g == nil {
		return stateOf(lu.conf.Load().Access)
	}
	state, _ := lu.accessIn(s, g)
	return state
}

func prepareReportGroups(t *Task) sense {
	if f := t.state.cdb[1] >> 5; f > 1 { // PARAMETER DATA FORMAT
		return badCDB(1, 7)
	}
	return t.wantIn(be32(t.state.cdb[6:]))
}

// reportGroups is SPC-4 §6.37.
func reportGroups(t *Task) {
	conf, itl := t.state.nexus.target.conf.Load(), t.state.itl
	itl.looked()
	b := make([]byte, 4, 64)
	if t.state.cdb[1]>>5 == 1 { // extended header: no implicit transition time
		b = append(b, 0x10, 0, 0, 0)
	}
	for i := range conf.groups {
		g := &conf.groups[i]
		state, why := itl.accessIn(conf, g)
		const supported = 0x80 | 0x0f // T_SUP, U_SUP, S_SUP, AN_SUP, AO_SUP
		d := [8]byte{0: byte(state), 1: supported, 2: byte(g.ID >> 8), 3: byte(g.ID), 5: why}
		if g.Preferred {
			d[0] |= 0x80
		}
		at := len(b)
		b = append(b, d[:]...)
		for _, p := range conf.Ports {
			if p.Group == g.ID {
				b = append(b, 0, 0, byte(p.RelativeID>>8), byte(p.RelativeID))
				b[at+7]++
			}
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	t.reply(b)
}

// setGroups lets a host choose the access state of port groups for one unit
// (SPC-4 §6.45): no host reaches what others see of other units.
func setGroups(t *Task) {
	if t.Length == 0 {
		t.good()
		return
	}
	p := t.parameters()
	if len(p) < t.Length || len(p) < 4 || len(p)%4 != 0 {
		t.fail(illegal(ascParameterListLength))
		return
	}
	if t.state.itl.withdrawn.Load() {
		t.fail(sense{key: keyHardwareError, asc: ascSTPGFailed})
		return
	}
	if s := t.state.itl.lu.setGroups(t.state.nexus, p); !s.ok() {
		t.fail(s)
		return
	}
	t.good()
}

func (lu *LU) setGroups(by *Nexus, p []byte) sense {
	t := lu.target
	t.mu.Lock()
	defer t.mu.Unlock()
	conf := t.conf.Load()
	next := make(hostAccess)
	if old := lu.access.Load(); old != nil {
		maps.Copy(next, *old)
	}
	var changed []GroupConfig
	for at := 4; at < len(p); at += 4 {
		state := AccessState(p[at] & 0x0f)
		if state > AccessUnavailable {
			return badParam(at)
		}
		id := be16(p[at+2:])
		i := slices.IndexFunc(conf.groups, func(g GroupConfig) bool { return g.ID == id })
		if i < 0 {
			return badParam(at + 2)
		}
		g := &conf.groups[i]
		if state < stateOf(lu.conf.Load().Access) {
			return sense{key: keyHardwareError, asc: ascSTPGFailed}
		}
		if was, _ := lu.accessIn(conf, g); was != state {
			next[id] = hostState{state: state, basis: *g}
			changed = append(changed, GroupConfig{ID: id, State: state, Preferred: g.Preferred})
		}
	}
	if len(changed) == 0 {
		return sense{}
	}
	lu.access.Store(&next)
	lu.raise(uaAccessStateChanged, func(n *Nexus) bool { return n != by })
	for _, g := range changed {
		t.event(Event{Kind: EventAccessState, Nexus: by.id, Unit: lu.id, Group: g.ID, State: g.State,
			Text: "a host set the access state of a target port group for a unit"})
	}
	return sense{}
}

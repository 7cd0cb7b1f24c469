package scsi

import "encoding/binary"

// wlunReportLUNs is the well known logical unit REPORT LUNS (SAM-5 §4.7.7.5.1)
// as the first two bytes of a LUN field.
const wlunReportLUNs = 0xc101

// parseLUN takes a LUN field apart: the LUN of a view, or the well known unit,
// or neither. Peripheral (00b, bus 0) and flat (01b) addressing name the same
// units.
func parseLUN(field uint64) (lun uint16, wellKnown, ok bool) {
	if field<<16 != 0 {
		return 0, false, false
	}
	top := uint16(field >> 48)
	switch {
	case top < 0x100: // peripheral, bus 0
		return top, false, true
	case top>>14 == 1: // flat
		return top & LUNMax, false, true
	case top == wlunReportLUNs:
		return 0, true, true
	}
	return 0, false, false
}

// Prepare decodes the CDB of t. It returns true with Dir and Length set when t
// is to get its data and go to Execute or Cancel; false when t is over, with
// Status and sense set and without a call of Done.
func (n *Nexus) Prepare(t *Task) bool {
	st := &t.state
	st.nexus = n
	if len(t.CDB) < cdbMax {
		st.cdb = [cdbMax]byte{}
	}
	length := copy(st.cdb[:], t.CDB)
	t.CDB = st.cdb[:]

	lun, wellKnown, ok := parseLUN(t.LUN)
	var i *itl
	if ok && !wellKnown {
		i = n.view.Load().at(lun)
	}
	cmd := lookup(&st.cdb)
	if i == nil {
		return n.prepareNoUnit(t, cmd, length, wellKnown)
	}
	st.itl = i
	if s, status := n.admit(t, i, cmd, length); status != StatusGood {
		t.Status = status
		if status == StatusCheckCondition {
			t.setSense(&s)
		}
		return false
	}
	if s := cmd.prepare(t); !s.ok() {
		t.setSense(&s)
		return false
	}
	if !i.set.enter(t) {
		// The view changed or the nexus went between the two.
		s := illegal(ascLUNotSupported)
		t.setSense(&s)
		return false
	}
	return true
}

// admit checks what comes before the CDB's own fields, in order of precedence
// (SAM-5 §5.3.3): reservations, unit attentions, the opcode, the reserved
// bits, the state of the unit.
func (n *Nexus) admit(t *Task, i *itl, cmd *command, length int) (sense, Status) {
	if cmd == nil || cmd.supported != nil && !cmd.supported(i.lu) {
		if i.ua.pending() {
			if s, ok := i.ua.take(); ok {
				return s, StatusCheckCondition
			}
		}
		return n.unknown(&t.state.cdb), StatusCheckCondition
	}
	if i.lu.conflict(n, cmd.accessOf(&t.state.cdb)) {
		return sense{}, StatusReservationConflict
	}
	if cmd.flags&flagNoAttention == 0 && i.ua.pending() {
		if s, ok := i.ua.take(); ok {
			return s, StatusCheckCondition
		}
	}
	if s := cmd.checkReserved(&t.state.cdb, length); !s.ok() {
		return s, StatusCheckCondition
	}
	if t.Attr == AttrACA || t.Attr > AttrACA {
		return illegal(ascInvalidFieldInIU), StatusCheckCondition
	}
	if cmd.flags&flagMedium != 0 {
		if i.refuses(cmd.accessOf(&t.state.cdb)) {
			return i.refuse(), StatusCheckCondition
		}
		if s := n.ready(i.lu); !s.ok() {
			return s, StatusCheckCondition
		}
	}
	t.state.cmd = cmd
	return sense{}, StatusGood
}

// ready says why the unit can't access its medium through this nexus.
func (n *Nexus) ready(lu *LU) sense {
	if lu.stopped.Load() {
		return sense{key: keyNotReady, asc: ascNotReadyStopped}
	}
	switch lu.accessThrough(n.target.conf.Load(), n.id.TargetPort) {
	case AccessStandby:
		return sense{key: keyNotReady, asc: ascStandby}
	case AccessUnavailable:
		return sense{key: keyNotReady, asc: ascUnavailable}
	case AccessTransitioning:
		return sense{key: keyNotReady, asc: ascTransitioning}
	}
	return sense{}
}

// unknown is the sense for an opcode or service action that is not there.
func (n *Nexus) unknown(cdb *[cdbMax]byte) sense {
	if knownOpcode(cdb[0]) {
		return badCDB(1, 4) // the SERVICE ACTION field
	}
	return illegal(ascInvalidOpcode)
}

// prepareNoUnit serves the commands that SPC-5 and SAM-5 want answered where
// no logical unit is, and on the well known logical unit.
func (n *Nexus) prepareNoUnit(t *Task, cmd *command, length int, wellKnown bool) bool {
	st := &t.state
	need := flagAnyLUN
	s := illegal(ascLUNotSupported)
	if wellKnown {
		need = flagWellKnown
		s = illegal(ascInvalidOpcode)
	} else if t.LUN == 0 {
		need = flagAnyLUN | flagLUNZero
	}
	if cmd == nil || cmd.flags&need == 0 {
		t.setSense(&s)
		return false
	}
	if s = cmd.checkReserved(&st.cdb, length); !s.ok() {
		t.setSense(&s)
		return false
	}
	st.cmd = cmd
	if s = cmd.prepare(t); !s.ok() {
		t.setSense(&s)
		return false
	}
	return true
}

// onWellKnown reports whether t addresses the REPORT LUNS unit.
func (t *Task) onWellKnown() bool { return t.LUN>>48 == wlunReportLUNs }

// Execute runs a prepared task whose data is there. Done is called exactly
// once, possibly before Execute returns.
func (n *Nexus) Execute(t *Task) {
	st := &t.state
	if st.itl != nil {
		run, dropped := st.itl.set.start(t)
		if dropped {
			t.finish()
			return
		}
		if !run {
			return
		}
	}
	t.run()
}

// Cancel gives up a prepared task that was not executed. Done is not called.
func (n *Nexus) Cancel(t *Task) {
	st := &t.state
	if st.itl == nil {
		return
	}
	waits, run, _ := st.itl.set.leave(t)
	for _, w := range waits {
		w.release()
	}
	for _, r := range run {
		r.run()
	}
}

// be16 and friends read CDB fields.
func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
func be24(b []byte) uint32 { return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]) }
func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
func be64(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

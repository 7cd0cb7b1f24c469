package scsi

import "blockd.dev/blockdev"

// basicCommands are TEST UNIT READY and the other small ones of SPC-5 and
// SBC-4.
var basicCommands = []command{
	{name: "TEST UNIT READY", cdb: "00 00 00 00 00 00", access: accessStatus, flags: flagMedium | flagWellKnown,
		prepare: noData, execute: testUnitReady},
	{name: "REQUEST SENSE", cdb: "03 01 00 00 ff 00", access: accessAlways, flags: flagNoAttention | flagAnyLUN | flagWellKnown,
		prepare: func(t *Task) sense { return t.wantIn(uint32(t.state.cdb[4])) }, execute: requestSense},
	{name: "INQUIRY", cdb: "12 01 ff ff ff 00", access: accessAlways, flags: flagNoAttention | flagAnyLUN | flagWellKnown,
		prepare: prepareInquiry, execute: inquiry},
	{name: "REPORT LUNS", cdb: "a0 00 ff 00 00 00 ff ff ff ff 00 00", access: accessAlways, flags: flagNoAttention | flagLUNZero | flagWellKnown,
		prepare: prepareReportLUNs, execute: reportLUNs},
	{name: "START STOP UNIT", cdb: "1b 01 00 00 f7 00", classOf: startStopClass,
		prepare: prepareStartStop, execute: startStop},
	{name: "PREVENT ALLOW MEDIUM REMOVAL", cdb: "1e 00 00 00 03 00", classOf: preventClass,
		prepare: preparePrevent, execute: prevent},
	{name: "SEND DIAGNOSTIC", cdb: "1d e7 00 ff ff 00", access: accessWrite,
		prepare: prepareSendDiagnostic, execute: sendDiagnostic},
	{name: "RECEIVE DIAGNOSTIC RESULTS", cdb: "1c 01 ff ff ff 00", access: accessRead,
		prepare: prepareReceiveDiagnostic, execute: receiveDiagnostic},
	{name: "READ DEFECT DATA (10)", cdb: "37 00 1f 00 00 00 00 ff ff 00", access: accessRead,
		prepare: func(t *Task) sense { return t.wantIn(uint32(be16(t.state.cdb[7:]))) }, execute: readDefectData10},
	{name: "READ DEFECT DATA (12)", cdb: "b7 1f ff ff ff ff ff ff ff ff 00 00", access: accessRead,
		prepare: func(t *Task) sense { return t.wantIn(be32(t.state.cdb[6:])) }, execute: readDefectData12},
}

// testUnitReady (SPC-5 §6.43) has nothing left to find: see Nexus.ready.
func testUnitReady(t *Task) {
	if i := t.state.itl; i != nil {
		i.looked()
	}
	t.good()
}

// requestSense reports the oldest unit attention, or the state of the unit, as
// parameter data (SPC-5 §6.35).
func requestSense(t *Task) {
	st := &t.state
	var s sense
	switch {
	case t.onWellKnown():
	case st.itl == nil:
		s = illegal(ascLUNotSupported)
	default:
		if ua, ok := st.itl.ua.take(); ok {
			s = ua
		} else if st.itl.lu.stopped.Load() {
			s = sense{key: keyNotReady, asc: ascNotReadyStopped}
		}
	}
	var b [SenseMax]byte
	n := s.encode(b[:], st.cdb[1]&1 != 0)
	t.reply(b[:n])
}

// startStopClass: starting a started unit conflicts with nothing but SPC-2
// reservations (SBC-4 table of persistent reservations).
func startStopClass(cdb *[cdbMax]byte) accessClass {
	if cdb[4]&0xf1 == 1 {
		return accessStatus
	}
	return accessWrite
}

func prepareStartStop(t *Task) sense {
	cdb := &t.state.cdb
	// POWER CONDITION: START_VALID and ACTIVE; the unit has no others.
	if pc := cdb[4] >> 4; pc > 1 {
		return badCDB(4, 7)
	}
	// LOEJ: the medium does not come out.
	if cdb[4]&0x02 != 0 {
		return badCDB(4, 1)
	}
	return sense{}
}

// startStop (SBC-4 §5.31). Stopping flushes unless NO_FLUSH; a stopped unit
// answers NOT READY until it is started.
func startStop(t *Task) {
	lu := t.state.itl.lu
	cdb := &t.state.cdb
	if cdb[4]>>4 == 1 || cdb[4]&0x01 != 0 {
		lu.stopped.Store(false)
		t.good()
		return
	}
	if cdb[4]&0x04 != 0 { // NO_FLUSH
		lu.stopped.Store(true)
		t.good()
		return
	}
	t.submit(blockdev.OpFlush, 0, 0, nil, func(r *blockdev.Request) {
		if r.Err == nil {
			lu.stopped.Store(true)
		}
		ioDone(r)
	})
}

func preventClass(cdb *[cdbMax]byte) accessClass {
	if cdb[4]&3 == 0 {
		return accessAlways
	}
	return accessWrite
}

func preparePrevent(t *Task) sense {
	if t.state.cdb[4]&0x02 != 0 {
		return badCDB(4, 1) // for media changers, obsolete
	}
	return sense{}
}

// prevent (SPC-5 §6.15) is kept per nexus; the medium never leaves, so it
// decides nothing else.
func prevent(t *Task) {
	t.state.itl.locked.Store(t.state.cdb[4]&1 != 0)
	t.good()
}

// prepareSendDiagnostic takes the default self-test and, as a parameter list,
// only an empty page 00h.
func prepareSendDiagnostic(t *Task) sense {
	cdb := &t.state.cdb
	if cdb[1]>>5 != 0 {
		return badCDB(1, 7) // SELF-TEST CODE: no background or extended tests
	}
	length := uint32(be16(cdb[3:]))
	if cdb[1]&0x04 != 0 && length != 0 {
		return badCDBByte(3)
	}
	return t.wantOut(length, 0xffff)
}

// sendDiagnostic runs the default self-test, a flush, which shows whether the
// device still answers; or takes page 00h (SPC-5 §6.42).
func sendDiagnostic(t *Task) {
	if t.state.cdb[1]&0x04 != 0 {
		t.submit(blockdev.OpFlush, 0, 0, nil, ioDone)
		return
	}
	p := t.parameters()
	if len(p) > 0 {
		switch {
		case len(p) < 4:
			t.fail(illegal(ascParameterListLength))
			return
		case p[0] != 0:
			t.fail(badParam(0))
			return
		case be16(p[2:]) != 0:
			t.fail(badParam(2))
			return
		}
	}
	t.good()
}

func prepareReceiveDiagnostic(t *Task) sense {
	cdb := &t.state.cdb
	if cdb[1]&1 == 0 && cdb[2] != 0 {
		return badCDBByte(2)
	}
	if cdb[2] != 0 {
		return badCDBByte(2)
	}
	return t.wantIn(uint32(be16(cdb[3:])))
}

// receiveDiagnostic returns page 00h, the list of pages: itself.
func receiveDiagnostic(t *Task) { t.reply([]byte{0, 0, 0, 1, 0}) }

// readDefectData10 and readDefectData12 report empty lists: a volume has no
// defects of its own (SBC-4 §5.18).
func readDefectData10(t *Task) {
	t.reply([]byte{0, t.state.cdb[2] & 0x1f, 0, 0})
}

func readDefectData12(t *Task) {
	t.reply([]byte{0, t.state.cdb[1] & 0x1f, 0, 0, 0, 0, 0, 0})
}

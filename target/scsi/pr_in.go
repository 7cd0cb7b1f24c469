package scsi

func preparePRIn(t *Task) sense { return t.wantIn(uint32(be16(t.state.cdb[7:]))) }

// persistentReserveIn is PERSISTENT RESERVE IN (SPC-5 of that name). It reads
// the published state, and so never waits. SPC-2 5.5.1 makes it conflict with
// a RESERVE, whoever sends it.
func persistentReserveIn(t *Task) {
	s := t.state.itl.lu.rsv.volume.State()
	if !s.Legacy.IsZero() {
		t.failStatus(StatusReservationConflict)
		return
	}
	b, ok := appendPRIn(nil, prInAction(t.state.cdb[1]&0x1f), s)
	if !ok {
		t.fail(badCDB(1, 4))
		return
	}
	t.reply(b)
}

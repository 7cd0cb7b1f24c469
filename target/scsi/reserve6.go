package scsi

import "blockd.dev/target/reservation"

// RESERVE and RELEASE, 6 and 10, as SPC-2 has them for a whole logical unit,
// with the exceptions of SPC-5 for units with persistent reservations (CRH).
// Third-party and extent reservations are refused by the opcode table.

func legacyReserve(t *Task) { go t.legacy(reservation.OpLegacyReserve) }

func legacyRelease(t *Task) { go t.legacy(reservation.OpLegacyRelease) }

func (t *Task) legacy(op reservation.Op) {
	st := &t.state
	lu, n := st.itl.lu, st.nexus
	if st.aborted.Load() {
		t.finish()
		return
	}
	res, err := lu.applyReservation(&reservation.Command{Op: op, From: n.id.identity()})
	// A nexus that was lost meanwhile may have been too early to give up what
	// this command then took.
	if n.gone.Load() {
		lu.reservationsNexusLost(n)
	}
	switch {
	case err != nil:
		t.fail(sense{key: keyHardwareError, asc: ascInternalFailure})
	case res.Status != reservation.StatusOK:
		t.failStatus(StatusReservationConflict)
	default:
		t.good()
	}
}

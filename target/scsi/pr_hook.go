package scsi

import (
	"context"
	"fmt"
	"slices"
	"time"

	"blockd.dev/target/reservation"
)

// ReservationBackend keeps the reservation state of units.
type ReservationBackend = reservation.Backend

// reservationTimeout bounds the wait for a backend that needs other nodes. It
// is below the 30 s after which hosts give a command up.
const reservationTimeout = 20 * time.Second

// unitReservations is what a logical unit keeps about reservations.
type unitReservations struct {
	backend reservation.Backend
	volume  *reservation.Volume
	stop    func()
}

// open loads the state of a new logical unit. Called with target.mu.
func (r *unitReservations) open(lu *LU) error {
	if lu.target.deps.Reservations == nil {
		lu.target.deps.Reservations = &reservation.Memory{}
	}
	r.backend = lu.target.deps.Reservations
	v, err := r.backend.Volume(lu.id)
	if err != nil {
		return err
	}
	r.volume = v
	r.stop = v.Watch(lu.reservationsChanged)
	return nil
}

// close ends the use of the state when the logical unit goes away.
func (r *unitReservations) close() { r.stop() }

// identity is the nexus as reservations know it.
func (id *NexusID) identity() reservation.Identity {
	return reservation.ISCSI(id.InitiatorName, id.ISID, id.TargetPort)
}

// The access classes of the opcode table are those of the reservations, in the
// same order.
const (
	_ = uint(accessAlways) - uint(reservation.AccessAny)
	_ = uint(reservation.AccessQuery) - uint(accessStatus)
	_ = uint(reservation.AccessRead) - uint(accessRead)
	_ = uint(reservation.AccessWrite) - uint(accessWrite)
	_ = uint(accessWrite) - uint(reservation.AccessWrite)
)

// conflict reports whether a command of the given class, from n, must end
// with RESERVATION CONFLICT.
func (lu *LU) conflict(n *Nexus, access accessClass) bool {
	if !lu.rsv.volume.Restricted() || access == accessOwn {
		return false
	}
	id := n.id.identity()
	return !lu.rsv.volume.Allows(&id, reservation.Access(access))
}

// conflictAtStart is conflict for a task that is about to run. A reservation
// may have come between Prepare and now. Here the task is in its task set, so
// PREEMPT AND ABORT either shows in this check or finds the task.
func (t *Task) conflictAtStart() bool {
	st := &t.state
	return st.itl != nil && st.itl.lu.rsv.volume.Restricted() && st.itl.lu.conflict(st.nexus, st.cmd.accessOf(&st.cdb))
}

// applyReservation runs one command on the state. An error is also told to the
// owner of the target.
func (lu *LU) applyReservation(c *reservation.Command) (reservation.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), reservationTimeout)
	defer cancel()
	res, err := lu.rsv.backend.Apply(ctx, lu.id, c)
	if err != nil {
		lu.target.event(Event{Kind: EventDeviceError, Unit: lu.id, Text: fmt.Sprintf("reservation command %q of %v failed: %v", c.Op, c.From, err)})
	}
	return res, err
}

// reservationsNexusLost is called after the I_T nexus n was lost, or no longer
// sees the unit. It gives up the nexus's SPC-2 reservation; persistent ones stay (SPC-5 "Persistent
// reservations").
func (lu *LU) reservationsNexusLost(n *Nexus) {
	id := n.id.identity()
	if lu.rsv.volume.State().Legacy == id {
		_, _ = lu.applyReservation(&reservation.Command{Op: reservation.OpNexusLoss, From: id})
	}
}

// reservationsReset is called for a logical unit reset, which ends SPC-2
// reservations.
func (lu *LU) reservationsReset() {
	if !lu.rsv.volume.State().Legacy.IsZero() {
		_, _ = lu.applyReservation(&reservation.Command{Op: reservation.OpLegacyReset})
	}
}

// noticeAttentions maps the notices to unit attentions.
var noticeAttentions = map[reservation.Notice]attention{
	reservation.ReservationsPreempted:  uaReservationsPreempted,
	reservation.ReservationsReleased:   uaReservationsReleased,
	reservation.RegistrationsPreempted: uaRegistrationsPreempted,
}

// reservationsChanged is the watch callback: it establishes unit attentions
// and aborts the tasks of preempted nexuses. Tasks end on a goroutine, since
// the transports' Done must not run under the backend's locks.
func (lu *LU) reservationsChanged(c *reservation.Change) {
	for _, e := range c.Events {
		lu.raise(noticeAttentions[e.Notice], func(n *Nexus) bool { return n.id.identity() == e.To })
	}
	var preempted []*itl
	for _, i := range lu.each() {
		if slices.Contains(c.Aborts, i.nexus.id.identity()) {
			preempted = append(preempted, i)
		}
	}
	if len(preempted) == 0 {
		return
	}
	kind := abortSilent
	if lu.mode.taskAbortedStatus() {
		kind = abortStatus
	}
	release := c.Hold()
	go func() {
		w := newAbortWait(release)
		for _, i := range preempted {
			// Reservation commands wait in Apply; see reservation.Change.
			i.set.abort(func(t *Task) bool { return t.state.cmd.access != accessOwn }, kind, w)
		}
		w.release()
	}()
}

// reservationCommands are the rows of the opcode table for PERSISTENT RESERVE
// IN and OUT, RESERVE and RELEASE. They check reservations themselves. SCOPE
// and TYPE are evaluated by the service actions that use them and let through
// by the others; so are the obsolete LUN and reservation identification of
// RESERVE and RELEASE.
var reservationCommands = []command{
	{name: "PERSISTENT RESERVE IN, READ KEYS", cdb: "5e 00 00 00 00 00 00 ff ff 00", access: accessOwn,
		prepare: preparePRIn, execute: persistentReserveIn},
	{name: "PERSISTENT RESERVE IN, READ RESERVATION", cdb: "5e 01 00 00 00 00 00 ff ff 00", access: accessOwn,
		prepare: preparePRIn, execute: persistentReserveIn},
	{name: "PERSISTENT RESERVE IN, REPORT CAPABILITIES", cdb: "5e 02 00 00 00 00 00 ff ff 00", access: accessOwn,
		prepare: preparePRIn, execute: persistentReserveIn},
	{name: "PERSISTENT RESERVE IN, READ FULL STATUS", cdb: "5e 03 00 00 00 00 00 ff ff 00", access: accessOwn,
		prepare: preparePRIn, execute: persistentReserveIn},

	{name: "PERSISTENT RESERVE OUT, REGISTER", cdb: "5f 00 00 00 00 ff ff ff ff 00", ignored: "00 00 ff 00 00 00 00 00 00 00", access: accessOwn,
		prepare: preparePROut, execute: persistentReserveOut},
	{name: "PERSISTENT RESERVE OUT, RESERVE", cdb: "5f 01 ff 00 00 ff ff ff ff 00", access: accessOwn,
		prepare: preparePROut, execute: persistentReserveOut},
	{name: "PERSISTENT RESERVE OUT, RELEASE", cdb: "5f 02 ff 00 00 ff ff ff ff 00", access: accessOwn,
		prepare: preparePROut, execute: persistentReserveOut},
	{name: "PERSISTENT RESERVE OUT, CLEAR", cdb: "5f 03 00 00 00 ff ff ff ff 00", ignored: "00 00 ff 00 00 00 00 00 00 00", access: accessOwn,
		prepare: preparePROut, execute: persistentReserveOut},
	{name: "PERSISTENT RESERVE OUT, PREEMPT", cdb: "5f 04 ff 00 00 ff ff ff ff 00", access: accessOwn,
		prepare: preparePROut, execute: persistentReserveOut},
	{name: "PERSISTENT RESERVE OUT, PREEMPT AND ABORT", cdb: "5f 05 ff 00 00 ff ff ff ff 00", access: accessOwn,
		prepare: preparePROut, execute: persistentReserveOut},
	{name: "PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY", cdb: "5f 06 00 00 00 ff ff ff ff 00", ignored: "00 00 ff 00 00 00 00 00 00 00", access: accessOwn,
		prepare: preparePROut, execute: persistentReserveOut},
	{name: "PERSISTENT RESERVE OUT, REGISTER AND MOVE", cdb: "5f 07 00 00 00 ff ff ff ff 00", ignored: "00 00 ff 00 00 00 00 00 00 00", access: accessOwn,
		prepare: preparePROut, execute: persistentReserveOut},

	{name: "RESERVE (6)", cdb: "16 00 00 00 00 00", ignored: "00 e0 ff 00 00 00", access: accessOwn,
		prepare: noData, execute: legacyReserve},
	{name: "RELEASE (6)", cdb: "17 00 00 00 00 00", ignored: "00 e0 ff 00 00 00", access: accessOwn,
		prepare: noData, execute: legacyRelease},
	{name: "RESERVE (10)", cdb: "56 00 00 00 00 00 00 00 00 00", ignored: "00 e0 ff 00 00 00 00 00 00 00", access: accessOwn,
		prepare: noData, execute: legacyReserve},
	{name: "RELEASE (10)", cdb: "57 00 00 00 00 00 00 00 00 00", ignored: "00 e0 ff 00 00 00 00 00 00 00", access: accessOwn,
		prepare: noData, execute: legacyRelease},
}

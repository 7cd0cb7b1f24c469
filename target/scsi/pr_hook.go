package scsi

// ReservationBackend keeps the reservation state of units.
type ReservationBackend interface{}

// unitReservations is what a logical unit keeps about reservations.
type unitReservations struct{}

// open loads the state of a new logical unit.
func (r *unitReservations) open(lu *LU) error { return nil }

// close ends the use of the state when the logical unit goes away.
func (r *unitReservations) close() {}

// conflict reports whether a command of the given class, from n, must end
// with RESERVATION CONFLICT.
func (lu *LU) conflict(n *Nexus, access accessClass) bool { return false }

// reservationsNexusLost is called after the I_T nexus n was lost.
func (lu *LU) reservationsNexusLost(n *Nexus) {}

// reservationsReset is called for a logical unit reset.
func (lu *LU) reservationsReset() {}

// reservationCommands are the rows of the opcode table for PERSISTENT RESERVE
// IN and OUT, RESERVE and RELEASE.
var reservationCommands []command

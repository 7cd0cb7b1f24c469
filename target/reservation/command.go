package reservation

// Op is what a Command asks for.
type Op uint8

// The operations. OpRegister to OpMove are the service actions of PERSISTENT
// RESERVE OUT, of which NVMe shares OpReserve (Acquire), OpRelease, OpClear,
// OpPreempt and OpPreemptAndAbort; OpHost* are the actions of the NVMe
// Reservation Register command; OpLegacy* and OpNexusLoss are SPC-2's.
const (
	// OpRegister gives From the key NewKey when Key is its present one (zero:
	// not registered). NewKey zero unregisters. Uses Ports, SpecifyInitiators
	// and Initiators, Persist.
	OpRegister Op = iota + 1
	// OpRegisterIgnore is OpRegister whatever the present key is. Uses Ports,
	// Persist.
	OpRegisterIgnore
	// OpMove registers To with NewKey and makes it the holder; From must hold
	// the reservation. Uses Unregister, Persist.
	OpMove
	// OpReserve makes From hold a reservation of Type.
	OpReserve
	// OpRelease gives up From's reservation of Type.
	OpRelease
	// OpClear removes the reservation and every registration.
	OpClear
	// OpPreempt removes the registrations with NewKey; if that is the holder's,
	// From takes the reservation over as Type.
	OpPreempt
	// OpPreemptAndAbort is OpPreempt that also aborts the removed ones' tasks.
	OpPreemptAndAbort

	// OpHostRegister registers From with NewKey (RREGA 0).
	OpHostRegister
	// OpHostUnregister removes From's registration with Key, or any with
	// IgnoreKey (RREGA 1).
	OpHostUnregister
	// OpHostReplace changes From's key from Key to NewKey; with IgnoreKey it
	// also registers (RREGA 2).
	OpHostReplace

	// OpLegacyReserve takes the SPC-2 reservation for From (RESERVE).
	OpLegacyReserve
	// OpLegacyRelease gives it up (RELEASE).
	OpLegacyRelease
	// OpLegacyReset drops it whoever has it: the logical unit was reset.
	OpLegacyReset
	// OpNexusLoss drops it if From has it: its session ended.
	OpNexusLoss
)

// String returns the operation's name for logs.
func (o Op) String() string {
	names := [...]string{
		OpRegister: "register", OpRegisterIgnore: "register and ignore existing key", OpMove: "register and move",
		OpReserve: "reserve", OpRelease: "release", OpClear: "clear", OpPreempt: "preempt",
		OpPreemptAndAbort: "preempt and abort", OpHostRegister: "host register",
		OpHostUnregister: "host unregister", OpHostReplace: "host replace",
		OpLegacyReserve: "legacy reserve", OpLegacyRelease: "legacy release",
		OpLegacyReset: "legacy reset", OpNexusLoss: "nexus loss",
	}
	if int(o) < len(names) && names[o] != "" {
		return names[o]
	}
	return "invalid operation"
}

// Persist is what a registration says about power loss.
type Persist uint8

// The settings. SCSI always sends one of the latter two (APTPL); NVMe may
// leave it as it is (CPTPL).
const (
	PersistKeep Persist = iota
	PersistOff
	PersistOn
)

// Command asks for one change of a State. Fields that an operation does not
// name are ignored.
type Command struct {
	Op      Op
	From    Identity // who asks
	Key     uint64   // RESERVATION KEY; CRKEY
	NewKey  uint64   // SERVICE ACTION RESERVATION KEY; NRKEY, PRKEY
	Type    Type
	Persist Persist

	// Ports are the target ports that a registration is for: all of the target
	// with ALL_TG_PT. Empty means From.Port alone.
	Ports []uint16
	// SpecifyInitiators is SPEC_I_PT: Initiators are registered too. Their Port
	// is ignored.
	SpecifyInitiators bool
	Initiators        []Identity

	To         Identity // OpMove
	Unregister bool     // OpMove: UNREG
	IgnoreKey  bool     // OpHost*: IEKEY
}

// Status is how a command ended, in neither protocol's words.
type Status uint8

// The statuses, with what the frontends answer.
const (
	// StatusOK is GOOD; Successful Completion.
	StatusOK Status = iota
	// StatusConflict is RESERVATION CONFLICT in both.
	StatusConflict
	// StatusInvalidRelease is INVALID RELEASE OF PERSISTENT RESERVATION
	// (26h/04h); Invalid Field in Command.
	StatusInvalidRelease
	// StatusNoResources is INSUFFICIENT REGISTRATION RESOURCES (55h/04h);
	// Internal Error.
	StatusNoResources
	// StatusInvalidCommand is INVALID FIELD IN CDB; Invalid Field in Command.
	StatusInvalidCommand
	// StatusInvalidParameter is INVALID FIELD IN PARAMETER LIST; Invalid Field
	// in Command.
	StatusInvalidParameter
)

// String returns the status's name for logs.
func (s Status) String() string {
	switch s {
	case StatusOK:
		return "ok"
	case StatusConflict:
		return "reservation conflict"
	case StatusInvalidRelease:
		return "invalid release"
	case StatusNoResources:
		return "too many registrants"
	case StatusInvalidCommand:
		return "invalid field in command"
	case StatusInvalidParameter:
		return "invalid field in parameters"
	}
	return "invalid status"
}

// Notice is what a party must be told about another's command.
type Notice uint8

// The notices: the ASCQ of the unit attention (ASC 2Ah), whose order is not
// that of the NVMe Reservation Notification log page type.
const (
	// ReservationsPreempted: the table was cleared (2Ah/03h; type 3).
	ReservationsPreempted Notice = 0x03
	// ReservationsReleased: the reservation is gone or changed (2Ah/04h; type 2).
	ReservationsReleased Notice = 0x04
	// RegistrationsPreempted: the party's registration is gone (2Ah/05h; type 1).
	RegistrationsPreempted Notice = 0x05
)

// NVMe gives the Reservation Notification Log Page Type of n (NVMe Base 2.0
// "Reservation Notification log page").
func (n Notice) NVMe() uint8 { return 6 - uint8(n) }

// Event tells one party one thing.
type Event struct {
	To     Identity
	Notice Notice
}

// Result is what a command did besides changing the state.
type Result struct {
	Status Status
	// Events are the notices for others; nobody gets one for a command of its
	// own.
	Events []Event
	// Aborts are the parties whose tasks must be aborted before the command
	// answers (PREEMPT AND ABORT). From is never among them.
	Aborts []Identity
}

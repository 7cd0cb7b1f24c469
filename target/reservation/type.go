package reservation

// Type is the type of a reservation. The values are those of the SCSI TYPE
// field (SPC-5 "Persistent reservation type"); NVMe numbers them otherwise.
type Type uint8

// The reservation types. TypeNone means that there is no reservation.
const (
	TypeNone                           Type = 0
	TypeWriteExclusive                 Type = 1
	TypeExclusiveAccess                Type = 3
	TypeWriteExclusiveRegistrantsOnly  Type = 5
	TypeExclusiveAccessRegistrantsOnly Type = 6
	TypeWriteExclusiveAllRegistrants   Type = 7
	TypeExclusiveAccessAllRegistrants  Type = 8
)

// nvmeTypes lists the types in the order of the NVMe RTYPE field, from 1
// (NVMe Base 2.0 "Reservation Type Encoding").
var nvmeTypes = [...]Type{
	TypeNone,
	TypeWriteExclusive,
	TypeExclusiveAccess,
	TypeWriteExclusiveRegistrantsOnly,
	TypeExclusiveAccessRegistrantsOnly,
	TypeWriteExclusiveAllRegistrants,
	TypeExclusiveAccessAllRegistrants,
}

// TypeFromNVMe translates an RTYPE field; ok is false for values that name no
// reservation.
func TypeFromNVMe(rtype uint8) (t Type, ok bool) {
	if rtype == 0 || int(rtype) >= len(nvmeTypes) {
		return TypeNone, false
	}
	return nvmeTypes[rtype], true
}

// NVMe gives the RTYPE value of t; 0 for TypeNone.
func (t Type) NVMe() uint8 {
	for i, n := range nvmeTypes {
		if n == t {
			return uint8(i)
		}
	}
	return 0
}

// Valid reports whether t is one of the six reservation types.
func (t Type) Valid() bool {
	switch t {
	case TypeWriteExclusive, TypeExclusiveAccess,
		TypeWriteExclusiveRegistrantsOnly, TypeExclusiveAccessRegistrantsOnly,
		TypeWriteExclusiveAllRegistrants, TypeExclusiveAccessAllRegistrants:
		return true
	}
	return false
}

// RegistrantsOnly reports whether t gives the holder's rights to all
// registrants while one of them holds it.
func (t Type) RegistrantsOnly() bool {
	return t == TypeWriteExclusiveRegistrantsOnly || t == TypeExclusiveAccessRegistrantsOnly
}

// AllRegistrants reports whether every registrant holds a reservation of type t.
func (t Type) AllRegistrants() bool {
	return t == TypeWriteExclusiveAllRegistrants || t == TypeExclusiveAccessAllRegistrants
}

// shared reports whether registrants may do what the holder may.
func (t Type) shared() bool { return t.RegistrantsOnly() || t.AllRegistrants() }

// readable reports whether anybody may read under t.
func (t Type) readable() bool {
	return t == TypeWriteExclusive || t == TypeWriteExclusiveRegistrantsOnly || t == TypeWriteExclusiveAllRegistrants
}

// String returns the type's name as the SCSI standard has it.
func (t Type) String() string {
	switch t {
	case TypeNone:
		return "none"
	case TypeWriteExclusive:
		return "write exclusive"
	case TypeExclusiveAccess:
		return "exclusive access"
	case TypeWriteExclusiveRegistrantsOnly:
		return "write exclusive - registrants only"
	case TypeExclusiveAccessRegistrantsOnly:
		return "exclusive access - registrants only"
	case TypeWriteExclusiveAllRegistrants:
		return "write exclusive - all registrants"
	case TypeExclusiveAccessAllRegistrants:
		return "exclusive access - all registrants"
	}
	return "invalid"
}

// Access is what a command needs. The values are ordered: who may do one may
// do all that are smaller.
type Access uint8

// The access classes.
const (
	// AccessAny conflicts with nothing: INQUIRY, REPORT LUNS, REQUEST SENSE,
	// and the reservation commands, which have rules of their own.
	AccessAny Access = iota
	// AccessQuery conflicts with the SPC-2 reservation of another only: TEST
	// UNIT READY, READ CAPACITY, MODE SENSE.
	AccessQuery
	// AccessRead reads the medium: conflicts with exclusive access types.
	AccessRead
	// AccessWrite changes the medium or the settings shared by all: conflicts
	// with every type.
	AccessWrite
)

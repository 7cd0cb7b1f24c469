package reservation

import "slices"

// MaxRegistrants bounds the table of one volume, and with it the memory that
// hosts can take by registering: 1024 is 64 hosts with 16 paths each.
const MaxRegistrants = 1024

// Registrant is one registration: a party and its reservation key.
type Registrant struct {
	ID  Identity
	Key uint64 // never zero
}

// State is the reservation table of one volume at one instant. It is
// immutable: nobody changes a State or its slices after it was published. The
// zero value is a volume that nobody has reserved.
type State struct {
	// Generation is PRGENERATION (SPC-5 "READ KEYS parameter data"), GEN in
	// NVMe: it counts the commands that can change registrations, and wraps.
	Generation uint32
	// Persist is the last APTPL (SPC) or PTPL (NVMe) given: whether
	// registrations and reservation survive a power loss.
	Persist bool
	// Type is the reservation's type; TypeNone means there is none.
	Type Type
	// Holder holds the reservation. It is zero when there is none and for the
	// all-registrants types, where every registrant is a holder.
	Holder Identity
	// Registrants are in the order of registration.
	Registrants []Registrant
	// Legacy is the I_T nexus with an SPC-2 reservation; zero for none.
	Legacy Identity
}

// empty is what volumes start with.
var empty = &State{}

// Find returns the index of id in Registrants, or -1.
func (s *State) Find(id Identity) int {
	return slices.IndexFunc(s.Registrants, func(r Registrant) bool { return r.ID == id })
}

// Key returns the reservation key of id; ok is false when it is not registered.
func (s *State) Key(id Identity) (key uint64, ok bool) {
	i := s.Find(id)
	if i < 0 {
		return 0, false
	}
	return s.Registrants[i].Key, true
}

// Holds reports whether id holds the persistent reservation.
func (s *State) Holds(id Identity) bool {
	switch {
	case s.Type == TypeNone:
		return false
	case s.Type.AllRegistrants():
		return s.Find(id) >= 0
	}
	return s.Holder == id
}

// HolderKey returns the key that READ RESERVATION reports: the holder's, or
// zero for the all-registrants types and when there is no reservation.
func (s *State) HolderKey() uint64 {
	if s.Type == TypeNone || s.Type.AllRegistrants() {
		return 0
	}
	key, _ := s.Key(s.Holder)
	return key
}

// AfterPowerLoss returns what is left of s when the volume's power was lost:
// registrations and reservation when Persist is set, else nothing. The SPC-2
// reservation is gone and Generation is zero in both cases (SPC-5 "Preserving
// persistent reservations and registrations").
func (s *State) AfterPowerLoss() *State {
	if !s.Persist {
		return empty
	}
	return &State{Persist: true, Type: s.Type, Holder: s.Holder, Registrants: s.Registrants}
}

// Equal reports whether s and o are the same table.
func (s *State) Equal(o *State) bool {
	return s.Generation == o.Generation && s.Persist == o.Persist && s.Type == o.Type &&
		s.Holder == o.Holder && s.Legacy == o.Legacy && slices.Equal(s.Registrants, o.Registrants)
}

// Check returns the number of the first broken invariant of the package
// comment, or 0.
func (s *State) Check() int {
	if len(s.Registrants) > MaxRegistrants {
		return 1
	}
	seen := make(map[Identity]struct{}, len(s.Registrants))
	for _, r := range s.Registrants {
		if _, dup := seen[r.ID]; dup || r.Key == 0 || !r.ID.Valid() {
			return 1
		}
		seen[r.ID] = struct{}{}
	}
	if s.Type != TypeNone && (!s.Type.Valid() || len(s.Registrants) == 0) {
		return 2
	}
	if s.Type == TypeNone || s.Type.AllRegistrants() {
		if !s.Holder.IsZero() {
			return 3
		}
	} else if _, ok := seen[s.Holder]; !ok {
		return 3
	}
	if !s.Legacy.IsZero() && (len(s.Registrants) != 0 || !s.Legacy.Valid()) {
		return 4
	}
	return 0
}

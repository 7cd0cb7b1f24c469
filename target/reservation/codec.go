package reservation

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// encodingVersion is the first byte of every encoded State.
const encodingVersion = 1

// Encoded flags.
const (
	flagPersist = 1 << iota
	flagLegacy
)

// noHolder stands for "no registrant holds it" in the encoding.
const noHolder = ^uint32(0)

// ErrDamaged is what Decode and Local give for bytes that are no State.
var ErrDamaged = errors.New("not a reservation table")

// AppendBinary appends the encoding of s, which must satisfy the invariants.
// Equal states have equal encodings. Numbers are big-endian:
//
//	 0      1 version (1)
//	 1      1 flags: 1 Persist, 2 Legacy present
//	 2      1 Type
//	 3      1 zero
//	 4      4 Generation
//	 8      4 index of the holder in the list below, FFFFFFFFh for none
//	12      4 number of registrants
//	16      ... registrants: Key (8), identity
//	        ... identity of Legacy, if present
//
// An identity is its Protocol (1), the length of the name (1), Port (2), ISID
// (6), HostID (16), and the name.
func (s *State) AppendBinary(b []byte) ([]byte, error) {
	if n := s.Check(); n != 0 {
		return b, fmt.Errorf("reservation table breaks invariant %d", n)
	}
	var flags byte
	if s.Persist {
		flags |= flagPersist
	}
	if !s.Legacy.IsZero() {
		flags |= flagLegacy
	}
	holder := noHolder
	if !s.Holder.IsZero() {
		holder = uint32(s.Find(s.Holder))
	}
	b = append(b, encodingVersion, flags, byte(s.Type), 0)
	b = binary.BigEndian.AppendUint32(b, s.Generation)
	b = binary.BigEndian.AppendUint32(b, holder)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.Registrants)))
	for _, r := range s.Registrants {
		b = binary.BigEndian.AppendUint64(b, r.Key)
		b = appendIdentity(b, r.ID)
	}
	if flags&flagLegacy != 0 {
		b = appendIdentity(b, s.Legacy)
	}
	return b, nil
}

func appendIdentity(b []byte, id Identity) []byte {
	b = append(b, byte(id.Protocol), byte(len(id.Name)))
	b = binary.BigEndian.AppendUint16(b, id.Port)
	b = append(b, id.ISID[:]...)
	b = append(b, id.HostID[:]...)
	return append(b, id.Name...)
}

// identityBytes is the encoded size of an identity without its name.
const identityBytes = 1 + 1 + 2 + 6 + 16

// DecodeState reads an encoding of AppendBinary that fills b. It accepts
// nothing else: any other input is an error that wraps ErrDamaged.
func DecodeState(b []byte) (*State, error) {
	if len(b) < 16 {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrDamaged, len(b))
	}
	if b[0] != encodingVersion {
		return nil, fmt.Errorf("%w: version %d is not known to this release (it knows %d)", ErrDamaged, b[0], encodingVersion)
	}
	flags := b[1]
	if flags&^(flagPersist|flagLegacy) != 0 || b[3] != 0 {
		return nil, fmt.Errorf("%w: unknown flags %#x", ErrDamaged, flags)
	}
	s := &State{
		Persist:    flags&flagPersist != 0,
		Type:       Type(b[2]),
		Generation: binary.BigEndian.Uint32(b[4:]),
	}
	holder := binary.BigEndian.Uint32(b[8:])
	n := binary.BigEndian.Uint32(b[12:])
	if n > MaxRegistrants {
		return nil, fmt.Errorf("%w: %d registrants are more than %d", ErrDamaged, n, MaxRegistrants)
	}
	b = b[16:]
	// Each takes more than 8+identityBytes, so that a short input can't make
	// this large.
	if int(n)*(8+identityBytes) > len(b) {
		return nil, fmt.Errorf("%w: %d registrants don't fit in %d bytes", ErrDamaged, n, len(b))
	}
	s.Registrants = make([]Registrant, n)
	for i := range s.Registrants {
		if len(b) < 8 {
			return nil, fmt.Errorf("%w: ends within registrant %d", ErrDamaged, i)
		}
		s.Registrants[i].Key = binary.BigEndian.Uint64(b)
		var ok bool
		if s.Registrants[i].ID, b, ok = cutIdentity(b[8:]); !ok {
			return nil, fmt.Errorf("%w: ends within registrant %d", ErrDamaged, i)
		}
	}
	if flags&flagLegacy != 0 {
		var ok bool
		if s.Legacy, b, ok = cutIdentity(b); !ok || s.Legacy.IsZero() {
			return nil, fmt.Errorf("%w: bad SPC-2 holder", ErrDamaged)
		}
	}
	if holder != noHolder {
		if holder >= n {
			return nil, fmt.Errorf("%w: holder %d of %d registrants", ErrDamaged, holder, n)
		}
		s.Holder = s.Registrants[holder].ID
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes too many", ErrDamaged, len(b))
	}
	if i := s.Check(); i != 0 {
		return nil, fmt.Errorf("%w: breaks invariant %d", ErrDamaged, i)
	}
	return s, nil
}

// cutIdentity reads one identity and returns the bytes after it.
func cutIdentity(b []byte) (id Identity, rest []byte, ok bool) {
	if len(b) < identityBytes || len(b)-identityBytes < int(b[1]) {
		return id, b, false
	}
	n := int(b[1])
	id.Protocol = Protocol(b[0])
	id.Port = binary.BigEndian.Uint16(b[2:])
	copy(id.ISID[:], b[4:])
	copy(id.HostID[:], b[10:])
	id.Name = string(b[identityBytes : identityBytes+n])
	return id, b[identityBytes+n:], true
}

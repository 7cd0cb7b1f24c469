package group

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// RequestID names a request for as long as the group remembers it: the last
// RequestsRemembered requests. Make one at random, and use it again when the
// outcome of a request is not known.
type RequestID [16]byte

// An entry of the log:
//
//	| 1 format=1 | 1 kind | 4 version | 16 request | 8 after | command ... |
//
// Numbers are big-endian. kind tells the FSM's commands from the group's own,
// which are JSON. after is an index that was applied where the request was made, before
// it was first proposed: the request can't be in the log at or before it.
type envelope struct {
	kind    kind
	version uint32
	request RequestID
	after   uint64
	command []byte
}

type kind uint8

const (
	kindFSM   kind = 1
	kindGroup kind = 2
)

const (
	envelopeFormat = 1
	envelopeSize   = 1 + 1 + 4 + 16 + 8
)

func (e *envelope) encode() []byte {
	b := make([]byte, 0, envelopeSize+len(e.command))
	b = append(b, envelopeFormat, byte(e.kind))
	b = binary.BigEndian.AppendUint32(b, e.version)
	b = append(b, e.request[:]...)
	b = binary.BigEndian.AppendUint64(b, e.after)
	return append(b, e.command...)
}

var errEnvelope = errors.New("malformed entry")

// decodeEnvelope reads an entry; command aliases b.
func decodeEnvelope(b []byte) (envelope, error) {
	if len(b) < envelopeSize {
		return envelope{}, fmt.Errorf("%w: %d bytes", errEnvelope, len(b))
	}
	e := envelope{
		kind:    kind(b[1]),
		version: binary.BigEndian.Uint32(b[2:]),
		request: RequestID(b[6:22]),
		after:   binary.BigEndian.Uint64(b[22:]),
		command: b[envelopeSize:],
	}
	switch {
	case b[0] != envelopeFormat:
		return envelope{}, fmt.Errorf("%w: format %d", errEnvelope, b[0])
	case e.kind != kindFSM && e.kind != kindGroup:
		return envelope{}, fmt.Errorf("%w: kind %d", errEnvelope, b[1])
	case e.version == 0:
		return envelope{}, fmt.Errorf("%w: version 0", errEnvelope)
	case len(e.command) > CommandMax:
		return envelope{}, ErrTooLarge
	}
	return e, nil
}

// outcome is what came of an entry when it was applied: the same on every member.
type outcome struct {
	Index uint64 `json:"i"`
	Term  uint64 `json:"t"`
	Code  code   `json:"c,omitempty"`
	Data  []byte `json:"d,omitempty"` // the FSM's result, or the text of the error
}

func (o *outcome) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, o.Index)
	b = binary.BigEndian.AppendUint64(b, o.Term)
	return append(append(b, byte(o.Code)), o.Data...)
}

func decodeOutcome(b []byte) (outcome, error) {
	if len(b) < 17 {
		return outcome{}, errEnvelope
	}
	return outcome{Index: binary.BigEndian.Uint64(b), Term: binary.BigEndian.Uint64(b[8:]), Code: code(b[16]), Data: b[17:]}, nil
}

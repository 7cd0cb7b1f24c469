package scsi

import (
	"encoding/binary"

	"blockd.dev/target/reservation"
)

// prOutAction is a service action of PERSISTENT RESERVE OUT (SPC-5
// "PERSISTENT RESERVE OUT service action codes").
type prOutAction uint8

// The service actions. REPLACE LOST RESERVATION (08h) is not among them: no
// reservation gets lost here (RLR_C is zero).
const (
	prOutRegister        prOutAction = 0x00
	prOutReserve         prOutAction = 0x01
	prOutRelease         prOutAction = 0x02
	prOutClear           prOutAction = 0x03
	prOutPreempt         prOutAction = 0x04
	prOutPreemptAndAbort prOutAction = 0x05
	prOutRegisterIgnore  prOutAction = 0x06
	prOutRegisterAndMove prOutAction = 0x07
)

// Parameter list sizes.
const (
	prOutBasicLen = 24 // without TransportIDs
	prOutSpecLen  = 28 // with the length of a TransportID list
	// prOutMaxLen bounds the parameter list: room for more initiator ports than
	// a volume takes as registrants.
	prOutMaxLen = 256 << 10
)

// prOutParams is a decoded parameter list.
type prOutParams struct {
	key, saKey   uint64
	specIPT      bool
	allTGPT      bool
	aptpl        bool
	unreg        bool
	port         uint16 // REGISTER AND MOVE: relative target port identifier
	transportIDs []transportID
	at           []uint32 // where each TransportID begins, for the field pointer
}

// decodePROut reads the parameter list of a service action (SPC-5 "Basic
// PERSISTENT RESERVE OUT parameter list", "Parameter list for the ... REGISTER
// AND MOVE service action"). b is the whole list.
//
//	 0   8 RESERVATION KEY
//	 8   8 SERVICE ACTION RESERVATION KEY
//	        REGISTER AND MOVE              others
//	17   1 UNREG (bit 1), APTPL (bit 0)
//	18   2 RELATIVE TARGET PORT IDENTIFIER
//	20   4 TransportID length              20: SPEC_I_PT (3), ALL_TG_PT (2), APTPL (0)
//	24   . TransportID                     with SPEC_I_PT: length (4), TransportIDs
func decodePROut(sa prOutAction, b []byte) (prOutParams, sense) {
	var p prOutParams
	if len(b) < prOutBasicLen {
		return p, illegal(ascParameterListLength)
	}
	p.key = binary.BigEndian.Uint64(b)
	p.saKey = binary.BigEndian.Uint64(b[8:])
	if sa == prOutRegisterAndMove {
		p.unreg = b[17]&0x02 != 0
		p.aptpl = b[17]&0x01 != 0
		p.port = binary.BigEndian.Uint16(b[18:])
		if uint64(binary.BigEndian.Uint32(b[20:])) != uint64(len(b)-prOutBasicLen) {
			return p, illegal(ascParameterListLength)
		}
		id, n, ok := decodeTransportID(b[prOutBasicLen:])
		if !ok || prOutBasicLen+n != len(b) {
			return p, badParam(prOutBasicLen)
		}
		p.transportIDs, p.at = []transportID{id}, []uint32{prOutBasicLen}
		return p, sense{}
	}
	p.specIPT = b[20]&0x08 != 0
	p.allTGPT = b[20]&0x04 != 0
	p.aptpl = b[20]&0x01 != 0
	if !p.specIPT {
		if len(b) != prOutBasicLen {
			return p, illegal(ascParameterListLength)
		}
		return p, sense{}
	}
	if sa != prOutRegister {
		return p, badParamBit(20, 3)
	}
	if len(b) < prOutSpecLen || uint64(binary.BigEndian.Uint32(b[24:])) != uint64(len(b)-prOutSpecLen) {
		return p, illegal(ascParameterListLength)
	}
	for at := prOutSpecLen; at < len(b); {
		id, n, ok := decodeTransportID(b[at:])
		if !ok || len(p.transportIDs) == reservation.MaxRegistrants {
			return p, badParam(at)
		}
		p.transportIDs = append(p.transportIDs, id)
		p.at = append(p.at, uint32(at))
		at += n
	}
	return p, sense{}
}

// badParamBit is badParam with the leftmost bad bit.
func badParamBit(at int, bit uint8) sense {
	s := badParam(at)
	s.hasBit, s.ptrBit = true, bit
	return s
}

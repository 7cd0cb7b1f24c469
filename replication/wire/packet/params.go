package packet

import (
	"errors"
	"time"
)

// Params is what each side tells the other in the handshake, as TLS transport
// parameters.
type Params struct {
	Source      ConnID // what the sender's Initial packets have as theirs
	ResetToken  [ResetTokenLen]byte
	DatagramMax uint64 // the longest that the sender can receive, in bytes
	Credit      Credit // at the start
	AckDelay    time.Duration
	Features    uint64
}

// The numbers of the parameters. Those of later versions are ignored by
// earlier ones, so a new one must be safe to ignore.
const (
	paramSource = iota + 1
	paramReset
	paramDatagram
	paramBytes
	paramMessages
	paramAckDelay
	paramFeatures
)

// ErrParams is returned for parameters that follow no rule.
var ErrParams = errors.New("malformed connection parameters")

// Append appends p: number, length and value of each parameter.
func (p *Params) Append(dst []byte) []byte {
	number := func(id byte, v uint64) {
		n := len(appendVarint(nil, v))
		dst = appendVarint(append(dst, id, byte(n)), v)
	}
	dst = append(dst, paramSource, 8)
	for shift := 56; shift >= 0; shift -= 8 {
		dst = append(dst, byte(uint64(p.Source)>>shift))
	}
	dst = append(append(dst, paramReset, ResetTokenLen), p.ResetToken[:]...)
	number(paramDatagram, p.DatagramMax)
	number(paramBytes, p.Credit.Bytes)
	number(paramMessages, p.Credit.Messages)
	number(paramAckDelay, uint64(p.AckDelay/time.Microsecond))
	// All 64 bits of features, where a variable integer has 62.
	dst = append(dst, paramFeatures, 8)
	for shift := 56; shift >= 0; shift -= 8 {
		dst = append(dst, byte(p.Features>>shift))
	}
	return dst
}

// DecodeParams reads what Append wrote. What is missing is zero.
func DecodeParams(b []byte) (p Params, err error) {
	r := reader{b: b}
	for len(r.b) > 0 {
		id := r.varint()
		v := reader{b: r.bytes(r.varint())}
		switch id {
		case paramSource:
			p.Source = ConnID(v.uint64())
		case paramReset:
			copy(p.ResetToken[:], v.bytes(ResetTokenLen))
		case paramDatagram:
			p.DatagramMax = v.varint()
		case paramBytes:
			p.Credit.Bytes = v.varint()
		case paramMessages:
			p.Credit.Messages = v.varint()
		case paramAckDelay:
			p.AckDelay = time.Duration(v.limited(uint64(time.Hour/time.Microsecond))) * time.Microsecond
		case paramFeatures:
			p.Features = v.uint64()
		default:
			v.b = nil
		}
		if v.failed || len(v.b) > 0 {
			return p, ErrParams
		}
	}
	if r.failed || p.Source == 0 || p.DatagramMax < DatagramMin {
		return p, ErrParams
	}
	return p, nil
}

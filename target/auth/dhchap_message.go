package auth

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The messages of an authentication transaction (NVMe base 2.0 §8.13.3 and
// §8.13.5): a type and an id in the first two bytes.
const (
	dhTypeCommon = 0x00
	dhTypeDHCHAP = 0x01

	dhNegotiate = 0x00
	dhChallenge = 0x01
	dhReply     = 0x02
	dhSuccess1  = 0x03
	dhSuccess2  = 0x04
	dhFailure2  = 0xf0
	dhFailure1  = 0xf1
)

// DHReason is the Reason Code Explanation of a failure message (§8.13.3.4).
type DHReason uint8

// The explanations.
const (
	DHFailed           DHReason = 1
	DHProtocolUnusable DHReason = 2
	DHConcatMismatch   DHReason = 3
	DHHashUnusable     DHReason = 4
	DHGroupUnusable    DHReason = 5
	DHInvalidPayload   DHReason = 6
	DHIncorrectMessage DHReason = 7
)

// String is the specification's wording.
func (r DHReason) String() string {
	switch r {
	case DHFailed:
		return "authentication failed"
	case DHProtocolUnusable:
		return "authentication protocol not usable"
	case DHConcatMismatch:
		return "secure channel concatenation mismatch"
	case DHHashUnusable:
		return "hash function not usable"
	case DHGroupUnusable:
		return "DH group not usable"
	case DHInvalidPayload:
		return "incorrect payload"
	case DHIncorrectMessage:
		return "incorrect protocol message"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// DHError is how a transaction failed, for whichever side found it.
type DHError struct{ Reason DHReason }

// Error says why.
func (e *DHError) Error() string { return "auth: DH-HMAC-CHAP: " + e.Reason.String() }

// Is makes every DHError an ErrAuth.
func (e *DHError) Is(target error) bool { return target == ErrAuth }

var errDHShort = errors.New("auth: message is cut short")

// DHMessageMax is more than the longest message: two hashes and a public
// value of the largest group behind 16 bytes.
const DHMessageMax = 2048

func dhHead(typ, id byte, tid uint16) []byte {
	b := make([]byte, 16, 64)
	b[0], b[1] = typ, id
	binary.LittleEndian.PutUint16(b[4:], tid)
	return b
}

func dhFailure(id byte, tid uint16, why DHReason) []byte {
	b := dhHead(dhTypeCommon, id, tid)
	b[6], b[7] = 1, byte(why)
	return b[:8]
}

// dhOffer is what an AUTH_Negotiate message proposes (§8.13.5.2).
type dhOffer struct {
	tid    uint16
	secure uint8 // SC_C: what concatenation the host wants
	hashes []DHHash
	groups []DHGroup
	usable bool // it names DH-HMAC-CHAP
}

const (
	dhDescriptorLen = 64
	dhIDsMax        = 30
)

func (o *dhOffer) decode(b []byte) error {
	if len(b) < 8 {
		return errDHShort
	}
	o.tid = binary.LittleEndian.Uint16(b[4:])
	o.secure = b[6]
	n := int(b[7])
	if n == 0 || len(b) < 8+n*dhDescriptorLen {
		return errDHShort
	}
	for i := range n {
		d := b[8+i*dhDescriptorLen:][:dhDescriptorLen]
		if d[0] != dhTypeDHCHAP {
			continue
		}
		halen, dhlen := int(d[2]), int(d[3])
		if halen > dhIDsMax || dhlen > dhIDsMax {
			return errDHShort
		}
		o.usable = true
		for _, id := range d[4 : 4+halen] {
			o.hashes = append(o.hashes, DHHash(id))
		}
		for _, id := range d[4+dhIDsMax : 4+dhIDsMax+dhlen] {
			o.groups = append(o.groups, DHGroup(id))
		}
		return nil
	}
	return nil
}

func (o *dhOffer) append(b []byte) []byte {
	d := make([]byte, 8+dhDescriptorLen)
	d[0], d[1] = dhTypeCommon, dhNegotiate
	binary.LittleEndian.PutUint16(d[4:], o.tid)
	d[6], d[7] = o.secure, 1
	d[8], d[10], d[11] = dhTypeDHCHAP, byte(len(o.hashes)), byte(len(o.groups))
	for i, h := range o.hashes {
		d[12+i] = byte(h)
	}
	for i, g := range o.groups {
		d[12+dhIDsMax+i] = byte(g)
	}
	return append(b, d...)
}

// dhChallengeMsg is DH-HMAC-CHAP_Challenge (§8.13.5.3).
type dhChallengeMsg struct {
	tid       uint16
	hash      DHHash
	group     DHGroup
	seq       uint32
	challenge []byte
	value     []byte
}

func (m *dhChallengeMsg) append(b []byte) []byte {
	h := dhHead(dhTypeDHCHAP, dhChallenge, m.tid)
	h[6] = byte(len(m.challenge))
	h[8], h[9] = byte(m.hash), byte(m.group)
	binary.LittleEndian.PutUint16(h[10:], uint16(len(m.value)))
	binary.LittleEndian.PutUint32(h[12:], m.seq)
	b = append(b, h...)
	b = append(b, m.challenge...)
	return append(b, m.value...)
}

func (m *dhChallengeMsg) decode(b []byte) error {
	if len(b) < 16 {
		return errDHShort
	}
	hl, n := int(b[6]), int(binary.LittleEndian.Uint16(b[10:]))
	m.tid = binary.LittleEndian.Uint16(b[4:])
	m.hash, m.group = DHHash(b[8]), DHGroup(b[9])
	m.seq = binary.LittleEndian.Uint32(b[12:])
	if len(b) < 16+hl+n || hl != m.hash.Size() || hl == 0 || n != m.group.Size() {
		return errDHShort
	}
	m.challenge, m.value = b[16:16+hl], b[16+hl:16+hl+n]
	return nil
}

// dhReplyMsg is DH-HMAC-CHAP_Reply (§8.13.5.4).
type dhReplyMsg struct {
	tid       uint16
	response  []byte
	wants     bool // CVALID: the host wants proof
	seq       uint32
	challenge []byte // of the host; zeroes unless wants
	value     []byte
}

func (m *dhReplyMsg) append(b []byte) []byte {
	h := dhHead(dhTypeDHCHAP, dhReply, m.tid)
	h[6] = byte(len(m.response))
	if m.wants {
		h[8] = 1
	}
	binary.LittleEndian.PutUint16(h[10:], uint16(len(m.value)))
	binary.LittleEndian.PutUint32(h[12:], m.seq)
	b = append(b, h...)
	b = append(b, m.response...)
	if m.wants {
		b = append(b, m.challenge...)
	} else {
		b = append(b, make([]byte, len(m.response))...)
	}
	return append(b, m.value...)
}

func (m *dhReplyMsg) decode(b []byte, hashLen int) error {
	if len(b) < 16 {
		return errDHShort
	}
	hl, n := int(b[6]), int(binary.LittleEndian.Uint16(b[10:]))
	if hl != hashLen || len(b) < 16+2*hl+n {
		return errDHShort
	}
	m.tid = binary.LittleEndian.Uint16(b[4:])
	m.wants = b[8]&1 != 0
	m.seq = binary.LittleEndian.Uint32(b[12:])
	m.response = b[16 : 16+hl]
	m.challenge = b[16+hl : 16+2*hl]
	m.value = b[16+2*hl : 16+2*hl+n]
	return nil
}

// dhSuccess1Msg is DH-HMAC-CHAP_Success1 (§8.13.5.5). The place of the
// response is there, and zero, when there is none.
func dhSuccess1Msg(tid uint16, hashLen int, response []byte) []byte {
	h := dhHead(dhTypeDHCHAP, dhSuccess1, tid)
	h[6] = byte(hashLen)
	if response == nil {
		return append(h, make([]byte, hashLen)...)
	}
	h[8] = 1
	return append(h, response...)
}

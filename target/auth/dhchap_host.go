package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
)

// DHHost is the host's side of one authentication transaction. Its messages
// alternate with the controller's: Negotiate, then Answer for each message
// received until it reports done.
type DHHost struct {
	// Key is the host's, Controller the one that the controller shall prove;
	// zero asks for no proof.
	Key, Controller DHKey
	// HostNQN and SubNQN are the names of both.
	HostNQN, SubNQN string
	// Hashes and Groups are offered in this order; nil means all.
	Hashes []DHHash
	Groups []DHGroup

	tid     uint16
	hash    DHHash
	session []byte
	own     []byte
	seq     uint32
	replied bool
}

// Negotiate makes the first message, of transaction tid.
func (h *DHHost) Negotiate(tid uint16) []byte {
	h.tid, h.replied = tid, false
	o := dhOffer{tid: tid, hashes: h.Hashes, groups: h.Groups}
	if o.hashes == nil {
		o.hashes = []DHHash{DHSHA256, DHSHA384, DHSHA512}
	}
	if o.groups == nil {
		o.groups = []DHGroup{DHNull, FFDHE2048, FFDHE3072, FFDHE4096, FFDHE6144, FFDHE8192}
	}
	return o.append(nil)
}

// Answer takes a message of the controller and returns the answer, nil if none
// is due. done reports that the transaction has ended; err, a *DHError, that
// it failed. The answer of a failed one is still to be sent.
func (h *DHHost) Answer(msg []byte) (answer []byte, done bool, err error) {
	bad := func(why DHReason) ([]byte, bool, error) {
		return dhFailure(dhFailure2, h.tid, why), true, &DHError{why}
	}
	if len(msg) < 8 || binary.LittleEndian.Uint16(msg[4:]) != h.tid {
		return bad(DHIncorrectMessage)
	}
	switch {
	case msg[0] == dhTypeCommon && msg[1] == dhFailure1:
		return nil, true, &DHError{DHReason(msg[7])}
	case msg[0] == dhTypeDHCHAP && msg[1] == dhChallenge && !h.replied:
		var m dhChallengeMsg
		if m.decode(msg) != nil {
			return bad(DHInvalidPayload)
		}
		exchange, value := newDHExchange(m.group)
		session, err := exchange.sessionKey(m.hash, m.value)
		if err != nil {
			return bad(DHInvalidPayload)
		}
		h.hash, h.session, h.replied = m.hash, session, true
		r := dhReplyMsg{tid: h.tid, value: value}
		r.response = dhProof(m.hash, h.Key.transformed(h.HostNQN), session, m.challenge, m.seq, h.tid, dhRoleHost, h.HostNQN, h.SubNQN)
		if !h.Controller.IsZero() {
			h.own = make([]byte, m.hash.Size())
			_, _ = rand.Read(h.own) // crypto/rand.Read never fails
			h.seq = dhSeq()
			r.wants, r.seq, r.challenge = true, h.seq, h.own
		}
		return r.append(nil), false, nil
	case msg[0] == dhTypeDHCHAP && msg[1] == dhSuccess1 && h.replied:
		if h.Controller.IsZero() {
			return nil, true, nil
		}
		n := h.hash.Size()
		if len(msg) < 16+n || int(msg[6]) != n || msg[8]&1 == 0 {
			return bad(DHInvalidPayload)
		}
		want := dhProof(h.hash, h.Controller.transformed(h.SubNQN), h.session, h.own, h.seq, h.tid, dhRoleController, h.SubNQN, h.HostNQN)
		if !hmac.Equal(want, msg[16:16+n]) {
			return bad(DHFailed)
		}
		return dhHead(dhTypeDHCHAP, dhSuccess2, h.tid), true, nil
	}
	return bad(DHIncorrectMessage)
}

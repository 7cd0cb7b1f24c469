package iscsi

import (
	"strconv"
	"strings"

	"blockd.dev/target/auth"
	"blockd.dev/target/iscsi/pdu"
)

func itoa(n int) string { return strconv.Itoa(n) }

// readAuthMethod chooses the method (RFC 7143 §12.1): CHAP where the host has
// a secret, None otherwise.
func (l *login) readAuthMethod(value string) (pdu.LoginStatus, string) {
	if l.stage != pdu.StageSecurity {
		return pdu.LoginInitiatorError, "AuthMethod outside of the security stage"
	}
	want := "None"
	if !l.policy.Host.IsZero() {
		want = "CHAP"
	}
	for offer := range strings.SplitSeq(value, ",") {
		if offer == want {
			if want == "CHAP" {
				l.authState = authMethod
			}
			l.answer("AuthMethod", want)
			return pdu.LoginSuccess, ""
		}
	}
	return pdu.LoginAuthFailed, "the host offers " + value + " and must use " + want
}

// advanceCHAP takes the CHAP keys of the request that was just read, which
// come in two messages: CHAP_A, then CHAP_N with CHAP_R and, for mutual
// authentication, CHAP_I with CHAP_C.
func (l *login) advanceCHAP() (pdu.LoginStatus, string) {
	k := l.chapKeys
	if len(k) == 0 {
		if l.authState == authChallenge {
			return pdu.LoginAuthFailed, "no response to the challenge"
		}
		return pdu.LoginSuccess, ""
	}
	switch {
	case l.authState == authMethod && len(k) == 1 && k["CHAP_A"] != "":
		a, ok := l.policy.Choose(k["CHAP_A"])
		if !ok {
			return pdu.LoginAuthFailed, "no common CHAP algorithm in " + k["CHAP_A"]
		}
		l.chap = auth.NewCHAP(l.policy, a, l.env.challenges)
		id, challenge := l.chap.Challenge()
		l.answer("CHAP_A", itoa(int(a)))
		l.answer("CHAP_I", itoa(int(id)))
		l.answer("CHAP_C", auth.FormatHex(challenge))
		l.authState = authChallenge
		return pdu.LoginSuccess, ""
	case l.authState == authChallenge && k["CHAP_A"] == "":
		return l.readResponse(k)
	}
	return pdu.LoginAuthFailed, "CHAP keys out of order"
}

// readResponse checks the host's response and answers its challenge, if any.
func (l *login) readResponse(k map[string]string) (pdu.LoginStatus, string) {
	response, err := auth.ParseBinary(k["CHAP_R"], 64)
	if err != nil {
		return pdu.LoginAuthFailed, err.Error()
	}
	if err := l.chap.Verify(k["CHAP_N"], response); err != nil {
		return pdu.LoginAuthFailed, err.Error()
	}
	id, hasID := k["CHAP_I"]
	value, hasChallenge := k["CHAP_C"]
	if hasID != hasChallenge {
		return pdu.LoginAuthFailed, "CHAP_I and CHAP_C come together"
	}
	if !hasID {
		if l.chap.MutualRequired() {
			return pdu.LoginAuthFailed, auth.ErrNeedMutual.Error()
		}
		l.authState = authDone
		return pdu.LoginSuccess, ""
	}
	n, ok := parseNumber(id)
	challenge, err := auth.ParseBinary(value, auth.ChallengeMax)
	if !ok || n > 255 || err != nil {
		return pdu.LoginAuthFailed, "malformed challenge"
	}
	name, proof, err := l.chap.Answer(byte(n), challenge)
	if err != nil {
		return pdu.LoginAuthFailed, err.Error()
	}
	l.answer("CHAP_N", name)
	l.answer("CHAP_R", auth.FormatHex(proof))
	l.authState = authDone
	return pdu.LoginSuccess, ""
}

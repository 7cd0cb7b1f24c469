package iscsi

import (
	"strconv"
	"strings"
)

// keyKind says how a key is negotiated (RFC 7143 §6.2).
type keyKind uint8

const (
	kindNumberMin   keyKind = iota // result is the smaller
	kindNumberMax                  // result is the larger
	kindBoolAnd                    // Yes when both say so
	kindBoolOr                     // Yes when either says so
	kindDeclare                    // numerical, each side for itself
	kindList                       // first of the offers that we know
	kindAnswer                     // a constant, for keys that are obsolete
	kindDeclareText                // text that the initiator tells
)

// key describes one operational key.
type key struct {
	kind   keyKind
	lo, hi int
	leads  bool // meaningless in discovery sessions
	number func(*Params) *int
	truth  func(*Params) *bool
	choice string // kindList: what we know; kindAnswer: the answer
	// ours is our own value for the session, given the limits.
	ours func(*Limits) int
}

func constant(n int) func(*Limits) int { return func(*Limits) int { return n } }

const lengthMax = 1<<24 - 1

// keys are the operational keys by name (RFC 7143 §13, RFC 7144 §7.1.1).
var keys = map[string]key{
	"HeaderDigest": {kind: kindList, truth: func(p *Params) *bool { return &p.HeaderDigest }, choice: "CRC32C,None"},
	"DataDigest":   {kind: kindList, truth: func(p *Params) *bool { return &p.DataDigest }, choice: "CRC32C,None"},
	"MaxConnections": {kind: kindNumberMin, lo: 1, hi: 65535, leads: true, ours: constant(1),
		number: func(p *Params) *int { return &p.MaxConnections }},
	"InitialR2T": {kind: kindBoolOr, leads: true, ours: constant(0),
		truth: func(p *Params) *bool { return &p.InitialR2T }},
	"ImmediateData": {kind: kindBoolAnd, leads: true, ours: constant(1),
		truth: func(p *Params) *bool { return &p.ImmediateData }},
	"MaxRecvDataSegmentLength": {kind: kindDeclare, lo: 512, hi: lengthMax,
		number: func(p *Params) *int { return &p.MaxSendData }},
	"MaxBurstLength": {kind: kindNumberMin, lo: 512, hi: lengthMax, leads: true,
		ours:   func(l *Limits) int { return l.MaxBurst },
		number: func(p *Params) *int { return &p.MaxBurst }},
	"FirstBurstLength": {kind: kindNumberMin, lo: 512, hi: lengthMax, leads: true,
		ours:   func(l *Limits) int { return l.FirstBurst },
		number: func(p *Params) *int { return &p.FirstBurst }},
	"DefaultTime2Wait": {kind: kindNumberMax, lo: 0, hi: 3600, ours: constant(0),
		number: func(p *Params) *int { return &p.Time2Wait }},
	// A session ends with its connection, so there is nothing to retain.
	"DefaultTime2Retain": {kind: kindNumberMin, lo: 0, hi: 3600, ours: constant(0),
		number: func(p *Params) *int { return &p.Time2Retain }},
	"MaxOutstandingR2T": {kind: kindNumberMin, lo: 1, hi: 65535, leads: true, ours: constant(maxOutstandingR2T),
		number: func(p *Params) *int { return &p.MaxOutstandingR2T }},
	"DataPDUInOrder": {kind: kindBoolOr, leads: true, ours: constant(1),
		truth: func(p *Params) *bool { return &p.DataPDUInOrder }},
	"DataSequenceInOrder": {kind: kindBoolOr, leads: true, ours: constant(1),
		truth: func(p *Params) *bool { return &p.DataSequenceInOrder }},
	"ErrorRecoveryLevel": {kind: kindNumberMin, lo: 0, hi: 2, ours: constant(0),
		number: func(p *Params) *int { return &p.ErrorRecoveryLevel }},
	"iSCSIProtocolLevel": {kind: kindNumberMin, lo: 0, hi: 31, ours: constant(1),
		number: func(p *Params) *int { return &p.ProtocolLevel }},
	"TaskReporting": {kind: kindList, choice: "RFC3720", leads: true},
	// Obsolete keys of RFC 3720: §13.25 forbids NotUnderstood for them.
	"IFMarker":       {kind: kindAnswer, choice: "No"},
	"OFMarker":       {kind: kindAnswer, choice: "No"},
	"IFMarkInt":      {kind: kindAnswer, choice: "Reject"},
	"OFMarkInt":      {kind: kindAnswer, choice: "Reject"},
	"InitiatorAlias": {kind: kindDeclareText},
}

// maxOutstandingR2T is how many R2Ts of one command we keep outstanding.
const maxOutstandingR2T = 4

// negotiate answers one operational key that the initiator offers and puts
// the outcome into p. An empty answer means that none is due.
func negotiate(p *Params, lim *Limits, discovery bool, name, value string) (answer string) {
	k, ok := keys[name]
	switch {
	case !ok:
		return "NotUnderstood"
	case k.kind == kindAnswer:
		return k.choice
	case k.kind == kindDeclareText:
		return ""
	case isAnswer(value):
		return "" // the initiator turns down what we said; the default holds
	case discovery && k.leads:
		return "Irrelevant"
	}
	switch k.kind {
	case kindList:
		return negotiateList(p, k, value)
	case kindBoolAnd, kindBoolOr:
		return negotiateBool(p, lim, k, value)
	}
	n, ok := parseNumber(value)
	if !ok || n < k.lo || n > k.hi {
		return "Reject"
	}
	if k.kind == kindDeclare {
		*k.number(p) = n
		return ""
	}
	if k.kind == kindNumberMin {
		n = min(n, k.ours(lim))
	} else {
		n = max(n, k.ours(lim))
	}
	*k.number(p) = n
	return strconv.Itoa(n)
}

// isAnswer reports whether value is one of the answers that refuse a key.
func isAnswer(value string) bool {
	return value == "Reject" || value == "Irrelevant" || value == "NotUnderstood"
}

func negotiateList(p *Params, k key, value string) string {
	for offer := range strings.SplitSeq(value, ",") {
		for known := range strings.SplitSeq(k.choice, ",") {
			if offer == known {
				if k.truth != nil {
					*k.truth(p) = offer != "None"
				}
				return offer
			}
		}
	}
	return "Reject"
}

func negotiateBool(p *Params, lim *Limits, k key, value string) string {
	if value != "Yes" && value != "No" {
		return "Reject"
	}
	yes, ours := value == "Yes", k.ours(lim) != 0
	if k.kind == kindBoolAnd {
		yes = yes && ours
	} else {
		yes = yes || ours
	}
	*k.truth(p) = yes
	if yes {
		return "Yes"
	}
	return "No"
}

// parseNumber reads a decimal or 0x hexadecimal constant (RFC 7143 §6.1).
func parseNumber(s string) (int, bool) {
	base, digits := 10, s
	if strings.HasPrefix(s, "0x") || strings.HasPrefix(s, "0X") {
		base, digits = 16, s[2:]
	}
	if digits == "" || digits[0] == '+' || digits[0] == '-' {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, base, 32)
	return int(n), err == nil
}

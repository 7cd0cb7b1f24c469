package iscsi

import (
	"errors"

	"blockd.dev/target/auth"
	"blockd.dev/target/iscsi/pdu"
)

// Limits of a login's text.
const (
	loginTextMax = 16 << 10 // bytes, over all continuations of one request
	loginKeysMax = 64       // keys per request
	loginStepMax = 32       // requests per login
)

// loginEnv is what the login asks about the world.
type loginEnv struct {
	targetName  string // normalised
	targetAlias string
	tpgt        uint16
	limits      *Limits
	auth        auth.Directory
	challenges  *auth.Challenges
	redirect    *Redirect
	draining    bool
}

// login is the target's side of one login (RFC 7143 §6.3). It takes requests
// and returns responses, knows no socket, and does not look at sessions: when
// it is done, the server decides by isid, tsih and cid what becomes of it.
type login struct {
	env loginEnv

	isid [6]byte
	tsih uint16 // as the initiator sent it
	cid  uint16
	itt  uint32

	initiator string // normalised
	alias     string
	discovery bool
	params    Params

	started bool // the first request was taken
	opened  bool // the keys of the first request were looked at
	stage   pdu.Stage
	steps   int
	text    []byte // of requests with the C bit
	seen    map[string]bool
	out     []byte // the answer being built
	keys    int

	authState authState
	policy    auth.Policy
	chap      *auth.CHAP
	chapKeys  map[string]string // of the request being looked at
	declared  bool              // our own declarations are sent
	announced bool              // TargetPortalGroupTag is sent
}

// authState is how far authentication has come.
type authState uint8

const (
	authNone      authState = iota // AuthMethod is not negotiated
	authMethod                     // CHAP is chosen; CHAP_A is to come
	authChallenge                  // the challenge is out; CHAP_N and CHAP_R are to come
	authDone                       // proven, or no proof is wanted
)

// loginReply is the answer to one request.
type loginReply struct {
	resp pdu.LoginResponse // sequence numbers and TSIH are the connection's to fill in
	text []byte            // valid until the next step
	done bool              // the full-feature phase begins behind this response
	fail bool              // the connection is to be closed behind this response
	err  error             // why, for the record
}

func newLogin(env loginEnv) *login {
	l := &login{env: env, params: defaultParams(), seen: map[string]bool{}}
	l.params.MaxRecvData = env.limits.MaxRecvData
	return l
}

// step takes one request and its text.
func (l *login) step(req *pdu.LoginRequest, data []byte) loginReply {
	l.out, l.keys = l.out[:0], 0
	l.steps++
	if !l.started {
		l.started = true
		l.isid, l.tsih, l.cid, l.itt = req.ISID, req.TSIH, req.CID, req.ITT
		l.stage = req.CSG
		if req.VersionMin > 0 {
			return l.failed(req, pdu.LoginVersion, "the initiator's lowest version is newer than 0")
		}
	}
	if l.steps > loginStepMax {
		return l.failed(req, pdu.LoginInitiatorError, "too many requests")
	}
	if req.CSG != l.stage || req.ISID != l.isid || req.TSIH != l.tsih || req.CID != l.cid || req.ITT != l.itt {
		return l.failed(req, pdu.LoginInvalidRequest, "stage or identity changed within the login")
	}
	if len(l.text)+len(data) > loginTextMax {
		return l.failed(req, pdu.LoginInitiatorError, "too much text")
	}
	l.text = append(l.text, data...)
	if req.Continue {
		return l.reply(req, false)
	}
	status, why := l.readKeys()
	l.text = l.text[:0]
	if status == pdu.LoginSuccess {
		status, why = l.advance()
	}
	if status != pdu.LoginSuccess {
		return l.failed(req, status, why)
	}
	transit := req.Transit && (l.stage != pdu.StageSecurity || l.authState == authDone)
	if transit && req.NSG == pdu.StageFullFeature && !l.declared && l.stage == pdu.StageOperational {
		l.declare()
	}
	return l.reply(req, transit)
}

// reply builds the answer that carries l.out.
func (l *login) reply(req *pdu.LoginRequest, transit bool) loginReply {
	r := loginReply{text: l.out}
	r.resp = pdu.LoginResponse{CSG: l.stage, ISID: l.isid, TSIH: l.tsih, ITT: req.ITT, DataLen: len(l.out)}
	if transit {
		r.resp.Transit, r.resp.NSG = true, req.NSG
		l.stage = req.NSG
		r.done = req.NSG == pdu.StageFullFeature
	}
	return r
}

// failed builds the answer that ends the login.
func (l *login) failed(req *pdu.LoginRequest, status pdu.LoginStatus, why string) loginReply {
	var text []byte
	if status == pdu.LoginMovedTemporarily || status == pdu.LoginMovedPermanently {
		text = pdu.AppendPair(nil, "TargetAddress", l.env.redirect.Address)
	}
	return loginReply{
		resp: pdu.LoginResponse{CSG: req.CSG, ISID: req.ISID, TSIH: req.TSIH, ITT: req.ITT, Status: status, DataLen: len(text)},
		text: text, fail: true, err: &LoginError{Status: status, Initiator: l.initiator, Reason: why},
	}
}

// answer adds a key to the answer.
func (l *login) answer(name, value string) { l.out = pdu.AppendPair(l.out, name, value) }

// readKeys looks at every key of the request.
func (l *login) readKeys() (pdu.LoginStatus, string) {
	l.chapKeys = nil
	first := map[string]string{}
	var order [][2]string
	for rest := l.text; ; {
		k, v, next, err := pdu.NextPair(rest)
		if err != nil {
			return pdu.LoginInitiatorError, "malformed text"
		}
		if k == nil {
			break
		}
		rest = next
		if l.keys++; l.keys > loginKeysMax {
			return pdu.LoginInitiatorError, "too many keys"
		}
		name, value := string(k), string(v)
		if l.seen[name] {
			return pdu.LoginInitiatorError, "key " + name + " is sent twice"
		}
		if len(l.seen) > 4*loginKeysMax {
			return pdu.LoginInitiatorError, "too many keys"
		}
		l.seen[name] = true
		switch name {
		case "InitiatorName", "TargetName", "SessionType":
			if l.opened {
				return pdu.LoginInitiatorError, "key " + name + " is only for the first request"
			}
			first[name] = value
		default:
			order = append(order, [2]string{name, value})
		}
	}
	if !l.opened {
		if status, why := l.open(first); status != pdu.LoginSuccess {
			return status, why
		}
	}
	for _, kv := range order {
		if status, why := l.readKey(kv[0], kv[1]); status != pdu.LoginSuccess {
			return status, why
		}
	}
	return pdu.LoginSuccess, ""
}

// open looks at the keys that say who wants what.
func (l *login) open(k map[string]string) (pdu.LoginStatus, string) {
	l.opened = true
	name, ok := k["InitiatorName"]
	if !ok {
		return pdu.LoginMissingParameter, "InitiatorName is missing"
	}
	var err error
	if l.initiator, err = NormalizeName(name); err != nil {
		return pdu.LoginInitiatorError, err.Error()
	}
	switch st, ok := k["SessionType"]; {
	case !ok || st == "Normal":
	case st == "Discovery":
		l.discovery = true
	default:
		return pdu.LoginSessionType, "session type " + st
	}
	target, ok := k["TargetName"]
	if !l.discovery && !ok {
		return pdu.LoginMissingParameter, "TargetName is missing"
	}
	if ok {
		if n, err := NormalizeName(target); err != nil || n != l.env.targetName {
			return pdu.LoginNotFound, "no target " + target
		}
	}
	if l.env.draining {
		return pdu.LoginUnavailable, "shutting down"
	}
	if l.discovery {
		l.policy, err = l.env.auth.Discovery(l.initiator)
	} else {
		l.policy, err = l.env.auth.Host(l.initiator)
	}
	switch {
	case errors.Is(err, auth.ErrNotAllowed):
		return pdu.LoginForbidden, err.Error()
	case err != nil:
		return pdu.LoginTargetError, err.Error()
	}
	if r := l.env.redirect; r != nil && !l.discovery {
		if r.Permanent {
			return pdu.LoginMovedPermanently, "redirected to " + r.Address
		}
		return pdu.LoginMovedTemporarily, "redirected to " + r.Address
	}
	if l.policy.Host.IsZero() {
		if l.policy.RequireMutual {
			return pdu.LoginTargetError, "mutual authentication is required of a host without a secret"
		}
		l.authState = authDone
	} else if l.stage != pdu.StageSecurity {
		return pdu.LoginAuthFailed, "the host must authenticate and skipped the security stage"
	}
	return pdu.LoginSuccess, ""
}

// readKey looks at one key that isn't about who wants what.
func (l *login) readKey(name, value string) (pdu.LoginStatus, string) {
	switch name {
	case "AuthMethod":
		return l.readAuthMethod(value)
	case "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R":
		if l.stage != pdu.StageSecurity || l.chap == nil && l.authState != authMethod {
			return pdu.LoginInitiatorError, "key " + name + " out of place"
		}
		if l.chapKeys == nil {
			l.chapKeys = map[string]string{}
		}
		l.chapKeys[name] = value
		return pdu.LoginSuccess, ""
	case "InitiatorAlias":
		if len(value) > 255 {
			return pdu.LoginInitiatorError, "InitiatorAlias is too long"
		}
		l.alias = value
		return pdu.LoginSuccess, ""
	case "SendTargets", "TargetAlias", "TargetAddress", "TargetPortalGroupTag":
		return pdu.LoginInitiatorError, "key " + name + " is not for initiators in the login"
	}
	if a := negotiate(&l.params, l.env.limits, l.discovery, name, value); a != "" {
		l.answer(name, a)
	}
	return pdu.LoginSuccess, ""
}

// advance says what is due once all keys of a request are read.
func (l *login) advance() (pdu.LoginStatus, string) {
	if !l.announced && !l.discovery {
		l.answer("TargetPortalGroupTag", itoa(int(l.env.tpgt)))
		if l.env.targetAlias != "" {
			l.answer("TargetAlias", l.env.targetAlias)
		}
	}
	l.announced = true
	if l.stage == pdu.StageSecurity {
		return l.advanceCHAP()
	}
	if !l.declared {
		l.declare()
	}
	return pdu.LoginSuccess, ""
}

// declare sends what we declare for ourselves.
func (l *login) declare() {
	l.declared = true
	l.answer("MaxRecvDataSegmentLength", itoa(l.params.MaxRecvData))
}

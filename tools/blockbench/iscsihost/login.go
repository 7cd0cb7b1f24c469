package iscsihost

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"blockd.dev/target/auth"
	"blockd.dev/target/iscsi/pdu"
)

// LoginError is a target's refusal of a login (RFC 7143 §11.13.5).
type LoginError struct{ Status pdu.LoginStatus }

// Error says what the target answered.
func (e *LoginError) Error() string {
	why := "refused"
	switch e.Status {
	case pdu.LoginAuthFailed:
		why = "authentication failed: check the user and the secret"
	case pdu.LoginForbidden:
		why = "this host may not use the target: map a volume to it"
	case pdu.LoginNotFound:
		why = "there is no such target"
	case pdu.LoginTargetRemoved:
		why = "the target was removed"
	case pdu.LoginUnavailable:
		why = "the target is not available now"
	case pdu.LoginOutOfResources:
		why = "the target has no room for another session"
	}
	return fmt.Sprintf("login: %s (status %#04x)", why, uint16(e.Status))
}

// params are the outcome of the negotiation; lengths in bytes.
type params struct {
	headerDigest, dataDigest bool
	initialR2T, immediate    bool
	maxSend, maxRecv         int
	maxBurst, firstBurst     int
}

// login is one login phase (RFC 7143 §6.3), on a connection used by nobody
// else.
type login struct {
	cfg       *Config
	conn      net.Conn
	isid      [6]byte
	itt       uint32
	cmdSN     uint32
	expStatSN uint32
	answers   map[string]string
	last      pdu.LoginResponse
}

// errRedirect carries where to log in instead.
type errRedirect struct{ address string }

func (e *errRedirect) Error() string { return "login: moved to " + e.address }

// redirectsMax is how many redirections a login follows.
const redirectsMax = 3

// connect dials and logs in, following redirections.
func connect(ctx context.Context, cfg *Config) (*net.TCPConn, *login, params, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	address := cfg.Address
	for try := 0; ; try++ {
		conn, l, p, err := connectOnce(ctx, cfg, address)
		var moved *errRedirect
		if errors.As(err, &moved) && try < redirectsMax {
			address = moved.address
			continue
		}
		if err != nil {
			return nil, nil, p, fmt.Errorf("iscsihost: %s at %s: %w", cfg.Target, address, err)
		}
		return conn, l, p, nil
	}
}

func connectOnce(ctx context.Context, cfg *Config, address string) (*net.TCPConn, *login, params, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, nil, params{}, err
	}
	conn := nc.(*net.TCPConn) // what DialContext of "tcp" gives
	_ = conn.SetNoDelay(true)
	// When the connection is given up, the kernel forgets what it has not delivered, as with
	// open-iscsi: a command must not come late, after another path has done it.
	_ = conn.SetLinger(0)
	if at, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(at)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	l := &login{cfg: cfg, conn: conn, isid: cfg.ISID, itt: 1, cmdSN: 1, answers: map[string]string{}}
	if l.isid == ([6]byte{}) {
		_, _ = rand.Read(l.isid[:])               // never fails
		l.isid[0], l.isid[5] = 0x80, l.isid[5]&^1 // the random format of §11.12.5
	}
	p, err := l.run()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, nil, p, errors.Join(err, conn.Close())
	}
	return conn, l, p, nil
}

// run goes through both stages.
func (l *login) run() (params, error) {
	if err := l.security(); err != nil {
		return params{}, err
	}
	return l.operational()
}

// security is the first stage: names and authentication (§12.1).
func (l *login) security() error {
	keys := []string{"InitiatorName", l.cfg.Initiator, "SessionType", "Normal", "TargetName", l.cfg.Target}
	if l.cfg.CHAP.IsZero() {
		if err := l.exchange(pdu.StageSecurity, pdu.StageOperational, append(keys, "AuthMethod", "None")); err != nil {
			return err
		}
		return l.finishStage(pdu.StageSecurity, pdu.StageOperational)
	}
	if err := l.exchange(pdu.StageSecurity, pdu.StageSecurity, append(keys, "AuthMethod", "CHAP")); err != nil {
		return err
	}
	if m := l.answers["AuthMethod"]; m != "CHAP" {
		return fmt.Errorf("login: the target wants AuthMethod %q, not CHAP", m)
	}
	var list []string
	for _, a := range auth.Algorithms() {
		list = append(list, strconv.Itoa(int(a)))
	}
	if err := l.exchange(pdu.StageSecurity, pdu.StageSecurity, []string{"CHAP_A", strings.Join(list, ",")}); err != nil {
		return err
	}
	return l.prove()
}

// prove answers the target's challenge and, where configured, checks its
// answer to ours.
func (l *login) prove() error {
	number, err := strconv.ParseUint(l.answers["CHAP_A"], 0, 8)
	a := auth.Algorithm(number)
	id, err2 := strconv.ParseUint(l.answers["CHAP_I"], 0, 8)
	challenge, err3 := auth.ParseBinary(l.answers["CHAP_C"], auth.ChallengeMax)
	if err := errors.Join(err, err2, err3); err != nil || a.Size() == 0 {
		return fmt.Errorf("login: the target's challenge is malformed: CHAP_A %q: %w", l.answers["CHAP_A"], err)
	}
	keys := []string{"CHAP_N", l.cfg.CHAP.Name, "CHAP_R", auth.FormatHex(a.Response(byte(id), l.cfg.CHAP.Secret, challenge))}
	var own [33]byte // identifier, then challenge
	mutual := !l.cfg.Mutual.IsZero()
	if mutual {
		_, _ = rand.Read(own[:]) // never fails
		keys = append(keys, "CHAP_I", strconv.Itoa(int(own[0])), "CHAP_C", auth.FormatHex(own[1:]))
	}
	delete(l.answers, "CHAP_N")
	delete(l.answers, "CHAP_R")
	if err := l.exchange(pdu.StageSecurity, pdu.StageOperational, keys); err != nil {
		return err
	}
	if mutual {
		got, err := auth.ParseBinary(l.answers["CHAP_R"], 64)
		want := a.Response(own[0], l.cfg.Mutual.Secret, own[1:])
		if err != nil || l.answers["CHAP_N"] != l.cfg.Mutual.Name || subtle.ConstantTimeCompare(got, want) != 1 {
			return errors.New("login: the target did not prove that it knows its secret")
		}
	}
	return l.finishStage(pdu.StageSecurity, pdu.StageOperational)
}

// operational is the second stage (§13).
func (l *login) operational() (params, error) {
	digest := map[bool]string{false: "None", true: "CRC32C"}
	yes := map[bool]string{false: "No", true: "Yes"}
	c := l.cfg
	offers := []string{
		"HeaderDigest", digest[c.HeaderDigest],
		"DataDigest", digest[c.DataDigest],
		"InitialR2T", yes[c.InitialR2T],
		"ImmediateData", yes[!c.NoImmediateData],
		"MaxRecvDataSegmentLength", strconv.Itoa(c.MaxRecvData),
		"MaxBurstLength", strconv.Itoa(c.MaxBurst),
		"FirstBurstLength", strconv.Itoa(c.FirstBurst),
		"MaxOutstandingR2T", "4",
		"MaxConnections", "1",
		"ErrorRecoveryLevel", "0",
		"DataPDUInOrder", "Yes",
		"DataSequenceInOrder", "Yes",
		"DefaultTime2Wait", "0",
		"DefaultTime2Retain", "0",
	}
	err := l.exchange(pdu.StageOperational, 3, offers)
	if err == nil {
		err = l.finishStage(pdu.StageOperational, 3)
	}
	if err != nil {
		return params{}, err
	}
	// Where the target says nothing the defaults of §13 hold.
	text := func(key, def string) string {
		if v, ok := l.answers[key]; ok {
			return v
		}
		return def
	}
	var bad error
	number := func(key string, def, lo int) int {
		n, err := strconv.ParseInt(text(key, strconv.Itoa(def)), 0, 32)
		if err != nil || int(n) < lo || n > 1<<24-1 {
			bad = fmt.Errorf("login: the target answers %s=%s", key, text(key, ""))
			return def
		}
		return int(n)
	}
	p := params{
		headerDigest: text("HeaderDigest", "None") == "CRC32C",
		dataDigest:   text("DataDigest", "None") == "CRC32C",
		initialR2T:   text("InitialR2T", "Yes") != "No",
		immediate:    text("ImmediateData", "Yes") == "Yes",
		maxSend:      number("MaxRecvDataSegmentLength", 8192, 512),
		maxRecv:      c.MaxRecvData,
		maxBurst:     number("MaxBurstLength", 262144, 512),
		firstBurst:   number("FirstBurstLength", 65536, 512),
	}
	// Data segments but the last of a sequence stay free of padding.
	p.maxSend &^= 3
	if p.headerDigest != c.HeaderDigest || p.dataDigest != c.DataDigest {
		bad = fmt.Errorf("login: digests %v and %v were asked for and %v and %v agreed to", c.HeaderDigest, c.DataDigest, p.headerDigest, p.dataDigest)
	}
	return p, bad
}

// finishStage sends empty requests until the target agrees to leave the stage.
func (l *login) finishStage(from, to pdu.Stage) error {
	for range 8 {
		if l.last.Transit {
			if l.last.NSG != to {
				return fmt.Errorf("login: the target goes from stage %d to %d, not %d", from, l.last.NSG, to)
			}
			return nil
		}
		if err := l.exchange(from, to, nil); err != nil {
			return err
		}
	}
	return errors.New("login: the target does not finish the negotiation")
}

// exchange sends one request and reads the response to it, which may come in
// parts. It asks for the transition when to differs from the stage.
func (l *login) exchange(stage, to pdu.Stage, keys []string) error {
	var text []byte
	for i := 0; i < len(keys); i += 2 {
		text = pdu.AppendPair(text, keys[i], keys[i+1])
	}
	for {
		q := pdu.LoginRequest{Transit: to != stage, CSG: stage, ISID: l.isid, ITT: l.itt, CID: 1,
			CmdSN: l.cmdSN, ExpStatSN: l.expStatSN, DataLen: len(text)}
		if q.Transit {
			q.NSG = to
		}
		out := append(q.Append(nil), text...)
		out = append(out, make([]byte, pdu.Pad(len(text)))...)
		if _, err := l.conn.Write(out); err != nil {
			return err
		}
		if err := l.receive(); err != nil || !l.last.Continue {
			return err
		}
		text = nil // an empty request asks for the rest
	}
}

// textMax bounds what a target may send in one response.
const textMax = 64 << 10

// receive reads one response and its keys.
func (l *login) receive() error {
	var hdr [pdu.BHSLen]byte
	if _, err := io.ReadFull(l.conn, hdr[:]); err != nil {
		return fmt.Errorf("login: the target hung up: %w", err)
	}
	r := &l.last
	if _, err := r.Decode(hdr[:]); err != nil {
		return err
	}
	if r.DataLen > textMax {
		return fmt.Errorf("login: the target sends %d bytes of text", r.DataLen)
	}
	text := make([]byte, r.DataLen+pdu.Pad(r.DataLen))
	if _, err := io.ReadFull(l.conn, text); err != nil {
		return err
	}
	text = text[:r.DataLen]
	for {
		k, v, rest, err := pdu.NextPair(text)
		if err != nil {
			return err
		}
		if k == nil {
			break
		}
		l.answers[string(k)] = string(v)
		text = rest
	}
	switch r.Status {
	case pdu.LoginSuccess:
		l.expStatSN = r.StatSN + 1
		return nil
	case pdu.LoginMovedTemporarily, pdu.LoginMovedPermanently:
		address, _, _ := strings.Cut(l.answers["TargetAddress"], ",")
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("login: moved to %q: %w", address, err)
		}
		return &errRedirect{address}
	}
	return &LoginError{r.Status}
}

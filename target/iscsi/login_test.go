package iscsi

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"blockd.dev/target/auth"
	"blockd.dev/target/iscsi/pdu"
)

const testTarget = "iqn.2025-01.dev.blockd:test"

// policies is a Directory with one policy, or one error, for everyone.
type policies struct {
	policy auth.Policy
	err    error
}

func (p policies) Host(string) (auth.Policy, error)      { return p.policy, p.err }
func (p policies) Discovery(string) (auth.Policy, error) { return p.policy, p.err }

func testEnv(t testing.TB, dir auth.Directory) loginEnv {
	lim := &Limits{}
	if err := lim.fill(); err != nil {
		t.Fatal(err)
	}
	return loginEnv{targetName: testTarget, targetAlias: "alias", tpgt: 3, limits: lim, auth: dir, challenges: &auth.Challenges{}}
}

// text joins pairs as they go on the wire.
func text(pairs ...string) []byte {
	var b []byte
	for _, p := range pairs {
		b = append(b, p...)
		b = append(b, 0)
	}
	return b
}

func pairs(t testing.TB, b []byte) map[string]string {
	t.Helper()
	m := map[string]string{}
	for {
		k, v, rest, err := pdu.NextPair(b)
		if err != nil {
			t.Fatalf("malformed answer %q", b)
		}
		if k == nil {
			return m
		}
		m[string(k)], b = string(v), rest
	}
}

func show(m map[string]string) string {
	var s []string
	for k, v := range m {
		s = append(s, k+"="+v)
	}
	sort.Strings(s)
	return strings.Join(s, " ")
}

var ident = []string{"InitiatorName=iqn.2025-01.org.example:host", "TargetName=" + testTarget}

func opRequest() *pdu.LoginRequest {
	return &pdu.LoginRequest{Transit: true, CSG: pdu.StageOperational, NSG: pdu.StageFullFeature}
}

// Every key of RFC 7143 §13 by the function that it names.
func TestEveryKeyIsNegotiatedByItsRule(t *testing.T) {
	for _, tc := range []struct {
		offer, answer string // answer "" means that none is due
	}{
		{"HeaderDigest=CRC32C,None", "CRC32C"},
		{"HeaderDigest=None,CRC32C", "None"},
		{"HeaderDigest=SHA9,CRC32C", "CRC32C"},
		{"DataDigest=SHA9", "Reject"},
		{"DataDigest=None", "None"},
		{"MaxConnections=8", "1"},
		{"MaxConnections=0", "Reject"},
		{"MaxConnections=65536", "Reject"},
		{"InitialR2T=No", "No"},
		{"InitialR2T=Yes", "Yes"},
		{"InitialR2T=yes", "Reject"},
		{"ImmediateData=Yes", "Yes"},
		{"ImmediateData=No", "No"},
		{"MaxBurstLength=16776192", "1048576"},
		{"MaxBurstLength=65536", "65536"},
		{"MaxBurstLength=0x10000", "65536"},
		{"MaxBurstLength=511", "Reject"},
		{"MaxBurstLength=16777216", "Reject"},
		{"FirstBurstLength=262144", "262144"},
		{"FirstBurstLength=4294967296", "Reject"},
		{"FirstBurstLength=-1", "Reject"},
		{"DefaultTime2Wait=2", "2"},
		{"DefaultTime2Retain=20", "0"},
		{"DefaultTime2Retain=3601", "Reject"},
		{"MaxOutstandingR2T=16", "4"},
		{"MaxOutstandingR2T=1", "1"},
		{"DataPDUInOrder=No", "Yes"},
		{"DataSequenceInOrder=No", "Yes"},
		{"ErrorRecoveryLevel=2", "0"},
		{"ErrorRecoveryLevel=3", "Reject"},
		{"iSCSIProtocolLevel=2", "1"},
		{"TaskReporting=ResponseFence,RFC3720", "RFC3720"},
		{"TaskReporting=FastAbort", "Reject"},
		{"IFMarker=Yes", "No"},
		{"OFMarkInt=2048~65535", "Reject"},
		{"InitiatorAlias=box", ""},
		{"MaxRecvDataSegmentLength=262144", ""},
		{"MaxRecvDataSegmentLength=100", "Reject"},
		{"X-com.example.key=1", "NotUnderstood"},
		{"NodeArchitecture=x", "NotUnderstood"},
		{"MaxBurstLength=NotUnderstood", ""},
	} {
		l := newLogin(testEnv(t, auth.AllowAll{}))
		r := l.step(opRequest(), text(append(ident, tc.offer)...))
		if r.fail || !r.done {
			t.Errorf("%s: failed %v: %v", tc.offer, r.fail, r.err)
			continue
		}
		got := pairs(t, r.text)
		key, _, _ := strings.Cut(tc.offer, "=")
		if key == "MaxRecvDataSegmentLength" && tc.answer == "" {
			if l.params.MaxSendData != 262144 {
				t.Errorf("%s: sends %d", tc.offer, l.params.MaxSendData)
			}
			continue
		}
		if got[key] != tc.answer && !(key == "MaxRecvDataSegmentLength" && got[key] != "") {
			t.Errorf("%s: answered %q, want %q", tc.offer, got[key], tc.answer)
		}
		if got["TargetPortalGroupTag"] != "3" || got["TargetAlias"] != "alias" {
			t.Errorf("%s: first answer lacks the tag or alias: %s", tc.offer, show(got))
		}
	}
}

func TestDiscoveryCallsSessionKeysIrrelevant(t *testing.T) {
	l := newLogin(testEnv(t, auth.AllowAll{}))
	r := l.step(opRequest(), text(ident[0], "SessionType=Discovery", "MaxConnections=4", "InitialR2T=No", "MaxBurstLength=512",
		"ErrorRecoveryLevel=0"))
	got := pairs(t, r.text)
	for _, k := range []string{"MaxConnections", "InitialR2T", "MaxBurstLength"} {
		if got[k] != "Irrelevant" {
			t.Errorf("%s=%s, want Irrelevant", k, got[k])
		}
	}
	if !r.done || got["ErrorRecoveryLevel"] != "0" || got["TargetPortalGroupTag"] != "" || !l.discovery {
		t.Errorf("done %v, %s", r.done, show(got))
	}
}

func TestLoginsThatAreRefused(t *testing.T) {
	chap := auth.Policy{Host: auth.Credentials{Name: "u", Secret: mustSecret(t, "host secret host")}}
	sec := func(transit bool) *pdu.LoginRequest {
		return &pdu.LoginRequest{Transit: transit, CSG: pdu.StageSecurity, NSG: pdu.StageOperational}
	}
	many := append([]string(nil), ident...)
	for i := range loginKeysMax {
		many = append(many, fmt.Sprintf("X-k%d=1", i))
	}
	for name, tc := range map[string]struct {
		env  func(*loginEnv)
		req  *pdu.LoginRequest
		keys []string
		want pdu.LoginStatus
	}{
		"no initiator name":       {keys: ident[1:], want: pdu.LoginMissingParameter},
		"no target name":          {keys: ident[:1], want: pdu.LoginMissingParameter},
		"another target":          {keys: []string{ident[0], "TargetName=iqn.2025-01.x:y"}, want: pdu.LoginNotFound},
		"bad initiator name":      {keys: []string{"InitiatorName=host", ident[1]}, want: pdu.LoginInitiatorError},
		"odd session type":        {keys: append([]string{"SessionType=Odd"}, ident...), want: pdu.LoginSessionType},
		"version from the future": {req: &pdu.LoginRequest{Transit: true, CSG: 1, NSG: 3, VersionMin: 1, VersionMax: 1}, keys: ident, want: pdu.LoginVersion},
		"key twice":               {keys: append([]string{"MaxConnections=1", "MaxConnections=1"}, ident...), want: pdu.LoginInitiatorError},
		"too many keys":           {keys: many, want: pdu.LoginInitiatorError},
		"malformed text":          {keys: []string{ident[0], "nonsense"}, want: pdu.LoginInitiatorError},
		"SendTargets":             {keys: append([]string{"SendTargets=All"}, ident...), want: pdu.LoginInitiatorError},
		"CHAP key out of place":   {keys: append([]string{"CHAP_A=5"}, ident...), want: pdu.LoginInitiatorError},
		"not allowed":             {env: func(e *loginEnv) { e.auth = policies{err: auth.ErrNotAllowed} }, keys: ident, want: pdu.LoginForbidden},
		"directory is broken":     {env: func(e *loginEnv) { e.auth = policies{err: fmt.Errorf("x")} }, keys: ident, want: pdu.LoginTargetError},
		"skips authentication":    {env: func(e *loginEnv) { e.auth = policies{policy: chap} }, keys: ident, want: pdu.LoginAuthFailed},
		"offers None only":        {env: func(e *loginEnv) { e.auth = policies{policy: chap} }, req: sec(true), keys: append([]string{"AuthMethod=None"}, ident...), want: pdu.LoginAuthFailed},
		"offers CHAP only":        {req: sec(false), keys: append([]string{"AuthMethod=CHAP"}, ident...), want: pdu.LoginAuthFailed},
		"unknown algorithms": {env: func(e *loginEnv) { e.auth = policies{policy: chap} }, req: sec(false),
			keys: append([]string{"AuthMethod=CHAP", "CHAP_A=99"}, ident...), want: pdu.LoginAuthFailed},
		"shutting down":     {env: func(e *loginEnv) { e.draining = true }, keys: ident, want: pdu.LoginUnavailable},
		"moved for a while": {env: func(e *loginEnv) { e.redirect = &Redirect{Address: "10.0.0.1:3260"} }, keys: ident, want: pdu.LoginMovedTemporarily},
		"moved for good":    {env: func(e *loginEnv) { e.redirect = &Redirect{Address: "[::1]:3260,2", Permanent: true} }, keys: ident, want: pdu.LoginMovedPermanently},
	} {
		env := testEnv(t, auth.AllowAll{})
		if tc.env != nil {
			tc.env(&env)
		}
		req := tc.req
		if req == nil {
			req = opRequest()
		}
		r := newLogin(env).step(req, text(tc.keys...))
		if !r.fail || r.resp.Status != tc.want || r.resp.Transit || r.err == nil {
			t.Errorf("%s: status %04x fail %v: %v; want %04x", name, uint16(r.resp.Status), r.fail, r.err, uint16(tc.want))
		}
		if env.redirect != nil && pairs(t, r.text)["TargetAddress"] != env.redirect.Address {
			t.Errorf("%s: answered %q", name, r.text)
		}
	}
}

func mustSecret(t testing.TB, s string) auth.Secret {
	t.Helper()
	x, err := auth.NewSecret([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// Text that goes on over requests with the C bit is looked at as one (§6.2).
func TestContinuedText(t *testing.T) {
	all := text(append(ident, "MaxBurstLength=65536")...)
	for cut := 1; cut < len(all); cut += 7 {
		l := newLogin(testEnv(t, auth.AllowAll{}))
		first := &pdu.LoginRequest{Continue: true, CSG: pdu.StageOperational}
		if r := l.step(first, all[:cut]); r.fail || r.done || len(r.text) != 0 || r.resp.Transit {
			t.Fatalf("cut at %d: %+v", cut, r)
		}
		if r := l.step(opRequest(), all[cut:]); !r.done || pairs(t, r.text)["MaxBurstLength"] != "65536" {
			t.Fatalf("cut at %d: %+v", cut, r)
		}
	}
	l := newLogin(testEnv(t, auth.AllowAll{}))
	var r loginReply
	for range 4 {
		r = l.step(&pdu.LoginRequest{Continue: true, CSG: pdu.StageOperational}, make([]byte, 8192))
	}
	if !r.fail {
		t.Error("text without end is taken")
	}
}

func TestIdentityMustNotChangeWithinALogin(t *testing.T) {
	for name, change := range map[string]func(*pdu.LoginRequest){
		"ISID":  func(r *pdu.LoginRequest) { r.ISID[0]++ },
		"CID":   func(r *pdu.LoginRequest) { r.CID++ },
		"TSIH":  func(r *pdu.LoginRequest) { r.TSIH++ },
		"ITT":   func(r *pdu.LoginRequest) { r.ITT++ },
		"stage": func(r *pdu.LoginRequest) { r.CSG = pdu.StageSecurity },
	} {
		l := newLogin(testEnv(t, auth.AllowAll{}))
		l.step(&pdu.LoginRequest{CSG: pdu.StageOperational}, text(ident...))
		req := opRequest()
		change(req)
		if r := l.step(req, nil); !r.fail || r.resp.Status != pdu.LoginInvalidRequest {
			t.Errorf("%s: %+v", name, r.resp)
		}
	}
	l := newLogin(testEnv(t, auth.AllowAll{}))
	l.step(&pdu.LoginRequest{CSG: pdu.StageOperational}, text(ident...))
	if r := l.step(opRequest(), text(ident[0])); !r.fail {
		t.Error("InitiatorName in the second request is taken")
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"iqn.2025-01.dev.BLOCKD:x":  "iqn.2025-01.dev.blockd:x",
		"eui.02004567A425678D":      "eui.02004567a425678d",
		"naa.52004567BA64678D":      "naa.52004567ba64678d",
		"iqn.2001-04.com.example:ä": "iqn.2001-04.com.example:ä",
	} {
		if got, err := NormalizeName(in); err != nil || got != want {
			t.Errorf("%s: %q %v", in, got, err)
		}
	}
	for _, in := range []string{"", "iqn.", "foo", "eui.123", "naa.12", "iqn.a b", "iqn.a/b", "iqn.\xff", "iqn." + strings.Repeat("x", 220)} {
		if got, err := NormalizeName(in); err == nil {
			t.Errorf("%q is taken as %q", in, got)
		}
	}
}

// FuzzLogin feeds one login with any text in any stage: it must answer within
// the limits and never end in the full-feature phase without its name.
func FuzzLogin(f *testing.F) {
	f.Add(byte(0x87), text(append(ident, "HeaderDigest=CRC32C", "X-a=b")...), byte(0x87), []byte{})
	f.Add(byte(0x81), text(append(ident, "AuthMethod=CHAP", "CHAP_A=5,7")...), byte(0x81), text("CHAP_N=u", "CHAP_R=0x00"))
	f.Add(byte(0x04), text(ident[0], "SessionType=Discovery"), byte(0x87), text("MaxRecvDataSegmentLength=512"))
	chap := policies{policy: auth.Policy{Host: auth.Credentials{Name: "u", Secret: mustSecret(f, "host secret host")}}}
	f.Fuzz(func(t *testing.T, flags1 byte, text1 []byte, flags2 byte, text2 []byte) {
		for _, dir := range []auth.Directory{auth.AllowAll{}, chap} {
			l := newLogin(testEnv(t, dir))
			for _, in := range []struct {
				flags byte
				text  []byte
			}{{flags1, text1}, {flags2, text2}, {0x87, nil}} {
				req := pdu.LoginRequest{Transit: in.flags&0x80 != 0, Continue: in.flags&0x40 != 0,
					CSG: pdu.Stage(in.flags >> 2 & 1), NSG: pdu.Stage(in.flags & 3)}
				b := req.Append(nil)
				if _, err := req.Decode(b); err != nil {
					return
				}
				r := l.step(&req, in.text)
				if len(r.text) > loginData {
					t.Fatalf("answer of %d bytes", len(r.text))
				}
				pairs(t, r.text)
				if r.done && (l.initiator == "" || l.params.MaxBurst < 512 || l.params.MaxSendData < 512 || dir != auth.Directory(auth.AllowAll{})) {
					t.Fatalf("logged in as %q with %+v", l.initiator, l.params)
				}
				if r.fail || r.done {
					break
				}
			}
		}
	})
}

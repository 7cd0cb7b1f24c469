package iscsihost

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"blockd.dev/internal/adaptive"
	"blockd.dev/target/auth"
)

// DefaultInitiator is the name that a Config without one logs in with.
const DefaultInitiator = "iqn.2026-01.dev.blockd:blockbench"

// Config says where a logical unit is and how to talk to it. The zero value of
// each field but the first three means its default.
type Config struct {
	Address string // host:port of the portal
	Target  string // iSCSI name
	LUN     uint16 // 0 to 16383

	Initiator string  // iSCSI name; default DefaultInitiator
	ISID      [6]byte // default: a random one, so that sessions don't replace each other

	CHAP   auth.Credentials // what this host proves; zero: no authentication
	Mutual auth.Credentials // what the target must prove; needs CHAP

	HeaderDigest, DataDigest bool // CRC32C, refused targets fail the login
	InitialR2T               bool // ask for no unsolicited data
	NoImmediateData          bool // ask for no immediate data
	MaxRecvData              int  // longest data segment to receive, bytes; default 256 KiB
	MaxBurst                 int  // bytes; default 1 MiB
	FirstBurst               int  // bytes; default 256 KiB

	// Timeout bounds the login, and how long the target may be silent while
	// commands are in flight; default 30 s.
	Timeout time.Duration

	// Attention is called by the reader with each unit attention, which the session deals with
	// itself as far as its shape is concerned. It must not block; nil is deaf.
	Attention func(Sense)

	// Poll is how the reader waits for the socket. On one machine a host that
	// polls takes the core on which the target would be woken.
	Poll adaptive.Config
}

// lunMax is the largest LUN of the flat space addressing format.
const lunMax = 0x3fff

func (c *Config) fill() error {
	if c.Initiator == "" {
		c.Initiator = DefaultInitiator
	}
	if c.Attention == nil {
		c.Attention = func(Sense) {}
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	if c.MaxBurst == 0 {
		c.MaxBurst = 1 << 20
	}
	for _, f := range []struct {
		name   string
		v      *int
		def    int
		lo, hi int
	}{
		{"MaxRecvData", &c.MaxRecvData, 256 << 10, 512, 1<<24 - 1},
		{"MaxBurst", &c.MaxBurst, 1 << 20, 512, 1<<24 - 1},
		{"FirstBurst", &c.FirstBurst, min(256<<10, c.MaxBurst), 512, c.MaxBurst},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if *f.v < f.lo || *f.v > f.hi {
			return fmt.Errorf("iscsihost: %s is %d: use %d to %d", f.name, *f.v, f.lo, f.hi)
		}
	}
	switch {
	case c.Target == "":
		return errors.New("iscsihost: no target name")
	case c.LUN > lunMax:
		return fmt.Errorf("iscsihost: LUN %d: use 0 to %d", c.LUN, lunMax)
	case !c.Mutual.IsZero() && c.CHAP.IsZero():
		return errors.New("iscsihost: a secret of the target without one of this host: CHAP authenticates the host first")
	}
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		return fmt.Errorf("iscsihost: portal %q: %w", c.Address, err)
	}
	return nil
}

// ParseURL reads the form that libiscsi's tools take,
// iscsi://[USER%SECRET@]HOST[:PORT]/TARGET/LUN, with the parameters
// target_user and target_password for mutual CHAP. Characters that a URL
// can't hold are written as %XX; the first % of the user part ends the name.
func ParseURL(s string) (Config, error) {
	var c Config
	bad := func(why string) (Config, error) {
		return Config{}, fmt.Errorf("%q: %s: want iscsi://[USER%%SECRET@]HOST[:PORT]/TARGET/LUN", redact(s), why)
	}
	rest, ok := strings.CutPrefix(s, "iscsi://")
	if !ok {
		return bad("not an iscsi URL")
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		name, secret, ok := strings.Cut(authority[:i], "%")
		if !ok {
			return bad("the user has no secret")
		}
		var err error
		if c.CHAP, err = credentials(name, secret); err != nil {
			return bad(err.Error())
		}
		authority = authority[i+1:]
	}
	if authority == "" {
		return bad("no portal")
	}
	c.Address = authority
	if _, _, err := net.SplitHostPort(authority); err != nil {
		c.Address = net.JoinHostPort(strings.Trim(authority, "[]"), "3260")
	}
	target, lun, _ := strings.Cut(path, "/")
	var err error
	if c.Target, err = url.PathUnescape(target); err != nil || target == "" {
		return bad("no target name")
	}
	n, err := strconv.ParseUint(lun, 10, 16)
	if err != nil || n > lunMax {
		return bad("the LUN is not a number up to 16383")
	}
	c.LUN = uint16(n)
	params, err := url.ParseQuery(query)
	if err != nil {
		return bad("malformed parameters")
	}
	for k := range params {
		if k != "target_user" && k != "target_password" {
			return bad("unknown parameter " + strconv.Quote(k))
		}
	}
	if u, p := params.Get("target_user"), params.Get("target_password"); u != "" || p != "" {
		secret, err := auth.NewSecret([]byte(p))
		if err != nil {
			return bad(err.Error())
		}
		c.Mutual = auth.Credentials{Name: u, Secret: secret}
	}
	return c, nil
}

// credentials unescapes a name and a secret; a % that starts no escape stands
// for itself.
func credentials(name, secret string) (auth.Credentials, error) {
	for _, p := range []*string{&name, &secret} {
		if u, err := url.PathUnescape(*p); err == nil {
			*p = u
		}
	}
	s, err := auth.NewSecret([]byte(secret))
	return auth.Credentials{Name: name, Secret: s}, err
}

// redact hides the secrets of a URL that is about to be printed.
func redact(s string) string {
	s, query, _ := strings.Cut(s, "?")
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		s = "iscsi://..." + s[i:]
	}
	if query != "" {
		s += "?..."
	}
	return s
}

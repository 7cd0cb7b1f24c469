package catalog

import (
	"regexp"
	"strings"
)

// Limits of what a catalog holds.
const (
	// VolumeSizeMin and VolumeSizeMax bound a volume, in bytes: 1 MiB to 4 PiB.
	VolumeSizeMin = 1 << 20
	VolumeSizeMax = 1 << 52
	// SizeUnit divides every volume size, so that a volume can be served with
	// either block size.
	SizeUnit = 4096
	// LUNMax is the highest LUN: flat space addressing has 14 bits (SAM-5
	// §4.7.7.4).
	LUNMax = 16383
	// PoolsMax, DisksMax and HostsMax bound the tables.
	PoolsMax = 1024
	DisksMax = 1024
	HostsMax = 16384
	// AuditMax is how many changes are remembered, AnswersMax how many request
	// ids.
	AuditMax   = 4096
	AnswersMax = 1024
	// ChapSecretMin is 96 bits (RFC 7143 §9.2.1), ChapSecretMax a sane end.
	ChapSecretMin = 12
	ChapSecretMax = 255

	// AnyHost is the name that stands for every host in a mapping.
	AnyHost = "any"
	// DefaultPool is the pool that exists from the start.
	DefaultPool = "default"

	requestIDMax  = 128
	pathMax       = 4096
	actorMax      = 256
	nameOfHostMax = 223 // RFC 7143 §4.2.7.1; NVM Express Base 2.0 §4.5
)

var (
	namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	iqnPattern  = regexp.MustCompile(`^iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[a-z0-9.:-]+)?$`)
	euiPattern  = regexp.MustCompile(`^eui\.[0-9a-f]{16}$`)
	naaPattern  = regexp.MustCompile(`^naa\.([0-9a-f]{16}|[0-9a-f]{32})$`)
	nqnPattern  = regexp.MustCompile(`^nqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?:[!-~]+$`)
)

func checkName(what, name string) error {
	if !namePattern.MatchString(name) {
		return refuse(ErrInvalid, "%s name %q: use 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit", what, name)
	}
	return nil
}

// checkIQN returns the iSCSI name in its normal form, lower case (RFC 7143
// §4.2.7.1). Non-ASCII names are not taken.
func checkIQN(name string) (string, error) {
	name = strings.ToLower(name)
	if name == "" {
		return "", nil
	}
	if len(name) <= nameOfHostMax &&
		(iqnPattern.MatchString(name) || euiPattern.MatchString(name) || naaPattern.MatchString(name)) {
		return name, nil
	}
	return "", refuse(ErrInvalid, "iSCSI name %q: want iqn.YYYY-MM.DOMAIN:ANYTHING, eui. with 16 or naa. with 16 or 32 hex digits, at most %d bytes; on Linux it is in /etc/iscsi/initiatorname.iscsi", name, nameOfHostMax)
}

func checkNQN(name string) error {
	if name == "" || len(name) <= nameOfHostMax && nqnPattern.MatchString(name) {
		return nil
	}
	return refuse(ErrInvalid, "NVMe host name %q: want nqn.YYYY-MM.DOMAIN:ANYTHING of at most %d bytes; on Linux it is in /etc/nvme/hostnqn", name, nameOfHostMax)
}

// dhchapPattern is the text form of a key (NVMe base 2.0 §8.13.5.8). Whoever
// takes keys from users checks their checksum too.
var dhchapPattern = regexp.MustCompile(`^DHHC-1:0[0-3]:[A-Za-z0-9+/]{44,92}={0,2}:$`)

func checkDHChap(c DHChap) error {
	switch {
	case len(c.SealedKey) > sealedMax || len(c.SealedControllerKey) > sealedMax:
		return refuse(ErrInvalid, "a sealed DH-HMAC-CHAP key is longer than %d bytes", sealedMax)
	case !c.HasKey() && c.HasControllerKey():
		return refuse(ErrInvalid, "a controller key needs a host key: give --dhchap-key-file too")
	case c.ControllerKey != "" && c.ControllerKey == c.Key:
		return refuse(ErrInvalid, "the two DH-HMAC-CHAP keys of a host must differ, or one side could answer with what it knows of the other")
	}
	for _, k := range []string{c.Key, c.ControllerKey} {
		if k != "" && !dhchapPattern.MatchString(k) {
			return refuse(ErrInvalid, "a DH-HMAC-CHAP key is malformed: want DHHC-1:hh:base64: as `nvme gen-dhchap-key` prints it")
		}
	}
	return nil
}

func checkChap(what string, c Chap) error {
	switch {
	case c.IsZero():
		return nil
	case c.User == "" || len(c.User) > 255 || strings.ContainsFunc(c.User, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return refuse(ErrInvalid, "%s user %q: want 1 to 255 printable bytes", what, c.User)
	case c.Sealed != "" && c.Secret == "":
		if len(c.Sealed) > sealedMax {
			return refuse(ErrInvalid, "the sealed %s secret is longer than %d bytes", what, sealedMax)
		}
	case len(c.Secret) < ChapSecretMin || len(c.Secret) > ChapSecretMax:
		return refuse(ErrInvalid, "%s secret has %d bytes: want %d to %d (Windows takes at most 16)", what, len(c.Secret), ChapSecretMin, ChapSecretMax)
	}
	return nil
}

func checkSize(size int64) error {
	if size < VolumeSizeMin || size > VolumeSizeMax || size%SizeUnit != 0 {
		return refuse(ErrInvalid, "size of %d bytes: want a multiple of %d between 1MiB and 4PiB", size, SizeUnit)
	}
	return nil
}

package catalog

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// ID identifies a pool, volume or host for ever, also after it was renamed or
// deleted. It is random; whoever makes a command chooses it.
type ID [16]byte

// String returns 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is not set.
func (id ID) IsZero() bool { return id == ID{} }

// idFrom takes an ID from a message; ok is false unless it has 16 bytes and is
// not zero.
func idFrom(b []byte) (id ID, ok bool) {
	if len(b) != len(id) {
		return ID{}, false
	}
	copy(id[:], b)
	return id, !id.IsZero()
}

// ParseID is the inverse of String; ok is false for what is not one, or zero.
func ParseID(s string) (id ID, ok bool) {
	if len(s) != 2*len(id) || strings.ToLower(s) != s {
		return ID{}, false
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return ID{}, false
	}
	return idFrom(b)
}

// Media says where the data of a pool is kept.
type Media string

// The media.
const (
	MediaDisk Media = "disk" // on the disks of the node, durable
	MediaRAM  Media = "ram"  // in memory, gone when the node stops
)

// Pool is where volumes are created.
type Pool struct {
	ID       ID
	Name     string
	Replicas uint32 // copies of each extent; 0 with erasure coding
	// ECData and ECParity are k and m of erasure coding; 0 without it.
	ECData, ECParity uint32
	Domain           string // host, rack or zone: what no two copies share
	Media            Media
	// MinInSync is on how many disks a write must be before it is acknowledged.
	// With fewer in sync, writes wait and then fail.
	MinInSync uint32
	Created   time.Time
}

// Volume is a logical disk.
type Volume struct {
	ID        ID
	Name      string
	SizeBytes int64
	BlockSize int    // logical block, 512 or 4096 bytes
	LUN       uint16 // where hosts see it unless a mapping says otherwise
	Pool      string
	// Home is the disk that the volume lives on, or the node in a pool in
	// memory; zero before nodes were known, and in a pool of several copies:
	// those are in State.Map.
	Home ID
	// Protection says whether hosts may write it.
	Protection Protection
	Limits     Limits
	Retired    bool // deleted for its hosts; its data is being removed
	Created    time.Time
	// ReplacedIn is the epoch of the lease in which a disk last took the place of
	// another, or moves were last started or canceled. The owner of that epoch, and of
	// those before, writes to other disks: it changes nothing any more, and ends.
	ReplacedIn uint64
	// MovedIn is the epoch in which moves were last finished. Its owner ends too; it may
	// still finish moves to other disks, since it has sent them all writes.
	MovedIn uint64
}

// EndedIn is the last epoch whose owner has to end, since the volume is on other disks
// than those that it took over.
func (v *Volume) EndedIn() uint64 { return max(v.ReplacedIn, v.MovedIn) }

// Protection is a volume's write protection.
type Protection string

// The write protection states.
const (
	Unprotected     Protection = ""                  // hosts may write
	Protected       Protection = "write-protect"     // until it is taken away
	UntilPowerCycle Protection = "until-power-cycle" // until the node starts again
	Permanent       Protection = "permanent"         // for ever
)

// valid reports whether p is one of the states.
func (p Protection) valid() bool {
	switch p {
	case Unprotected, Protected, UntilPowerCycle, Permanent:
		return true
	}
	return false
}

// NSID is the volume's NVMe namespace identifier.
func (v *Volume) NSID() uint32 { return uint32(v.LUN) + 1 }

// Chap is a CHAP user name and secret. The zero value means no authentication.
// In a State of a group the secret is sealed: see Catalog.Unseal.
type Chap struct {
	User   string
	Secret string // empty while it is sealed
	Sealed string // by the cluster key; bytes
}

// IsZero reports whether no authentication is asked for.
func (c Chap) IsZero() bool { return c == Chap{} }

// String leaves the secret out, so that it can't end up in a log.
func (c Chap) String() string { return fmt.Sprintf("user %q, secret hidden", c.User) }

// GoString is String, for %#v.
func (c Chap) GoString() string { return c.String() }

// DHChap is what DH-HMAC-CHAP of NVMe uses, keys in the form
// DHHC-1:hh:base64:. The zero value means no authentication.
// In a State of a group the keys are sealed: see Catalog.Unseal.
type DHChap struct {
	Key           string // what the host proves to have; empty while it is sealed
	ControllerKey string // what the controller proves to have

	SealedKey, SealedControllerKey string // by the cluster key; bytes
}

// HasKey reports whether the host has to prove that it has a key.
func (c DHChap) HasKey() bool { return c.Key != "" || c.SealedKey != "" }

// HasControllerKey reports whether the controller can prove that it has a key.
func (c DHChap) HasControllerKey() bool { return c.ControllerKey != "" || c.SealedControllerKey != "" }

// IsZero reports whether no authentication is asked for.
func (c DHChap) IsZero() bool { return c == DHChap{} }

// String leaves the keys out, so that they can't end up in a log.
func (c DHChap) String() string {
	return fmt.Sprintf("key %t, controller key %t", c.HasKey(), c.HasControllerKey())
}

// GoString is String, for %#v.
func (c DHChap) GoString() string { return c.String() }

// Host is a machine that attaches volumes.
type Host struct {
	ID     ID
	Name   string
	IQN    string // iSCSI initiator name, in lower case; empty for none
	NQN    string // NVMe host NQN; empty for none
	Chap   Chap   // what the host must authenticate with
	Mutual Chap   // what the target authenticates itself with
	DHChap DHChap // the same for NVMe
	// SecretsRevision is that of the last change of the secrets.
	SecretsRevision uint64
	Created         time.Time
}

// Mapping shows a volume to a host.
type Mapping struct {
	Volume ID
	Host   ID // zero for any host
	LUN    uint16
}

// Audit is one change that was made, or was refused.
type Audit struct {
	Revision uint64
	Time     time.Time
	Actor    string
	Source   string // where the actor was: an address, or local
	Action   string // for example volume.create; of what was refused, the kind of command
	Subject  string // the name of what was changed
	Detail   string
	Refused  string // why nothing was changed; empty when it was
}

// idTo is the form of an identifier in messages: nothing for zero.
func idTo(id ID) []byte {
	if id.IsZero() {
		return nil
	}
	return id[:]
}

// answer is what a request id was answered with.
type answer struct {
	requestID string
	digest    [32]byte
	revision  uint64
	id        ID
}

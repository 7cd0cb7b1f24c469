package group

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"blockd.dev/raftmeta/pki"
)

// Config says who a member is and how it behaves. Fields that may be zero say
// what zero means.
type Config struct {
	Dir     string // of the log and snapshots; made with mode 0700
	Cluster string // as certificates spell it
	NodeID  string
	Address string // of Listener as other members reach it, HOST:PORT

	// Listener is where other members are heard. nil is for a node without
	// certificates, which stays alone: it admits nobody.
	Listener *Listener
	FSM      FSM

	// Bootstrap makes Open begin a group of this one node when Dir is empty.
	// Otherwise an empty Dir waits to be admitted, see Group.Join, to the
	// incarnation Incarnation, which whoever admitted it has said.
	Bootstrap   bool
	Incarnation uint32

	// Voters is how many members should vote, odd, 1 to 7. 0 means 3.
	Voters int
	// Domains returns the failure domains of a member, the widest first, for
	// ChooseVoters; nil means that nothing is known. It is called on the leader only.
	Domains func(id string) []string
	// ReplaceAfter is for how long a voter may be silent before another
	// member votes in its place. 0 means 60 s.
	ReplaceAfter time.Duration

	// Heartbeat is how long a follower hears nothing from a leader before it
	// stands for election. 0 means 400 ms: a lost leader is replaced in
	// Heartbeat to 3 Heartbeat, plus one more for each vote that was split. Members agree on it.
	Heartbeat time.Duration
	// SnapshotEvery is after how many entries the log is compacted. 0 means 8192.
	SnapshotEvery uint64
	// TrailingLogs is how many entries are kept for members that are a little
	// behind. 0 means 4096.
	TrailingLogs uint64
	// HashEvery is after how many entries members compare their states,
	// beside after every snapshot of the leader. 0 means 65536.
	HashEvery uint64

	// Events is told what happens, in order, on goroutines that must go on:
	// it returns at once and calls nothing of this package. nil is deaf.
	Events func(Event)
	// Dial opens connections to other members. nil is a net.Dialer.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	wrapStore    func(store) store // for tests: a disk that fails
	segmentBytes int               // for tests: small files of the log; 0 means segmentBytes
}

func (c Config) withDefaults() Config {
	if c.Voters == 0 {
		c.Voters = 3
	}
	if c.ReplaceAfter == 0 {
		c.ReplaceAfter = time.Minute
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 400 * time.Millisecond
	}
	if c.SnapshotEvery == 0 {
		c.SnapshotEvery = 8192
	}
	if c.TrailingLogs == 0 {
		c.TrailingLogs = 4096
	}
	if c.HashEvery == 0 {
		c.HashEvery = 65536
	}
	if c.segmentBytes == 0 {
		c.segmentBytes = segmentBytes
	}
	if c.Domains == nil {
		c.Domains = func(string) []string { return nil }
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	return c
}

// Validate names the field that is wrong, its value and the rule.
func (c Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("group: Dir is empty; name the folder of the log")
	case c.FSM == nil:
		return errors.New("group: FSM is nil")
	case c.FSM.MaxVersion() == 0:
		return errors.New("group: FSM.MaxVersion is 0; versions begin at 1")
	case c.Voters < 0 || c.Voters > 7 || c.Voters != 0 && c.Voters%2 == 0:
		return fmt.Errorf("group: Voters is %d; an odd number from 1 to 7", c.Voters)
	case c.Heartbeat != 0 && c.Heartbeat < 20*time.Millisecond:
		return fmt.Errorf("group: Heartbeat is %v; at least 20 ms", c.Heartbeat)
	case c.Heartbeat > time.Minute:
		return fmt.Errorf("group: Heartbeat is %v; at most 1 min", c.Heartbeat)
	}
	self := pki.Identity{Cluster: c.Cluster, Node: c.NodeID}
	if c.NodeID == "" {
		return errors.New("group: NodeID is empty")
	}
	if err := self.Validate(); err != nil {
		return fmt.Errorf("group: %w", err)
	}
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		return fmt.Errorf("group: Address %q is not HOST:PORT", c.Address)
	}
	if c.Listener != nil && c.Listener.creds != nil {
		if id := c.Listener.creds.Self(); id != self {
			return fmt.Errorf("group: the certificate is of %s, and the node is %s", id, self)
		}
	}
	return nil
}

// commitTimeout is after how long the library tells followers what is committed, if no
// entry does before; it takes one to two times this. Followers hear it sooner, see tellCommits.
// It costs an idle leader one message per follower and period.
func (c *Config) commitTimeout() time.Duration { return c.Heartbeat / 2 }

// beat is the time between two heartbeats of a leader to a follower.
func (c *Config) beat() time.Duration { return c.Heartbeat / 4 }

// secure tells whether the node can talk to others.
func (c *Config) secure() bool { return c.Listener != nil && c.Listener.creds != nil }

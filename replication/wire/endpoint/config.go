package endpoint

import (
	"errors"
	"fmt"
	"time"

	"blockd.dev/internal/adaptive"
	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/secure"
)

// Config says what an Endpoint is. Credentials are required, the rest has
// defaults.
type Config struct {
	// Credentials are the node's; SetCredentials renews them.
	Credentials *secure.Credentials
	// Handler gets every Request and Notice of every peer, on a pump. It must
	// not block. Without one, requests are answered with no bytes.
	Handler func(*Request)
	// Events gets what happens to peers, on a pump or on the caller of Close.
	// It must not block.
	Events func(Event)
	// Accept says whether a node of the cluster may connect; default: all may.
	// Those that Endpoint.Peer was called for always may.
	Accept func(node string) bool

	// Wire is the pattern for each connection. Handshake, LocalID, ResetToken,
	// Seed, Path, DatagramMax and Wake are filled in here.
	Wire wire.Config
	// Poll is how pumps wait for their links.
	Poll adaptive.Config
	// Sources are what pumps wait for beside their links: disks that Handler uses.
	Sources []Source
	// Clock drives Conns; default clock.Fast.
	Clock clock.Clock
	// WallClock checks certificates; default time.Now.
	WallClock func() time.Time

	// RedialMin and RedialMax bound the pause between attempts to connect,
	// which doubles from one to the next. Defaults 20 ms and 2 s.
	RedialMin, RedialMax time.Duration
	// RetryAbove and HalfOpenMax bound handshakes under way of clients that
	// dial this node: see the package comment. Defaults 32 and 512.
	RetryAbove, HalfOpenMax int
}

// ErrNotConnected is returned by Peer.Go when there is no connection to the
// peer now. Nothing was sent.
var ErrNotConnected = errors.New("not connected")

// ErrStopped is what everything fails with once the Endpoint is closed.
var ErrStopped = errors.New("endpoint stopped")

func (c *Config) setDefaults() error {
	if c.Credentials == nil {
		return errors.New("endpoint: Credentials are missing: give this node's certificate, its key, and the cluster's CA")
	}
	if c.Clock == nil {
		c.Clock = clock.Fast{}
	}
	if c.WallClock == nil {
		c.WallClock = time.Now
	}
	if c.Accept == nil {
		c.Accept = func(string) bool { return true }
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	if c.Handler == nil {
		c.Handler = func(r *Request) {
			if r.Message.Kind == wire.Request {
				_ = r.Reply(nil) // it fails when the connection is gone, and then nobody waits
			} else {
				r.Release()
			}
		}
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{{"RedialMin", &c.RedialMin, 20 * time.Millisecond}, {"RedialMax", &c.RedialMax, 2 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < time.Millisecond {
			return fmt.Errorf("endpoint: %s is %v: give at least 1ms", d.name, *d.value)
		}
	}
	if c.RedialMax < c.RedialMin {
		return fmt.Errorf("endpoint: RedialMax %v is below RedialMin %v", c.RedialMax, c.RedialMin)
	}
	if c.RetryAbove == 0 {
		c.RetryAbove = 32
	}
	if c.HalfOpenMax == 0 {
		c.HalfOpenMax = 512
	}
	return nil
}

// EventKind says what an Event is about.
type EventKind uint8

// The kinds of Event.
const (
	PeerUp     EventKind = iota + 1 // requests can be sent
	PeerDown                        // there is no connection any more, because of Err
	PeerRoom                        // Go that returned wire.ErrQueueFull may succeed now
	DialFailed                      // an attempt to connect ended with Err; another follows
	LinkDown                        // a link has ended because of Err
)

// Event is something that happened to a peer, or to a link.
type Event struct {
	Kind EventKind
	Peer *Peer  // nil for LinkDown
	Link string // LinkDown: its kind and local address
	Err  error
}

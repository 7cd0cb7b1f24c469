package nvmetcp

import (
	"net"
	"sync/atomic"
	"time"

	"blockd.dev/internal/adaptive"
	"blockd.dev/target/sockio"
)

// Stats says what a connection holds and had to wait for; what its commands did
// is counted by package nvme.
type Stats struct {
	Parked    uint64 // commands that waited for a buffer
	Digests   uint64 // data digest errors
	InFlight  int    // commands now
	HeldBytes int64  // buffer held now
}

// counters are the Stats that are counted.
type counters struct{ parked, digests atomic.Uint64 }

// SessionInfo describes one connected queue for lists. The queues of one host
// with the same CNTLID are one controller.
type SessionInfo struct {
	HostNQN       string
	SubNQN        string
	CNTLID        uint16
	QID           uint16 // 0: the admin queue
	Entries       int    // of the submission queue
	Port          uint16
	Discovery     bool
	Authenticated bool
	HeaderDigest  bool
	DataDigest    bool
	Remote        net.Addr
	Local         net.Addr
	Since         time.Time
	Stats         Stats
	Socket        sockio.Stats
}

// ServerStats counts what a Server did.
type ServerStats struct {
	Accepted    uint64         // connections
	Refused     uint64         // connections closed at once: too many
	Connects    uint64         // queues that were connected
	Failed      uint64         // connections that ended before that
	AuthFailed  uint64         // of all, those that failed to authenticate
	Dropped     uint64         // connected queues that ended by an error
	Connections int            // now
	Handshaking int            // of those, not served yet
	Poll        adaptive.Stats // how the connections waited, those that are gone included
}

// EventKind says what an Event is about.
type EventKind uint8

// The kinds of Event.
const (
	EventConnected    EventKind = iota + 1 // a queue is connected and served
	EventFailed                            // a connection ended before that: see Err
	EventAuthFailed                        // a host failed to authenticate: see Err
	EventDisconnected                      // a connected queue ended as it should
	EventDropped                           // a connected queue ended otherwise: see Err
)

// String returns the kind as logs spell it.
func (k EventKind) String() string {
	switch k {
	case EventConnected:
		return "connected"
	case EventFailed:
		return "connect-failed"
	case EventAuthFailed:
		return "auth-failed"
	case EventDisconnected:
		return "disconnected"
	case EventDropped:
		return "dropped"
	}
	return "invalid-event"
}

// Event is something that the owner of a Server may want to log or count.
type Event struct {
	Kind      EventKind
	HostNQN   string
	CNTLID    uint16
	QID       uint16
	Discovery bool
	Remote    net.Addr
	Err       error
}

package iscsi

import (
	"net"
	"time"

	"blockd.dev/internal/adaptive"
	"blockd.dev/target/sockio"
)

// Stats counts what a session did. Bytes are those of commands' data.
type Stats struct {
	Commands  uint64 // SCSI commands that ended
	Reads     uint64 // of those with data to the initiator
	Writes    uint64 // of those with data from it
	BytesIn   uint64 // data received
	BytesOut  uint64 // data sent
	Errors    uint64 // commands that ended with a status other than GOOD
	Busy      uint64 // commands refused for lack of buffers
	Rejects   uint64 // PDUs rejected
	TMFs      uint64 // task management functions
	InFlight  int    // commands now
	HeldBytes int64  // buffer held now
}

// SessionInfo describes a session for lists.
type SessionInfo struct {
	Initiator string
	Alias     string
	ISID      [6]byte
	TSIH      uint16
	CID       uint16
	TPGT      uint16
	Discovery bool
	Remote    net.Addr
	Local     net.Addr
	Since     time.Time
	Params    Params
	Stats     Stats
	Socket    sockio.Stats
}

// ServerStats counts what a Server did.
type ServerStats struct {
	Accepted uint64         // connections
	Refused  uint64         // connections closed at once, for too many logins
	Logins   uint64         // that succeeded
	Failed   uint64         // logins that were refused or given up
	Dropped  uint64         // sessions that ended without logout
	Sessions int            // now
	LogingIn int            // connections in the login phase now
	Poll     adaptive.Stats // how the connections waited, those that are gone included
}

// EventKind says what an Event is about.
type EventKind uint8

// The kinds of Event.
const (
	EventLogin       EventKind = iota + 1 // a session began
	EventLoginFailed                      // a login was refused or given up
	EventLogout                           // a session ended by logout
	EventDropped                          // a session ended otherwise: see Err
	EventReinstated                       // a session was replaced by a new login
	EventReset                            // a host asked for a target reset
)

// String returns the kind as logs spell it.
func (k EventKind) String() string {
	switch k {
	case EventLogin:
		return "login"
	case EventLoginFailed:
		return "login-failed"
	case EventLogout:
		return "logout"
	case EventDropped:
		return "dropped"
	case EventReinstated:
		return "reinstated"
	case EventReset:
		return "reset"
	}
	return "invalid-event"
}

// Event is something that the owner of a Server may want to log or count.
type Event struct {
	Kind      EventKind
	Initiator string
	TSIH      uint16
	Discovery bool
	Remote    net.Addr
	Err       error
}

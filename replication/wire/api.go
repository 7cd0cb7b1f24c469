package wire

import (
	"errors"
	"time"

	"blockd.dev/internal/clock"
)

// MessageMax is the largest message in bytes.
const MessageMax = 1 << 20

// MessageID names a message within its connection and direction. IDs start at
// 1, grow by one, and are not used again.
type MessageID uint64

// PathID numbers the paths of a connection, below PathsMax: pairs of a local
// link and a remote address. The pump knows which is which.
type PathID uint8

// Kind says what a message is for.
type Kind uint8

// The kinds of message.
const (
	Notice   Kind = iota + 1 // expects no answer
	Request                  // expects exactly one Response
	Response                 // answers the Request named by InReplyTo
)

// Outgoing is a message to send. Data belongs to the Conn from Send until the
// event Sent or Failed names the message.
type Outgoing struct {
	Kind      Kind
	InReplyTo MessageID // Response only
	// Channel orders messages: those of one channel arrive in the order of
	// Send. Channel 0 promises no order and never waits. 0 to 1023.
	Channel uint16
	// Deadline, when set, fails a message that is not acknowledged, or a
	// Request that is not answered, by then; what is not sent yet is dropped,
	// and the peer is told to forget the rest.
	Deadline clock.Mono
	// Hint is what the message is about, such as an extent, in the sender's own
	// numbers; 0 for nothing. With Config.Hints, packets that begin with this
	// message carry it where everybody can read it; the peer does not see it.
	Hint uint64
	// Data is gathered in order: 0 to MessageMax bytes in all.
	Data [][]byte
	// Tag is the caller's own and comes back in events.
	Tag any
}

// EventKind says what an Event is about.
type EventKind uint8

// The kinds of Event.
const (
	// EventUp: the handshake is done, Peer is known, messages flow.
	EventUp EventKind = iota + 1
	// EventMessage: a Notice or Request arrived, in Message.
	EventMessage
	// EventResponse: the answer to Request ID arrived, in Message.
	EventResponse
	// EventSent: every byte of ID was acknowledged; its Data is the caller's
	// again. For a Request this says nothing about its answer.
	EventSent
	// EventFailed: ID will not be completed, because of Err; its Data is the
	// caller's again. Whether the peer got it is not known unless Err is
	// ErrNotSent.
	EventFailed
	// EventCanceled: the peer gave up waiting for the answer to its Request ID;
	// answering it is harmless and useless. It may come twice, and after the
	// answer was sent.
	EventCanceled
	// EventRoom: Send that returned ErrQueueFull may succeed now.
	EventRoom
	// EventPath: the connection now prefers Path.
	EventPath
	// EventDown: the connection is over, because of Err; it is the last event.
	// Every message not completed was reported failed before it.
	EventDown
)

// Event is what a Conn has to tell.
type Event struct {
	Kind    EventKind
	ID      MessageID
	Tag     any // of the Outgoing that ID names
	Message Message
	Path    PathID
	Err     error
}

// Message is one that arrived. Its Data belongs to the receiver until Release,
// which gives the room back to the peer's window: a receiver that keeps
// messages slows its peer, and nothing else.
type Message struct {
	ID        MessageID // the peer's number for it
	Kind      Kind
	Channel   uint16
	InReplyTo MessageID // Response only
	// Remaining is how long the sender would still wait, as it was when it
	// sent; 0 for no limit.
	Remaining time.Duration
	Data      []byte // contiguous, starting at a 4 KiB boundary when 4 KiB or longer

	release func()
}

// The ends of messages and connections, to be matched with errors.Is. Text
// that wraps them says which peer and why.
var (
	ErrQueueFull   = errors.New("send queue full")               // of Send: wait for EventRoom
	ErrTooLong     = errors.New("message longer than 1 MiB")     // of Send
	ErrClosed      = errors.New("connection closed")             // by either side, orderly
	ErrPeerSilent  = errors.New("peer silent")                   // nothing came for DeadAfter
	ErrDeadline    = errors.New("deadline passed")               // of one message
	ErrCanceled    = errors.New("canceled")                      // of one message, by its sender
	ErrNotSent     = errors.New("not sent")                      // no byte of the message left this node
	ErrRefused     = errors.New("connection refused")            // by either side: version, certificate or role
	ErrPeerRestart = errors.New("peer restarted")                // it no longer knows the connection
	ErrProtocol    = errors.New("protocol violated by the peer") // a peer that has the keys misbehaved
	ErrForged      = errors.New("too many forged packets")       // somebody else has tried the keys too often
)

package wire

import "blockd.dev/replication/wire/packet"

// Version is the version of the wire that this node speaks.
const Version = packet.Version

// Route is what Inspect found in a datagram.
type Route = packet.Route

// The kinds of Route.
const (
	// Hello is the first datagram of a client: for NewServer, after a refusal
	// or a retry were considered.
	Hello = packet.Hello
	// Known is for the Conn whose LocalID is Dest; if there is none, AppendReset
	// makes the answer.
	Known = packet.Known
	// Reply is for the Conn whose LocalID is Dest; if there is none, for nobody.
	Reply = packet.Reply
	// Reset is for the Conn whose RemoteID is Dest; if there is none, for nobody.
	Reset = packet.Reset
)

// Inspect finds out which Conn a datagram is for, without any state. A Hello
// that is repeated, before the client has heard of the server's ID, belongs to
// the Conn that was made for its Source and sender's address. An error means
// that the datagram is not ours.
func Inspect(datagram []byte) (Route, error) { return packet.Inspect(datagram) }

// AppendRetry appends the datagram that asks the sender of hello to come back
// with token, 1 to packet.TokenMax bytes. It is always shorter than hello.
func AppendRetry(dst []byte, hello Route, token []byte) []byte {
	return packet.AppendRetry(dst, hello, token)
}

// AppendRefusal appends the datagram that tells the sender of hello which
// version this node speaks. It is always shorter than hello.
func AppendRefusal(dst []byte, hello Route) []byte { return packet.AppendRefusal(dst, hello) }

// AppendReset appends the datagram that tells the peer that connection id, the
// Dest of its datagram, isn't known here (any more). token is what the lost
// Conn had as Config.ResetToken. A reset is never answered, and shorter than
// what Inspect accepts as Known, so that two nodes can't keep each other busy.
func AppendReset(dst []byte, id ConnID, token [ResetTokenLen]byte) []byte {
	return packet.AppendReset(dst, id, token)
}

package wire

import "time"

// Stats counts what a Conn did. Counters only grow; the rest is the state now.
type Stats struct {
	TxPackets, TxBytes uint64 // datagrams produced, and their bytes
	RxPackets, RxBytes uint64 // datagrams accepted after the handshake: authentic, and not seen before
	RxDuplicate        uint64 // authentic, but seen before or too old to know
	RxInvalid          uint64 // not authentic, or not for this state
	RxNoBuffer         uint64 // dropped since Alloc had nothing
	TxAckOnly          uint64 // packets that carried nothing but an acknowledgement
	TxLost             uint64 // packets declared lost
	TxSpurious         uint64 // of these, acknowledged later
	TxProbes           uint64 // packets sent because an acknowledgement was overdue
	TxMessages         uint64 // messages taken by Send
	TxResent           uint64 // pieces of messages sent again
	RxMessages         uint64 // messages delivered
	Rekeys             uint64 // changes of the key that this side seals by
	PathChanges        uint64 // changes of the preferred path
	BlackHoles         uint64 // falls back to the smallest datagram

	Up           bool
	Path         PathID        // preferred
	Datagram     int           // longest that the preferred path is known to carry, in bytes
	SmoothedRTT  time.Duration // of the preferred path
	MinRTT       time.Duration
	Window       int // congestion window, in bytes
	InFlight     int // bytes sent and neither acknowledged nor lost
	QueuedBytes  int // taken by Send and not acknowledged
	Queued       int // messages
	Unanswered   int // requests that wait for their answer
	HeldBytes    int // received and not released
	HeldMessages int
}

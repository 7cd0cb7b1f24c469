package wire

import (
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
)

// ackPackets and ackBytes are after how much an acknowledgement no longer
// waits for company: often enough to keep a sender's window moving, seldom
// enough that acknowledgements cost a tenth of what they are for.
const (
	ackPackets = 8
	ackBytes   = 32 << 10
)

// fullDelay is about how long acknowledgements wait on a path that is used in
// full, whatever AckDelay: for that many packets. Only the last ones of a
// burst wait longer, and who makes the window must not take their wait for
// room on the path.
const fullDelay = 25 * time.Microsecond

// acks is what the peer is to be told of its packets.
type acks struct {
	ranges  [packet.RangesMax]packet.Range // the newest first
	count   int
	newest  clock.Mono // when the packet with the largest number came
	pending int        // eliciting packets not acknowledged yet
	bytes   int        // of these
	due     clock.Mono // when to acknowledge without company; Never for no need
}

// note records packet number, which is new, as received at now. An eliciting
// one makes an acknowledgement due: at once if urgent, if the packet came out
// of order, or after some; otherwise after delay, so that an answer can carry
// it.
func (a *acks) note(now clock.Mono, number uint64, size int, eliciting, urgent bool, delay time.Duration) {
	inOrder := a.count == 0 && number == 0 || a.count > 0 && number == a.ranges[0].Last+1
	if a.count == 0 || number > a.ranges[0].Last {
		a.newest = now
	}
	a.insert(number)
	if !eliciting {
		return
	}
	if a.pending == 0 {
		a.due = now.Add(delay)
	}
	a.pending++
	if a.bytes += size; urgent || !inOrder || a.pending >= ackPackets || a.bytes >= ackBytes {
		a.due = now
	}
}

// insert puts number into the ranges. When they are full the oldest is
// forgotten; whatever it stood for has been acknowledged many times.
func (a *acks) insert(number uint64) {
	i := 0
	for i < a.count && number < a.ranges[i].First {
		i++
	}
	// ranges[i] is the first that begins at or below number.
	touchesBelow := i < a.count && a.ranges[i].Last+1 >= number
	touchesAbove := i > 0 && a.ranges[i-1].First == number+1
	switch {
	case touchesBelow && a.ranges[i].Last >= number: // it is there
	case touchesBelow && touchesAbove:
		a.ranges[i-1].First = a.ranges[i].First
		copy(a.ranges[i:], a.ranges[i+1:a.count])
		a.count--
	case touchesBelow:
		a.ranges[i].Last = number
	case touchesAbove:
		a.ranges[i-1].First = number
	case i < len(a.ranges):
		a.count = min(a.count+1, len(a.ranges))
		copy(a.ranges[i+1:a.count], a.ranges[i:])
		a.ranges[i] = packet.Range{First: number, Last: number}
	}
}

// append writes the acknowledgement, as many ranges as fit into room bytes, and counts it as
// given.
func (a *acks) append(dst []byte, now clock.Mono, room int) []byte {
	n := a.count
	for n > 1 && packet.AckLenMax(n) > room {
		n--
	}
	if n == 0 || packet.AckLenMax(n) > room {
		return dst
	}
	a.pending, a.bytes, a.due = 0, 0, clock.Never
	return packet.AppendAck(dst, a.ranges[:n], now.Sub(a.newest))
}

// settle forgets ranges up to number, of which the peer knows that they
// arrived.
func (a *acks) settle(number uint64) {
	for a.count > 1 && a.ranges[a.count-1].Last <= number {
		a.count--
	}
}

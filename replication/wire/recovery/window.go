package recovery

import (
	"time"

	"blockd.dev/internal/clock"
)

// Figures of the window.
const (
	// WindowInitial and WindowMin are in datagrams.
	WindowInitial = 16
	WindowMin     = 4
	// WindowMax is in bytes: 100 Gbit/s for 5 ms.
	WindowMax = 64 << 20
	// queueMin is how much standing queue in the path, measured as time, is always
	// fine: below it lie the jitter of hosts and the batches of NICs.
	queueMin = 50 * time.Microsecond
	// lossMax is the share of packets, in percent, that may get lost without a
	// queue: bad cables and optics lose fewer, short buffers more.
	lossMax = 2
	// drainEvery and drainRounds say how often the window is all but closed for
	// a round trip, to see what the path takes without the queue of this flow.
	drainEvery  = 10 * time.Millisecond
	drainRounds = 100
	// pressedMax is after how many rounds with a queue, although the window
	// shrank each time, others must be making it.
	pressedMax = 16
	// borneMax is how much of a queue that others make is borne.
	borneMax = 2 * time.Millisecond
	// tcpSegment is by what a window grows that competes with TCPs, in bytes.
	tcpSegment = 1448
	// lossSamples is over how many packets that share is taken.
	lossSamples = 1024
)

// Window is how many bytes may be in flight on one path. It follows the queue
// that its flow makes: while the shortest round trip of a round is near the
// shortest ever, it grows by a datagram per round (doubles at the start); when
// a queue stands, it shrinks to what the path holds without. Loss alone
// doesn't count until it is frequent; loss with a queue does. A queue that
// stays whatever the window does is made by others, who fill every buffer:
// beside them it becomes what they are, a Reno, as long as the buffer is short.
type Window struct {
	bytes    float64
	datagram float64
	starting bool    // doubling each round
	resume   float64 // where doubling ends after a collapse; 0 for where a queue stands

	roundEnd   uint64        // the round ends when this packet is acknowledged
	roundMin   time.Duration // shortest round trip in it
	roundLost  int           // packets
	limited    bool          // the window was full in it
	wasLimited bool          // the window was full in the round before
	skip       bool          // the last round shrank it: this one shows still the old queue
	pressed    int           // rounds in a row with a queue
	draining   int           // rounds for which the window is all but closed
	drainAt    clock.Mono    // when to do that next
	saved      float64       // the window meanwhile
	seen, lost float64       // packets of late, halved now and then
}

// NewWindow returns the window of a path that nothing is known of, for
// datagrams of so many bytes.
func NewWindow(datagram int) Window {
	return Window{bytes: float64(WindowInitial * datagram), datagram: float64(datagram), starting: true}
}

// Bytes is the window.
func (w *Window) Bytes() int { return int(w.bytes) }

// Starting tells that the window still doubles each round trip.
func (w *Window) Starting() bool { return w.starting }

// SetDatagram tells that datagrams have this many bytes now.
func (w *Window) SetDatagram(n int) {
	w.datagram = float64(n)
	w.bytes = max(w.bytes, WindowMin*w.datagram)
}

// Limited notes that more would have been sent, had the window been larger.
func (w *Window) Limited() { w.limited = true }

// Acked notes an acknowledged packet.
func (w *Window) Acked(bytes int) {
	w.seen++
	if w.starting && (w.limited || w.wasLimited) {
		w.bytes = min(w.bytes+float64(bytes), WindowMax)
		if w.resume > 0 && w.bytes >= w.resume {
			w.starting = false
		}
	}
}

// Lost notes a lost packet.
func (w *Window) Lost() {
	w.seen++
	w.roundLost++
}

// Sampled notes a round trip, measured by packet number, where next is the number of the next
// packet to be sent, and peerDelay how long the peer may wait to acknowledge.
// It ends the round if number was sent in it.
func (w *Window) Sampled(now clock.Mono, number, next uint64, r *RTT, peerDelay time.Duration) {
	if w.roundMin == 0 || r.Latest < w.roundMin {
		w.roundMin = r.Latest
	}
	if number < w.roundEnd {
		return
	}
	if w.draining == 0 {
		w.endRound(r.Min, peerDelay)
	}
	w.drain(now, r)
	w.wasLimited = w.limited
	w.roundEnd, w.roundMin, w.roundLost, w.limited = next, 0, 0, false
}

// drain closes the window now and then, and opens it again.
func (w *Window) drain(now clock.Mono, r *RTT) {
	switch {
	case w.draining > 0:
		if w.draining--; w.draining == 0 {
			w.bytes, w.skip = max(w.saved, WindowMin*w.datagram), true
		}
	case w.starting || !w.limited || w.pressed > 0 || now < w.drainAt || w.bytes <= 2*WindowMin*w.datagram:
	default:
		w.drainAt = now.Add(max(drainEvery, drainRounds*r.Smoothed))
		// One round for what is in flight to leave, one to look.
		w.saved, w.draining = w.bytes, 2
		w.bytes = WindowMin * w.datagram
	}
}

func (w *Window) endRound(base, peerDelay time.Duration) {
	queue := w.roundMin - base
	target := max(queueMin, base/2)
	if queue <= target/2 && !w.skip {
		w.lost += float64(w.roundLost) // those that no queue explains
	}
	losing := w.losing()
	if queue > target {
		w.pressed++
	} else if queue < target/2 {
		w.pressed = 0
	}
	switch {
	case w.skip:
		w.skip = false
	case w.pressed > pressedMax && (w.roundLost > 0 || queue > max(borneMax, 2*target)):
		w.shrink(0.5)
	case w.pressed > pressedMax:
		if w.limited {
			w.bytes = min(w.bytes+tcpSegment, WindowMax)
		}
	case queue > target:
		// The path and a peer that waits hold their share of what is in flight; a
		// little less lets the queue run empty, so that everybody sees what base is.
		held := base + peerDelay
		w.shrink(max(0.5, 0.95*float64(held)/float64(held+queue)))
	case w.roundLost > 0 && queue > target/2:
		w.shrink(0.5) // the buffer is full, and short
	case w.roundLost > 0 && losing:
		w.shrink(0.8)
	case w.limited && !w.starting && queue > target/4:
		w.bytes = min(w.bytes+tcpSegment, WindowMax) // the path is full, so with care
	case w.limited && !w.starting:
		w.bytes = min(w.bytes+w.datagram, WindowMax)
	}
}

// losing tells whether more packets get lost than a sound path loses.
func (w *Window) losing() bool {
	if w.seen >= lossSamples {
		w.seen /= 2
		w.lost /= 2
	}
	return w.seen >= lossSamples/2 && w.lost*100 > w.seen*lossMax
}

func (w *Window) shrink(factor float64) {
	w.bytes = max(w.bytes*factor, WindowMin*w.datagram)
	w.starting, w.skip = false, true
}

// Collapse notes that nothing came back although it was asked for: the path
// may carry nothing now. The window grows back fast to half of what it was.
func (w *Window) Collapse() {
	if w.bytes > WindowMin*w.datagram {
		w.resume = w.bytes / 2
	}
	w.bytes = WindowMin * w.datagram
	w.starting = true
}

// Pacer spreads what a window allows over the round trip: a bucket of bytes
// that fills at the window's rate. The bucket holds what goes out between two
// looks of its owner, so a slow timer costs nothing but burstiness.
type Pacer struct {
	tokens float64
	filled clock.Mono
}

// burstMin is in datagrams: a batch for the NIC.
const burstMin = 16

// Ready returns whether a datagram may go now, and otherwise when to ask again.
func (p *Pacer) Ready(now clock.Mono, w *Window, r *RTT, granularity time.Duration) (ok bool, at clock.Mono) {
	rate := pace(w, r)
	if rate == 0 {
		return true, now
	}
	burst := max(burstMin*w.datagram, 2*rate*float64(granularity))
	if p.filled == 0 {
		p.tokens = burst
	} else {
		p.tokens = min(burst, p.tokens+rate*float64(now.Sub(p.filled)))
	}
	p.filled = now
	if p.tokens > 0 {
		return true, now
	}
	// Come back for a good part of a burst rather than for one datagram.
	quantum := max(w.datagram, rate*float64(granularity))
	return false, now.Add(time.Duration((quantum-p.tokens)/rate) + 1)
}

// Sent takes a datagram out of the bucket.
func (p *Pacer) Sent(bytes int) { p.tokens -= float64(bytes) }

// pace is in bytes per nanosecond; 0 before the first round trip.
func pace(w *Window, r *RTT) float64 {
	if r.Smoothed == 0 {
		return 0
	}
	gain := 1.25
	if w.starting {
		gain = 2
	}
	return gain * w.bytes / float64(r.Smoothed)
}

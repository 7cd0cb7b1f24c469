package recovery

import (
	"time"

	"blockd.dev/internal/clock"
)

// PathsMax is how many paths a Ledger tells apart.
const PathsMax = 8

// InFlightMax is how many packets may be between the oldest that is not
// settled and the newest.
const InFlightMax = 1 << 14

// Flags of a Packet.
const (
	Eliciting uint8 = 1 << iota // the peer will acknowledge it
	MTUProbe                    // its loss says nothing of congestion
	Large                       // longer than every path is known to carry
)

type state uint8

const (
	settled  state = iota // acknowledged, or not to be
	inFlight              // sent, nothing heard
	lost                  // declared lost, might still be acknowledged
)

// Packet is one that was sent.
type Packet struct {
	Sent   clock.Mono
	Bytes  int32
	Frames int32 // the owner's own: what is in it
	Flags  uint8
	Path   uint8
	state  state
}

// Owner is told what became of packets. It may change the packet's Frames and
// must not call the Ledger.
type Owner interface {
	// PacketAcked: it arrived. wasLost: it had been declared lost before.
	PacketAcked(number uint64, p *Packet, wasLost bool)
	// PacketLost: it did not, most likely.
	PacketLost(number uint64, p *Packet)
	// RTT is the estimate for a path.
	RTT(path uint8) *RTT
}

// Packet and time thresholds (RFC 9002 §6.1), and how far reordering may widen
// them (as RACK does, RFC 8985 §6.2).
const (
	thresholdMin = 3
	thresholdMax = 256
	widenMax     = 8 // eighths of a round trip, so at most twice as long
	// calmLosses is after how many losses without a false one the thresholds
	// narrow again by one step.
	calmLosses = 64
	// lostLife is for how many round trips a lost packet is remembered.
	lostLife = 4
)

// Ledger keeps the packets that were sent and not settled. Numbers start at 0
// and are handed out by Add, without gaps.
type Ledger struct {
	ring        []Packet // by number, a power of two long
	first, next uint64   // packets first to next-1 are in the ring
	path        [PathsMax]pathLedger
	eliciting   int
	threshold   uint64
	widen       time.Duration // eighths of a round trip
	calm        int
	lossTime    clock.Mono
}

// pathLedger is what is known of one path's packets. Only packets of one path overtake
// each other by accident, so only those are compared.
type pathLedger struct {
	acked    uint64 // the largest number acknowledged, plus 1
	bytes    int    // in flight
	lastSent clock.Mono
	waiting  int // eliciting packets in flight
}

// Next is the number of the next packet.
func (l *Ledger) Next() uint64 { return l.next }

// Full tells that no packet can be added before older ones are settled.
func (l *Ledger) Full() bool { return l.next-l.first >= InFlightMax }

// InFlight is how many bytes of a path's eliciting packets are neither acknowledged
// nor lost.
func (l *Ledger) InFlight(path uint8) int { return l.path[path].bytes }

// Waiting tells whether any packet waits to be acknowledged.
func (l *Ledger) Waiting() bool { return l.eliciting > 0 }

// WaitingOn tells whether any packet of path does.
func (l *Ledger) WaitingOn(path uint8) bool { return l.path[path].waiting > 0 }

// LastSent is when the newest eliciting packet of a path was sent.
func (l *Ledger) LastSent(path uint8) clock.Mono { return l.path[path].lastSent }

// Settled is below which number every packet is settled.
func (l *Ledger) Settled() uint64 { return l.first }

// Add notes a packet as sent and returns its number. The Ledger isn't Full.
func (l *Ledger) Add(p Packet) uint64 {
	if l.next-l.first == uint64(len(l.ring)) {
		l.grow()
	}
	number := l.next
	l.next++
	p.state = settled
	if p.Flags&Eliciting != 0 {
		p.state = inFlight
		l.eliciting++
		at := &l.path[p.Path]
		at.bytes += int(p.Bytes)
		at.waiting++
		at.lastSent = p.Sent
	}
	*l.at(number) = p
	if p.state == settled && number == l.first {
		l.first++
	}
	return number
}

func (l *Ledger) at(number uint64) *Packet { return &l.ring[number&uint64(len(l.ring)-1)] }

func (l *Ledger) grow() {
	old := *l
	l.ring = make([]Packet, max(64, 2*len(old.ring)))
	for n := old.first; n < old.next; n++ {
		*l.at(n) = *old.at(n)
	}
}

// Ack settles packets first to last, both included, which are below Next. The
// owner is told of each, the newest first.
func (l *Ledger) Ack(first, last uint64, owner Owner) {
	low := max(first, l.first)
	for n := last; n+1 > low; n-- {
		p := l.at(n)
		if p.state != settled {
			l.settle(n, p, owner)
		}
		if n == 0 {
			return
		}
	}
}

func (l *Ledger) settle(n uint64, p *Packet, owner Owner) {
	wasLost := p.state == lost
	if wasLost {
		l.reordered(n, p)
	} else {
		l.leave(p)
	}
	p.state = settled
	at := &l.path[p.Path]
	at.acked = max(at.acked, n+1)
	owner.PacketAcked(n, p, wasLost)
}

func (l *Ledger) leave(p *Packet) {
	l.eliciting--
	at := &l.path[p.Path]
	at.bytes -= int(p.Bytes)
	at.waiting--
}

// reordered widens the thresholds by a packet that was not lost after all.
func (l *Ledger) reordered(n uint64, p *Packet) {
	if behind := l.path[p.Path].acked; behind > n {
		l.threshold = min(max(l.limit(), behind-n), thresholdMax)
	}
	l.widen = min(l.widen+1, widenMax)
	l.calm = 0
}

func (l *Ledger) limit() uint64 { return max(l.threshold, thresholdMin) }

// Detect declares packets lost that others of their path have overtaken by
// enough packets or by enough time. It returns when it should be called again;
// clock.Never for not before the next Ack.
func (l *Ledger) Detect(now clock.Mono, owner Owner) clock.Mono {
	l.lossTime = clock.Never
	for n := l.first; n < l.next; n++ {
		p := l.at(n)
		if p.state != inFlight {
			continue
		}
		acked := l.path[p.Path].acked
		if acked <= n {
			if l.beyond(n) {
				break
			}
			continue
		}
		r := owner.RTT(p.Path)
		due := p.Sent.Add(l.patience(r))
		if acked-1-n >= l.limit() || due <= now {
			l.lose(n, p, owner)
			continue
		}
		l.lossTime = min(l.lossTime, due)
	}
	l.forget(now, owner)
	return l.lossTime
}

// beyond tells that no packet from n on was overtaken on any path.
func (l *Ledger) beyond(n uint64) bool {
	for i := range l.path {
		if l.path[i].acked > n {
			return false
		}
	}
	return true
}

// patience is how long after its sending an overtaken packet counts as lost.
func (l *Ledger) patience(r *RTT) time.Duration {
	base := max(r.Smoothed, r.Latest)
	return base + max(base*(1+l.widen)/8, time.Microsecond)
}

func (l *Ledger) lose(n uint64, p *Packet, owner Owner) {
	l.leave(p)
	p.state = lost
	if l.calm++; l.calm >= calmLosses {
		l.calm = 0
		l.widen = max(0, l.widen-1)
		if l.threshold > thresholdMin {
			l.threshold = max(thresholdMin, l.threshold/2)
		}
	}
	owner.PacketLost(n, p)
}

// forget drops what is settled, or lost for long, from the front.
func (l *Ledger) forget(now clock.Mono, owner Owner) {
	for l.first < l.next {
		p := l.at(l.first)
		if p.state == inFlight {
			return
		}
		if p.state == lost && now.Sub(p.Sent) < lostLife*owner.RTT(p.Path).Smoothed && l.next-l.first < InFlightMax/2 {
			return
		}
		l.first++
	}
}

// Oldest visits packets in flight, the oldest first, until visit returns false.
func (l *Ledger) Oldest(visit func(number uint64, p *Packet) bool) {
	for n := l.first; n < l.next; n++ {
		if p := l.at(n); p.state == inFlight && !visit(n, p) {
			return
		}
	}
}

// OldestSent is when the oldest packet in flight was sent. One is.
func (l *Ledger) OldestSent() clock.Mono {
	for n := l.first; n < l.next; n++ {
		if p := l.at(n); p.state == inFlight {
			return p.Sent
		}
	}
	return clock.Never
}

// LosePath declares everything in flight on path lost.
func (l *Ledger) LosePath(path uint8, owner Owner) {
	for n := l.first; n < l.next; n++ {
		if p := l.at(n); p.state == inFlight && p.Path == path {
			l.leave(p)
			p.state = lost
			owner.PacketLost(n, p)
		}
	}
}

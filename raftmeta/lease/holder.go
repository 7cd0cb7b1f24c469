package lease

import (
	"bytes"
	"slices"
	"sync/atomic"

	"blockd.dev/internal/clock"
)

// renewalsOpenMax is how many unanswered renewals a Holder remembers. An
// answer to an older one comes too late to extend much.
const renewalsOpenMax = 8

// Lease is one volume's lease on its owner. The data path asks it about each
// request and needs no lock.
type Lease struct {
	Volume VolumeID
	Epoch  uint64

	until    atomic.Int64 // clock.Mono; 0 before the first renewal and after the end
	recalled bool
}

// Deadline is the reading from which on nothing may be accepted or answered
// under the lease, unless it is renewed before. Zero when it was never
// confirmed, or is over for good. Safe for concurrent use.
func (l *Lease) Deadline() clock.Mono { return clock.Mono(l.until.Load()) }

// Valid reports whether requests may be served. now must have been read before
// the call. A read is answered only if Valid also holds when its data is
// there. Safe for concurrent use, does not allocate.
func (l *Lease) Valid(now clock.Mono) bool { return now < l.Deadline() }

// Holder is the owner's side of all leases of one node's process. One
// goroutine at a time may call its methods.
type Holder struct {
	cfg         Config
	node        string
	incarnation uint64
	leases      map[VolumeID]*Lease
	over        map[VolumeID]uint64 // the newest epoch that must never be served again
	number      uint64
	open        []sent // oldest first
	next        clock.Mono
}

// sent is a renewal that has no answer yet.
type sent struct {
	number uint64
	at     clock.Mono // before it was sent
	claims []Claim
}

// NewHolder makes the Holder of one start of a node's process (rule 6).
func NewHolder(cfg Config, node string, incarnation uint64) *Holder {
	return &Holder{cfg: cfg.withDefaults(), node: node, incarnation: incarnation, leases: map[VolumeID]*Lease{}, over: map[VolumeID]uint64{}}
}

// Learn takes an entry of a Table that may be old. When it makes this process
// the owner in a new epoch, the Lease is returned; it is valid after its first
// renewal was answered, and the next renewal is due at once. When another owns
// the volume in a newer epoch, what was held is over. Otherwise nil.
func (h *Holder) Learn(v VolumeID, e Entry) *Lease {
	held := h.leases[v]
	if held != nil && e.Epoch < held.Epoch || e.Epoch <= h.over[v] {
		return nil
	}
	mine := e.Owner == h.node && e.Incarnation == h.incarnation
	if held != nil && held.Epoch == e.Epoch && mine {
		return nil
	}
	h.end(v)
	if !mine {
		return nil
	}
	l := &Lease{Volume: v, Epoch: e.Epoch}
	h.leases[v] = l
	h.next = 0
	return l
}

// Get returns the lease of v, or nil.
func (h *Holder) Get(v VolumeID) *Lease { return h.leases[v] }

// Next is the reading at which Renew should be called: a third of Duration
// after the last one, clock.Never without leases.
func (h *Holder) Next() clock.Mono {
	if len(h.leases) == 0 {
		return clock.Never
	}
	return h.next
}

// Renew makes the renewal to send now. A process sends one when it starts,
// without claims: it frees what its last start held. now is read before anything is sent:
// the leases will last Duration from there, not from the answer.
func (h *Holder) Renew(now clock.Mono) Renewal {
	h.number++
	claims := make([]Claim, 0, len(h.leases))
	for v, l := range h.leases {
		claims = append(claims, Claim{v, l.Epoch})
	}
	slices.SortFunc(claims, func(a, b Claim) int { return bytes.Compare(a.Volume[:], b.Volume[:]) })
	if len(h.open) == renewalsOpenMax {
		h.open = slices.Delete(h.open, 0, 1)
	}
	h.open = append(h.open, sent{h.number, now, claims})
	h.next = now.Add(h.cfg.Duration / 3)
	return Renewal{h.node, h.incarnation, h.number, claims}
}

// Answered takes the leader's answer. An answer that is late, doubled or to
// nothing that was asked does no harm. It returns the leases that are over, to
// be stopped, and those that were recalled with this answer, to be given back.
func (h *Holder) Answered(a Answer) (over, recalled []*Lease) {
	i := slices.IndexFunc(h.open, func(s sent) bool { return s.number == a.Number })
	if i < 0 || len(a.Renewed) != len(h.open[i].claims) {
		return nil, nil
	}
	s := h.open[i]
	h.open = slices.Delete(h.open, i, i+1)
	until := int64(s.at.Add(h.cfg.Duration - h.cfg.Margin))
	for i, c := range s.claims {
		l := h.leases[c.Volume]
		if l == nil || l.Epoch != c.Epoch {
			continue // given back, or over, since
		}
		switch a.Renewed[i] {
		case Renewed, Recalled:
			l.until.Store(max(l.until.Load(), until))
			if a.Renewed[i] == Recalled && !l.recalled {
				l.recalled = true
				recalled = append(recalled, l)
			}
		case Refused:
			over = append(over, h.end(c.Volume))
		}
	}
	return over, recalled
}

// GiveBack ends the lease of v for good and returns the message for the
// leader; ok is false when there is no lease. Send it when all requests that
// were accepted before have ended, and again until the Table shows the end.
func (h *Holder) GiveBack(v VolumeID) (r Release, ok bool) {
	l := h.end(v)
	if l == nil {
		return Release{}, false
	}
	return Release{h.node, h.incarnation, v, l.Epoch}, true
}

// end makes sure that the epoch is never served again, not even when a late
// answer, or an old Table, says that it is held.
func (h *Holder) end(v VolumeID) *Lease {
	l := h.leases[v]
	if l == nil {
		return nil
	}
	l.until.Store(0)
	h.over[v] = l.Epoch
	delete(h.leases, v)
	return l
}

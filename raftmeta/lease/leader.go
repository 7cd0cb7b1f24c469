package lease

import "blockd.dev/internal/clock"

// Leader is the volatile part of all leases, for one term of one leader. The
// caller serialises its methods and keeps the rules of the package comment.
type Leader struct {
	cfg     Config
	start   clock.Mono // when the term began for us
	leases  map[VolumeID]volatile
	newest  map[string]uint64 // node -> its newest incarnation that was heard of
	pending map[VolumeID]bool // changes proposed and not yet settled
	recall  map[VolumeID]string
}

// volatile is what the leader knows of one lease in one epoch.
type volatile struct {
	epoch uint64
	until clock.Mono // by the leader's clock; the holder stops before
}

// NewLeader begins a term. now is a reading taken after the election was won;
// a later one is safe and only costs time.
func NewLeader(cfg Config, now clock.Mono) *Leader {
	return &Leader{
		cfg: cfg.withDefaults(), start: now,
		leases: map[VolumeID]volatile{}, newest: map[string]uint64{},
		pending: map[VolumeID]bool{}, recall: map[VolumeID]string{},
	}
}

// EarlierEnded says that all renewals which earlier leaders have answered were
// sent before a reading, when that becomes known: what they have promised then ends
// that much sooner than NewLeader had to fear. A reading later than its now is no news.
func (l *Leader) EarlierEnded(before clock.Mono) { l.start = min(l.start, before) }

// Heard notes that a node's process of this incarnation exists. The word of
// the node itself is needed, under its own certificate.
func (l *Leader) Heard(node string, incarnation uint64) {
	l.newest[node] = max(l.newest[node], incarnation)
}

// Renew answers a renewal. Rule 3: between the renewal's arrival and this call
// a majority has confirmed that this node led this term. t is the newest
// applied Table.
func (l *Leader) Renew(now clock.Mono, t Table, r Renewal) Answer {
	l.Heard(r.Node, r.Incarnation)
	a := Answer{Number: r.Number, Renewed: make([]Verdict, len(r.Claims))}
	until := now.Add(l.cfg.wait())
	for i, c := range r.Claims {
		a.Renewed[i] = l.judge(t, r, c)
		if a.Renewed[i] == Renewed || a.Renewed[i] == Recalled {
			l.leases[c.Volume] = volatile{c.Epoch, until}
		}
	}
	return a
}

func (l *Leader) judge(t Table, r Renewal, c Claim) Verdict {
	_, recalled := l.recall[c.Volume]
	switch {
	case r.Incarnation < l.newest[r.Node]:
		return Refused // from a process that is dead
	case l.pending[c.Volume] || t.Get(c.Volume).Epoch < c.Epoch:
		return Later
	case t.owns(c.Volume, c.Epoch, r.Node, r.Incarnation) != nil:
		return Refused
	case recalled:
		return Recalled
	}
	return Renewed
}

// FreeAt returns the reading at which nobody can hold a lease of v any more
// and it may be granted; now or earlier when that is so already.
func (l *Leader) FreeAt(now clock.Mono, t Table, v VolumeID) clock.Mono {
	e := t.Get(v)
	if e.Owner == "" || e.Incarnation < l.newest[e.Owner] {
		return now
	}
	if k, ok := l.leases[v]; ok && k.epoch == e.Epoch {
		return k.until
	}
	return l.start.Add(l.cfg.wait()) // the owner may have renewed with the last leader
}

// Propose reports whether a Grant based on the present entry of v may be
// proposed now. When it may, v is pending and is not renewed for anybody
// until Settled.
func (l *Leader) Propose(now clock.Mono, t Table, v VolumeID) bool {
	if l.pending[v] {
		return false
	}
	if l.FreeAt(now, t, v) > now {
		return false
	}
	l.pending[v] = true
	return true
}

// Released reports whether a Release, or a Transfer to whom RecallTo names,
// may be proposed: the owner of the present entry has given it back. When it
// may, v is pending until Settled.
func (l *Leader) Released(t Table, r Release) bool {
	if l.pending[r.Volume] || t.owns(r.Volume, r.Epoch, r.Node, r.Incarnation) != nil {
		return false
	}
	l.pending[r.Volume] = true
	return true
}

// Settled ends what Propose or Released began: the command was applied to t,
// or certainly never will be. When the outcome is unknown, this node is not
// leader any more and its Leader is thrown away. A new owner has the time of
// a lease to send its first renewal before the volume can go to another.
func (l *Leader) Settled(now clock.Mono, t Table, v VolumeID) {
	delete(l.pending, v)
	e := t.Get(v)
	if e.Owner == "" {
		delete(l.leases, v)
		return
	}
	if k := l.leases[v]; k.epoch < e.Epoch {
		l.leases[v] = volatile{e.Epoch, now.Add(l.cfg.wait())}
		delete(l.recall, v)
	}
}

// Recall asks the owner of v, with the answer to its next renewal, to give the
// lease back. to is who shall have it then, or empty. It is forgotten with the
// term, so that whoever plans the move asks each new leader again.
func (l *Leader) Recall(v VolumeID, to string) { l.recall[v] = to }

// RecallTo returns who shall have v when its owner gives it back, and whether
// it was recalled.
func (l *Leader) RecallTo(v VolumeID) (to string, ok bool) {
	to, ok = l.recall[v]
	return to, ok
}

// CancelRecall takes a Recall back. The owner may have begun to act on it.
func (l *Leader) CancelRecall(v VolumeID) { delete(l.recall, v) }

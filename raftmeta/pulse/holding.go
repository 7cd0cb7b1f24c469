package pulse

import (
	"cmp"
	"slices"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/lease"
	"blockd.dev/raftmeta/membership"
)

// holding is what a node has and says. It belongs to whoever has Node.mu.
type holding struct {
	node        string
	incarnation uint64
	times       Times
	holder      *lease.Holder
	mine        map[lease.VolumeID]*mine
	back        map[lease.VolumeID]giveBack // until the table shows it
	opinions    map[string]opinion
	leaving     bool
	rtt         time.Duration
	next        clock.Mono // when a pulse is due
	news        []func(Events)
}

// mine is a lease of this node.
type mine struct {
	lease    *lease.Lease
	learned  clock.Mono
	acquired bool // Events has been told
}

// giveBack is a lease that is given back, from a reading on.
type giveBack struct {
	epoch uint64
	from  clock.Mono
}

type opinion struct {
	incarnation uint64
	what        membership.Opinion
	at          clock.Mono
}

// opinionsLast is for how long an opinion is repeated, in pulses.
const opinionsLast = 8

func newHolding(cfg *Config) *holding {
	return &holding{node: cfg.Node, incarnation: cfg.Incarnation, times: cfg.Times,
		holder: lease.NewHolder(cfg.Times.Lease, cfg.Node, cfg.Incarnation),
		mine:   map[lease.VolumeID]*mine{}, back: map[lease.VolumeID]giveBack{}, opinions: map[string]opinion{}}
}

// learn takes the leases as the catalog has them, perhaps a while ago.
func (h *holding) learn(now clock.Mono, t lease.Table) {
	for v, e := range t.All() {
		had := h.mine[v]
		if l := h.holder.Learn(v, e); l != nil {
			h.over(v) // an earlier epoch of the same
			h.mine[v] = &mine{lease: l, learned: now}
			h.next = 0 // it is served when the leader has confirmed it
		} else if had != nil && h.holder.Get(v) == nil {
			h.over(v)
		}
	}
	for v := range h.mine {
		if t.Get(v).Epoch == 0 { // the volume is gone
			h.holder.GiveBack(v)
			h.over(v)
		}
	}
	for v, b := range h.back {
		if e := t.Get(v); e.Epoch != b.epoch || e.Owner != h.node {
			delete(h.back, v)
		}
	}
}

// over forgets a lease that the Holder has ended, and tells.
func (h *holding) over(v lease.VolumeID) {
	m := h.mine[v]
	if m == nil {
		return
	}
	delete(h.mine, v)
	if m.acquired {
		h.news = append(h.news, func(e Events) { e.Lost(catalog.ID(v)) })
	}
}

// lapse ends the leases whose time is over. Margin later nothing of them is
// on its way any more, and they are given back: the leader needs not wait for
// what it may have answered.
func (h *holding) lapse(now clock.Mono) {
	for v, m := range h.mine {
		if m.acquired && now >= m.lease.Deadline() {
			h.giveBack(v, now.Add(h.times.Lease.Margin))
			h.over(v)
		}
	}
}

// giveBack ends a lease; the leader is told from a reading on.
func (h *holding) giveBack(v lease.VolumeID, from clock.Mono) {
	if r, ok := h.holder.GiveBack(v); ok {
		h.back[v] = giveBack{r.Epoch, from}
		h.next = min(h.next, from)
	}
}

// gaveBack is the daemon's word that it has stopped to serve. It can't mean an
// epoch that it has not been told of.
func (h *holding) gaveBack(v lease.VolumeID) {
	if m := h.mine[v]; m == nil || !m.acquired {
		return
	}
	h.giveBack(v, 0)
	delete(h.mine, v)
}

// saw notes what this node thinks of another. That a process died is told at once.
func (h *holding) saw(now clock.Mono, node string, incarnation uint64, what membership.Opinion) {
	old := h.opinions[node]
	h.opinions[node] = opinion{incarnation, what, now}
	if what == membership.Died && (old.what != what || old.incarnation != incarnation) {
		h.next = 0
	}
}

// pulse makes the pulse that is sent now. now is read before it is sent.
func (h *holding) pulse(now clock.Mono) *blockdv1.PulseRequest {
	r := h.holder.Renew(now)
	req := &blockdv1.PulseRequest{Node: h.node, Incarnation: h.incarnation, RttNano: int64(h.rtt), Leaving: h.leaving, Number: r.Number}
	for _, c := range r.Claims {
		req.Claims = append(req.Claims, claimTo(c.Volume, c.Epoch))
	}
	h.next = now.Add(h.times.Every)
	for v, b := range h.back {
		if b.from > now {
			h.next = min(h.next, b.from)
			continue
		}
		req.Releases = append(req.Releases, claimTo(v, b.epoch))
	}
	for node, o := range h.opinions {
		if now.Sub(o.at) > opinionsLast*h.times.Every {
			delete(h.opinions, node)
			continue
		}
		req.Opinions = append(req.Opinions, &blockdv1.PeerOpinion{Node: node, Incarnation: o.incarnation, What: opinionWords[o.what]})
	}
	slices.SortFunc(req.Opinions, func(a, b *blockdv1.PeerOpinion) int { return cmp.Compare(a.GetNode(), b.GetNode()) })
	return req
}

// answered takes the leader's answer to a pulse.
func (h *holding) answered(res *blockdv1.PulseResponse) {
	a := lease.Answer{Number: res.GetNumber()}
	for _, v := range res.GetVerdicts() {
		a.Renewed = append(a.Renewed, lease.Verdict(v))
	}
	over, recalled := h.holder.Answered(a)
	for _, l := range over {
		h.over(l.Volume)
	}
	for v, m := range h.mine {
		if !m.acquired && m.lease.Deadline() > 0 {
			m.acquired = true
			h.news = append(h.news, func(e Events) { e.Acquired(m.lease, m.learned) })
		}
		if slices.Contains(recalled, m.lease) {
			h.news = append(h.news, func(e Events) { e.Recalled(catalog.ID(v)) })
		}
	}
}

// wake is when there is something to do next.
func (h *holding) wake() clock.Mono {
	at := h.next
	for _, m := range h.mine {
		if m.acquired {
			at = min(at, m.lease.Deadline())
		}
	}
	return at
}

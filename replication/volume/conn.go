package volume

import (
	"slices"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
)

type connState uint8

const (
	down    connState = iota
	fencing           // Fence is on its way
	up
)

// conn is what the owner has with one replica: one session after another.
type conn struct {
	disk    int
	state   connState
	since   clock.Mono // not up since then
	retry   clock.Mono // next attempt
	session uint64
	boot    uint64
	fenced  bool    // answered a Fence of this epoch
	calls   []*call // by id
	stable  uint64  // the replica has this watermark
	lastUse clock.Mono

	// The answer to the last Fence.
	known uint64
	last  uint64
	tail  []replica.Entry

	doubt uint64 // MarkOut was proposed for this generation

	re rebuild
}

// call is a request that waits for its answer.
type call struct {
	id       uint64
	kind     replica.Kind
	piece    *piece
	sent     clock.Mono
	deadline clock.Mono
	hedged   bool
}

// request sends q within the session.
func (c *conn) request(o *Owner, p *piece, q replica.Request) {
	o.nextID++
	q.ID, q.Epoch, q.Session, q.Boot, q.Stable = o.nextID, o.epoch, c.session, c.boot, o.stable()
	c.calls = append(c.calls, &call{id: q.ID, kind: q.Kind, piece: p, sent: o.now, deadline: o.now.Add(o.cfg.RequestTimeout)})
	q.Oldest = c.calls[0].id
	c.lastUse = o.now
	c.stable = max(c.stable, q.Stable)
	o.env.Send(c.disk, q)
}

// connect begins a new session.
func (c *conn) connect(o *Owner) {
	c.session++
	c.state = fencing
	c.retry = o.now.Add(o.cfg.RetryAfter)
	c.calls = nil
	c.request(o, nil, replica.Request{Kind: replica.Fence})
}

// lose ends the session: nothing of it will be taken any more. Writes are
// sent again in the next one, reads go elsewhere.
func (c *conn) lose(o *Owner) {
	if c.state == up {
		c.since = o.now
	}
	c.state, c.retry = down, o.now.Add(o.cfg.RetryAfter)
	calls := c.calls
	c.calls = nil
	c.stable = 0
	c.re.stop(o, c.disk)
	for _, k := range calls {
		if k.piece != nil {
			k.piece.lost(c.disk)
		}
	}
	if o.phase == equalizing && o.inSync.has(c.disk) {
		o.startOver()
	}
}

func (c *conn) tick(o *Owner) {
	for _, k := range c.calls {
		if o.now >= k.deadline {
			c.lose(o)
			break
		}
	}
	switch {
	case c.state == down && o.now >= c.retry:
		c.connect(o)
	case c.state == up && len(c.calls) == 0 && c.stable < o.stable() && o.now >= c.lastUse.Add(o.cfg.StableAfter) && o.required.has(c.disk):
		c.request(o, nil, replica.Request{Kind: replica.Stable})
	}
	for _, k := range c.calls {
		if k.kind == replica.Read && k.piece != nil && !k.hedged && o.now >= k.sent.Add(o.cfg.HedgeAfter) {
			k.hedged = true
			k.piece.hedge(o)
		}
	}
}

func (c *conn) answer(o *Owner, resp replica.Response) {
	i := slices.IndexFunc(c.calls, func(k *call) bool { return k.id == resp.ID })
	if i < 0 {
		return // of a session that is over, or a duplicate
	}
	k := c.calls[i]
	c.calls = slices.Delete(c.calls, i, i+1)
	switch resp.Status {
	case replica.OK:
	case replica.Medium:
		if k.piece != nil {
			k.piece.unreadable(c.disk)
			return
		}
		fallthrough
	default: // the replica restarted or its store failed: begin again
		if k.piece != nil {
			k.piece.lost(c.disk)
		}
		c.lose(o)
		return
	}
	switch {
	case k.kind == replica.Fence:
		c.opened(o, resp)
	case k.kind == replica.Begin:
		c.re.begun(o, c.disk)
	case k.piece != nil:
		k.piece.answer(o, c.disk, k.kind, resp)
	}
}

// opened has the session: what the replica owes is sent again [I2].
func (c *conn) opened(o *Owner, resp replica.Response) {
	c.state, c.boot, c.fenced = up, resp.Boot, true
	c.known, c.last, c.tail = resp.Stable, resp.Last, resp.Tail
	for _, p := range o.queue {
		if p.state == writing && p.targets.has(c.disk) && !p.acked.has(c.disk) && o.required.has(c.disk) {
			p.send(o, c.disk)
		}
	}
}

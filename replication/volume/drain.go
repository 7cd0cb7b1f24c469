package volume

import (
	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// drain is the way to a planned end.
type drain struct {
	on    bool
	clean bool
	by    clock.Mono
}

// Drain ends the owner in order, so that the next one has nothing to repair.
// It takes no new op: those that have not begun are completed with ErrNotOwner
// and have done nothing. When those in flight have ended and every required
// replica knows so, the owner is over. It is over after OpTimeout anyway.
func (o *Owner) Drain(now clock.Mono) {
	if !o.enter(now) || o.drain.on {
		return
	}
	o.drain.on, o.drain.by = true, now.Add(o.cfg.OpTimeout)
	for _, op := range o.waiting {
		o.finish(op, ErrNotOwner)
	}
	o.waiting = nil
	for d, c := range o.conns {
		if !c.re.arrival {
			c.re.stop(o, d)
		} // else it is told the watermark, so it takes part in the writes below that [I9]
	}
	o.settle()
}

// Drained tells whether the owner has ended by Drain with nothing left to
// repair.
func (o *Owner) Drained() bool { return o.over && o.drain.clean }

// drained ends a drain that has come to its end.
func (o *Owner) drained() {
	if !o.drain.on || o.over {
		return
	}
	if o.now >= o.drain.by || len(o.unserved) > 0 {
		o.end()
		return
	}
	if len(o.pieces.all) > 0 && !mutation.On(mutation.DrainInFlight) {
		return
	}
	told := true
	for d, c := range o.conns {
		if !o.required.has(d) {
			continue
		}
		if c.state == up && c.calls.len() == 0 && c.stable < o.stable(c) {
			c.request(o, nil, replica.Request{Kind: replica.Stable})
		}
		told = told && c.state == up && (c.calls.len() == 0 || mutation.On(mutation.DrainInFlight))
	}
	if told {
		o.drain.clean = true
		o.end()
	}
}

package daemon

import (
	"cmp"
	"context"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/director"
	"blockd.dev/raftmeta/membership"
	"blockd.dev/raftmeta/pulse"
)

// directing is the node's director: what it does for replicated volumes while it
// leads the group. It begins before the disks are opened, which can take long,
// and ends when all else has: the leases of all nodes depend on it.
type directing struct {
	*director.Director
	cancel context.CancelFunc
	done   chan struct{}
}

// startDirecting lets the node direct whenever it leads.
func (d *Daemon) startDirecting() error {
	r, err := director.New(director.Config{Node: d.plane.id().String(), Catalog: d.catalog, Group: d.plane.group, Events: d.directorEvent,
		RebuildAfter: d.cfg.RebuildAfter, Times: d.pulseTimes()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &directing{Director: r, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		if err := r.Run(ctx); err != nil {
			d.events.add(levelError, "node.direct", d.nodeName(), err.Error())
		}
	}()
	d.directing.Store(g)
	return nil
}

// pulseTimes are the same at the director and at all nodes.
func (d *Daemon) pulseTimes() pulse.Times {
	t := pulse.Defaults
	t.Lease.Duration = cmp.Or(d.cfg.patience, t.Lease.Duration)
	return t
}

// stop ends the directing; it may be nil.
func (g *directing) stop() {
	if g != nil {
		g.cancel()
		<-g.done
	}
}

// pulses answers the pulses of nodes, once this one can direct.
type pulses struct{ d *Daemon }

// Pulse implements pulse.Server.
func (p pulses) Pulse(ctx context.Context, from string, req *blockdv1.PulseRequest) (*blockdv1.PulseResponse, error) {
	if g := p.d.directing.Load(); g != nil {
		return g.Director.Pulse(ctx, from, req)
	}
	return nil, pulse.ErrNotLeading
}

func (d *Daemon) directorEvent(e director.Event) {
	if e.Err != nil {
		if d.errorGate.pass("director " + e.What) {
			d.events.add(levelWarning, "director.refused", e.What, e.Err.Error())
		}
		return
	}
	lv := levelInfo
	switch e.Node.To {
	case membership.Suspect, membership.Down, membership.Held:
		lv = levelWarning
	}
	d.events.add(lv, "node."+e.Node.To.String(), d.nodeNamed(e.Node.Node), e.Node.Reason)
}

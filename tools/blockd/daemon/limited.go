package daemon

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/qos"
	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/replication/message"
)

// limited is the part of a meter that holds requests of hosts back, to keep to the
// limits of the volume. A volume of several copies is metered on its owner's node, where
// requests that other nodes forward count too; see package qos. Requests that move no
// data cost an operation, and a flush costs nothing.
type limited struct {
	limiter *qos.Limiter
	guard   func() uint64 // the generation of the volume's reservations
	goOn    func(any, qos.Pass)
}

// How held requests may end.
var (
	errHostGone = errors.New("the connection that the request came by has ended while it was held to the limits of the volume")
	errReserved = errors.New("the volume's reservations have changed while the request was held to the limits of the volume; the host should try again")
	errHeldMax  = errors.New("too much that this node has forwarded is held to the limits of volumes; the host should try again")
)

func (l *limited) init(m *meter) {
	l.limiter, l.guard = qos.New(clock.Boot{}), func() uint64 { return 0 }
	if v, ok := m.backing.(*sharedVolume); ok {
		l.limiter, l.guard = v.limiter, v.guard
	}
	l.goOn = func(what any, p qos.Pass) { m.passHeld(what.(*blockdev.Request), p) }
}

// limit has the volume keep to limits from now on.
func (l *limited) limit(to catalog.Limits) {
	l.limiter.Set(qos.Limits{Ops: to.IOPS, Bytes: to.BytesPerSecond, Burst: time.Duration(to.BurstSeconds) * time.Second})
}

// endLimits lets everything go on that is held, before the node stops.
func (d *Daemon) endLimits() {
	for _, v := range d.volumes.all() {
		if v.dev != nil {
			v.dev.limit(catalog.Limits{})
		}
	}
}

// moved is how much data a request moves, in bytes.
func moved(r *blockdev.Request) int64 {
	switch r.Op {
	case blockdev.OpRead, blockdev.OpWrite:
		return r.Length
	case blockdev.OpCompareAndWrite:
		return 2 * r.Length
	}
	return 0
}

func (m *meter) submitLimited(batch []*blockdev.Request) {
	for _, r := range batch {
		if r.Op == blockdev.OpFlush {
			m.pass(r, qos.Pass{})
			continue
		}
		if p, ok := m.limiter.Admit(qos.Request{What: r, Bytes: moved(r), Gone: r.Gone, Guard: m.guard(), Go: m.goOn}); ok {
			m.pass(r, p)
		}
	}
}

func (m *meter) pass(r *blockdev.Request, p qos.Pass) {
	c := m.begin(r)
	c.child.Since, c.counts = p.Since, p.Counts
	m.backing.Submit(c.alone[:])
}

// passHeld lets a request go on that was held. It was let pass by the reservations as
// they were then.
func (m *meter) passHeld(r *blockdev.Request, p qos.Pass) {
	var why error
	switch {
	case p.Gone:
		why = errHostGone
	case p.Guard != m.guard():
		why = errReserved
	default:
		m.pass(r, p)
		return
	}
	if p.Counts {
		m.limiter.Done(moved(r))
	}
	blockdev.Complete(r, blockdev.NewError(blockdev.ErrBusy, r, -1, why))
}

// Withdraw implements blockdev.Withdrawer: of what is held here, and of what the backing holds.
func (m *meter) Withdraw(r *blockdev.Request) bool {
	return m.limiter.Bounded() && m.limiter.Withdraw(r) || m.takeBack(r)
}

// What the owners on this node hold of one other node at most. It lies in the receive
// window of the connection to that node, 8 MiB and 1024 messages, which has to have room for
// everything else.
const (
	heldBytesMax    = 4 << 20
	heldMessagesMax = 256
)

// heldFor counts what is held of other nodes, by node.
type heldFor struct{ nodes sync.Map }

type heldOf struct{ messages, bytes atomic.Int64 }

// take counts a request in, if there is room for it.
func (h *heldFor) take(node string, bytes int64) bool {
	n, ok := h.nodes.Load(node)
	if !ok {
		n, _ = h.nodes.LoadOrStore(node, &heldOf{})
	}
	of := n.(*heldOf)
	messages, total := of.messages.Add(1), of.bytes.Add(bytes)
	if messages <= heldMessagesMax && total <= heldBytesMax {
		return true
	}
	h.give(node, bytes)
	return false
}

func (h *heldFor) give(node string, bytes int64) {
	n, _ := h.nodes.Load(node)
	of := n.(*heldOf)
	of.messages.Add(-1)
	of.bytes.Add(-bytes)
}

// Serve implements serve.Volume: a request that another node has forwarded is held
// behind those that came before it, of whichever node.
func (v *sharedVolume) Serve(in *message.Incoming) {
	if in.Request.Op == 0 || !v.limiter.Bounded() {
		v.Volume.Serve(in)
		return
	}
	held := &v.d.shared.Load().held
	if !held.take(in.From, int64(len(in.Request.Data))) {
		in.Answer = message.HostAnswer{Status: message.Failed, Kind: blockdev.ErrBusy, Off: in.Request.Off, Cause: errHeldMax.Error()}
		in.Done(in)
		return
	}
	r := blockdev.Request{Op: in.Request.Op, Length: in.Request.Len}
	if _, ok := v.limiter.Admit(qos.Request{What: in, Bytes: moved(&r), Forwarded: true, Go: v.goOn}); ok {
		v.serveNow(in)
	}
}

func (v *sharedVolume) serveNow(in *message.Incoming) {
	v.d.shared.Load().held.give(in.From, int64(len(in.Request.Data)))
	v.Volume.Serve(in)
}

// enforce has requests held to the limits on the owner's node, and on others only as
// many sent there at a time as it can hold.
func (v *sharedVolume) enforce(owned bool) {
	mode := qos.Windowed
	if owned {
		mode = qos.Metered
	}
	v.limiter.Enforce(mode)
}

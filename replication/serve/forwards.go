package serve

import (
	"sync"

	"blockd.dev/replication/wire"
)

// What is forwarded to a node has this much of the window of the connection, and no more.
const (
	forwardsBytes    = wire.DefaultWindowBytes / 4 * 3
	forwardsMessages = wire.DefaultWindowMessages / 4 * 3
)

// forwards are the hosts' requests that one node was sent and has not answered. They lie in its window of the connection until the
// owner there has done them, for which it may need answers of the replicas here, and these go
// through the same window: so requests never have all of it, but wait here. Here what has waited for too long is not sent any more
// (message.Forwarded.Stale), while what a connection has taken, and has no credit for, is sent whenever that comes. A nil one has room for everything.
type forwards struct {
	mu              sync.Mutex
	bytes, messages int
	waiting         []*call
	sending         bool // somebody sends what waits
}

// forwardsTo are those of a node.
func (t *Transport) forwardsTo(node string) *forwards {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.forwards[node]
	if f == nil {
		f = &forwards{}
		t.forwards[node] = f
	}
	return f
}

// enter tells whether c may be sent now, and counts it then. If not it is started when there is room.
func (f *forwards) enter(c *call) bool {
	if f == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) > 0 || !f.takeLocked(c) {
		f.waiting = append(f.waiting, c)
		return false
	}
	return true
}

// takeLocked counts c, if there is room for it.
func (f *forwards) takeLocked(c *call) bool {
	n := len(c.forwarded.Request.Data)
	if f.messages > 0 && (f.messages == forwardsMessages || f.bytes+n > forwardsBytes) {
		return false
	}
	f.messages++
	f.bytes += n
	return true
}

// leave counts c off, which has ended, and starts what waits and has room.
func (f *forwards) leave(c *call) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages--
	f.bytes -= len(c.forwarded.Request.Data)
	if f.sending {
		return // a call that could not be sent: who sends looks again
	}
	f.sending = true
	for len(f.waiting) > 0 && f.takeLocked(f.waiting[0]) {
		next := f.waiting[0]
		f.waiting[0] = nil
		f.waiting = f.waiting[1:]
		f.mu.Unlock()
		next.start(next.forwarded.Node, next.forwarded.Request.Data)
		f.mu.Lock()
	}
	f.sending = false
}

package nvmetcp

import (
	"cmp"
	"context"
	"slices"
	"time"

	"blockd.dev/target/nvme"
)

// An association ends as a whole when the target stops: with its first connection a host gives
// up the others too, and sends all that has no answer by another path. So none is closed before
// nothing of the association is under way, or what is could be done behind what the host sends then.
//
// Not waited for: what waits for an event, and what waits for its data, since it does not
// begin any more, whenever that comes.

// endLook is the time between two looks at what is under way.
const endLook = 5 * time.Millisecond

// endAssociations closes the connections, each association as soon as it can be, and what is
// left when ctx is done. The subsystem leaves.
func endAssociations(ctx context.Context, conns []*conn) error {
	left := map[*nvme.Controller][]*conn{}
	for _, c := range conns {
		q := c.connectedQueue()
		if q == nil {
			c.drop(errShutdown)
			continue
		}
		left[q.Controller()] = append(left[q.Controller()], c)
		if q.ID() != 0 {
			c.leaving.Store(true)
			c.unpark()
		}
	}
	t := time.NewTicker(endLook)
	defer t.Stop()
	for {
		for ctrl, all := range left {
			if !slices.ContainsFunc(all, (*conn).underWay) {
				endAssociation(all)
				delete(left, ctrl)
			}
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			for _, all := range left {
				endAssociation(all)
			}
			return ctx.Err()
		case <-t.C:
		}
	}
}

// endAssociation closes the connections of a controller, that of the admin queue last: the
// command set ends the others with it.
func endAssociation(all []*conn) {
	slices.SortFunc(all, func(a, b *conn) int { return cmp.Compare(b.queue.ID(), a.queue.ID()) })
	for _, c := range all {
		c.drop(errShutdown)
	}
}

// connectedQueue is the queue that the connection is; nil before it is one.
func (c *conn) connectedQueue() *nvme.Queue {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.connected {
		return nil
	}
	return c.queue
}

// underWay reports whether an I/O command of the connection is at work, or something is queued
// for the host. The subsystem leaves.
func (c *conn) underWay() bool {
	if c.queue.ID() != 0 {
		running, waiting := c.queue.Commands()
		if c.in.Within() {
			waiting++ // perhaps: what was turned away with its data on the way is in no list
		}
		// One that has just ended is in no list either, and has its struct until its answer is
		// queued. If it is overlooked, for the sake of one above, the host has no answer to
		// what is done.
		if running > 0 || c.pool.InUse() > waiting {
			return true
		}
	}
	return c.sock.QueuedBytes() > 0
}

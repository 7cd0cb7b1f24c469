package group

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// A leader whose process has ended takes its connections along, and its port refuses
// new ones. Its followers see that at once, where silence takes them a Heartbeat and
// more: so one of them stands for election then. It does so as one to whom leadership
// was handed over, since the others may not have noticed yet and would not
// vote against a leader that they think is there. Should it be wrong, there is one
// election too many, as Raft allows at any time; and each leader is mourned once.

const (
	// A process that ends closes one thing after the other: its port is looked at so often,
	// with twice as long in between each time, which is 0.8 s in all.
	portLooks, portLookAfter = 6, 25 * time.Millisecond
	// refusedWithin is how soon a port is known to refuse.
	refusedWithin = 200 * time.Millisecond
	// standAfter is how long a follower leaves to each of those before it, to be elected in:
	// of two who stand at once, none may get a majority.
	standAfter = 200 * time.Millisecond
)

// hungUp is called when a member has ended a connection of the library's, or its
// process has ended.
func (g *Group) hungUp(id string) {
	g.mu.Lock()
	dead := g.leader
	first := dead.ID == id && dead != g.mourned
	if first {
		g.mourned = dead
	}
	g.mu.Unlock()
	if first && g.begin() == nil {
		go func() {
			defer g.pending.Done()
			g.succeed(dead)
		}()
	}
}

// succeed stands for election in the place of a leader whose process has ended, when those
// before this node had the time to.
func (g *Group) succeed(dead Leader) {
	term := g.raft.CurrentTerm()
	if !g.refuses(dead.Address) {
		g.mu.Lock()
		g.mourned = Leader{} // it lives, and may yet end
		g.mu.Unlock()
		return
	}
	rank := g.rank(dead.ID)
	if rank < 0 {
		return
	}
	timer := time.NewTimer(time.Duration(rank) * standAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.ctx.Done():
		return
	}
	// A later term is an election that has reached this node: to stand as well would depose who wins it.
	if g.Leader().ID != dead.ID || g.raft.State() != raft.Follower || g.raft.CurrentTerm() != term {
		return
	}
	g.trans.inject(&raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax,
		ID: []byte(g.cfg.NodeID), Addr: g.trans.EncodePeer(raft.ServerID(g.cfg.NodeID), g.stream.addr)}})
}

// refuses reports whether nobody listens at an address of a machine that answers, or
// is about to.
func (g *Group) refuses(address string) bool {
	for look := range portLooks {
		if g.dialRefused(address) {
			return true
		}
		select {
		case <-time.After(portLookAfter << look):
		case <-g.ctx.Done():
			return false
		}
	}
	return false
}

func (g *Group) dialRefused(address string) bool {
	ctx, cancel := context.WithTimeout(g.ctx, refusedWithin)
	defer cancel()
	c, err := g.cfg.Dial(ctx, address)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// rank is the place of this node among the voters other than the dead one, -1 if it does not vote.
func (g *Group) rank(dead string) int {
	var heirs []string
	for _, s := range g.servers() {
		if s.Suffrage == raft.Voter && string(s.ID) != dead {
			heirs = append(heirs, string(s.ID))
		}
	}
	slices.Sort(heirs)
	return slices.Index(heirs, g.cfg.NodeID)
}

// watchedConn is a connection that a member has made for the library, and tells when that ends it.
type watchedConn struct {
	net.Conn
	ended func()
}

// Read implements net.Conn.
func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.ended()
	}
	return n, err
}

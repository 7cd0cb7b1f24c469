package group

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// The library tells followers what is committed with its next message: with the next
// entry, or after one to two times CommitTimeout. Whoever waits for an entry on a
// follower, such as a new owner for its lease, would wait for that. So the leader
// tells them itself as soon as it has applied something, by a message of the library's own
// kind without entries: all of the log up to an entry of this term, which
// the follower must have, is committed. One more of these changes nothing else.

// behindRetry is when a follower is told again that did not have the entry yet, since
// others were faster; each time after that it is twice as long, until the library tells it as well.
const behindRetry = 5 * time.Millisecond

// commits is what followers are told of.
type commits struct {
	wake chan struct{} // something was applied

	mu   sync.Mutex
	told map[raft.ServerID]uint64 // the last index
	busy map[raft.ServerID]bool   // are being told: one message at a time
}

func newCommits() *commits {
	return &commits{wake: make(chan struct{}, 1), told: map[raft.ServerID]uint64{}, busy: map[raft.ServerID]bool{}}
}

// applied is called on every member after each entry.
func (c *commits) applied() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// tellCommits has the followers told, whenever this node leads, until the group ends.
func (g *Group) tellCommits() {
	for {
		select {
		case <-g.commits.wake:
		case <-g.ctx.Done():
			return
		}
		if g.raft.State() != raft.Leader {
			continue
		}
		for _, s := range g.servers() {
			if string(s.ID) == g.cfg.NodeID || !g.commits.begin(s.ID) {
				continue
			}
			g.wg.Go(func() { // Close waits for it after it has closed the transport
				for index, term, ok := g.nextCommit(s.ID); ok; index, term, ok = g.nextCommit(s.ID) {
					g.tellCommit(s, index, term)
				}
			})
		}
	}
}

// begin reports whether nobody is telling a follower, and notes that the caller does.
func (c *commits) begin(id raft.ServerID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[id] {
		return false
	}
	c.busy[id] = true
	return true
}

// nextCommit is what a follower has not been told yet. When there is nothing, telling has
// ended: what is applied after that wakes tellCommits.
func (g *Group) nextCommit(id raft.ServerID) (index, term uint64, ok bool) {
	c := g.commits
	c.mu.Lock()
	defer c.mu.Unlock()
	index, term = g.machine.position()
	if c.told[id] == index || !g.leadsIn(term) {
		delete(c.busy, id)
		return 0, 0, false
	}
	c.told[id] = index
	return index, term, true
}

// leadsIn reports whether this node leads in term, as far as it knows. Of an entry of an
// earlier term the library tells by its first one of this term.
func (g *Group) leadsIn(term uint64) bool {
	return g.raft.State() == raft.Leader && g.raft.CurrentTerm() == term
}

// tellCommit tells a follower. One that can't be reached hears it from the library.
func (g *Group) tellCommit(s raft.Server, index, term uint64) {
	self := g.trans.EncodePeer(raft.ServerID(g.cfg.NodeID), g.stream.addr)
	news := raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(g.cfg.NodeID), Addr: self},
		Term:      term, PrevLogEntry: index, PrevLogTerm: term, LeaderCommitIndex: index,
	}
	end := time.Now().Add(g.cfg.commitTimeout())
	for wait := behindRetry; g.leadsIn(term) && time.Now().Before(end); wait *= 2 {
		var answer raft.AppendEntriesResponse
		if err := g.trans.NetworkTransport.AppendEntries(s.ID, s.Address, &news, &answer); err != nil || answer.Success {
			return
		}
		select {
		case <-time.After(wait):
		case <-g.ctx.Done():
			return
		}
	}
}

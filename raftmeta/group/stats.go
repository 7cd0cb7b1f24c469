package group

import (
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// Stats is how a member is doing, as far as it knows itself.
type Stats struct {
	Node        string
	State       string // leader, follower, candidate, stopped
	Term        uint64
	Leader      Leader
	Incarnation uint32
	Gate        uint32 // commands up to this version are in use
	Applied     uint64 // index of the last entry in this member's state
	Committed   uint64 // index of the last entry that it knows a majority has
	LastIndex   uint64 // of its log
	Snapshot    uint64 // index of its last snapshot
	Remembered  int    // requests that can be tried again
	Hashed      uint64 // index at which its state was hashed last
	Members     []MemberStats
	Err         error // why it has stopped
}

// MemberStats is a member as this one sees it.
type MemberStats struct {
	Member
	Voter bool
	// Heard and Applied are known to the leader alone: when the member
	// answered last, and what it had then. Zero is never.
	Heard   time.Time
	Applied uint64
}

// Stats returns the present figures. It does not block on the network or the disk.
func (g *Group) Stats() Stats {
	m := g.machine
	index, _ := m.position()
	s := Stats{
		Node: g.cfg.NodeID, Leader: g.Leader(), Incarnation: g.id.Incarnation, Gate: m.gate(),
		Applied: index, Term: g.raft.CurrentTerm(), Committed: g.raft.CommitIndex(), LastIndex: g.raft.LastIndex(),
		Err: g.Err(),
	}
	switch g.raft.State() {
	case raft.Leader:
		s.State = "leader"
	case raft.Follower:
		s.State = "follower"
	case raft.Candidate:
		s.State = "candidate"
	case raft.Shutdown:
		s.State = "stopped"
	}
	m.mu.Lock()
	s.Remembered = len(m.meta.Requests.List)
	m.mu.Unlock()
	g.marks.mu.Lock()
	s.Hashed = g.marks.index
	g.marks.mu.Unlock()
	s.Snapshot, _ = strconv.ParseUint(g.raft.Stats()["last_snapshot_index"], 10, 64)
	votes := map[string]bool{}
	for _, v := range g.servers() {
		votes[string(v.ID)] = v.Suffrage == raft.Voter
	}
	_, leads := g.Leads()
	for _, n := range m.members() {
		ms := MemberStats{Member: n, Voter: votes[n.ID]}
		if leads {
			if k, heard := g.contact.get(n.ID); heard {
				ms.Heard, ms.Applied = k.when, k.status.Applied
			}
		}
		s.Members = append(s.Members, ms)
	}
	return s
}

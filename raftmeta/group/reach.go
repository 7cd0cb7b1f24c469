package group

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A leader sends entries to a member that can't be reached again and again, and the library waits longer each
// time, up to 10 s: so late would the member have the next entry when it is back, and until then
// the group could not lose another. Heartbeats are tried at least five times a second. So what could not be sent
// is sent again when a heartbeat has got through, and the library does not hear of it.

// reached tells when heartbeats get through, by member.
type reached struct {
	mu   sync.Mutex
	next map[raft.ServerID]chan struct{} // closed by the next one
}

// again returns a channel that is closed when the next heartbeat has got through.
func (r *reached) again(id raft.ServerID) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		r.next = map[raft.ServerID]chan struct{}{}
	}
	if r.next[id] == nil {
		r.next[id] = make(chan struct{})
	}
	return r.next[id]
}

func (r *reached) note(id raft.ServerID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if next := r.next[id]; next != nil {
		close(next)
		delete(r.next, id)
	}
}

// isHeartbeat is what the library's own transport looks at, too.
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return len(req.Entries) == 0 && req.PrevLogEntry == 0 && req.PrevLogTerm == 0 && req.LeaderCommitIndex == 0
}

// AppendEntries is raft.Transport's, for the library. It returns an error for entries only when it is
// of no use to send them again.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, answer *raft.AppendEntriesResponse) error {
	if isHeartbeat(req) {
		t.beats.await(t.quit)
		err := t.NetworkTransport.AppendEntries(id, target, req, answer)
		if err == nil {
			t.reached.note(id)
		}
		return err
	}
	for {
		again := t.reached.again(id)
		err := t.NetworkTransport.AppendEntries(id, target, req, answer)
		if err == nil || !t.await(again, id, target, req.Term) {
			return err
		}
	}
}

// leadsLookEvery is how soon entries that wait for a member are given up when there is no reason to.
const leadsLookEvery = 50 * time.Millisecond

// await waits for again, as long as this node leads in term and has the member at that address.
func (t *transport) await(again <-chan struct{}, id raft.ServerID, target raft.ServerAddress, term uint64) bool {
	tick := time.NewTicker(leadsLookEvery)
	defer tick.Stop()
	for {
		r := t.running()
		if r == nil || r.State() != raft.Leader || r.CurrentTerm() != term {
			return false
		}
		f := r.GetConfiguration()
		if f.Error() != nil || !slices.ContainsFunc(f.Configuration().Servers, func(s raft.Server) bool { return s.ID == id && s.Address == target }) {
			return false
		}
		select {
		case <-again:
			return true
		case <-tick.C:
		case <-t.quit:
			return false
		}
	}
}

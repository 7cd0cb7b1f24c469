package group

import (
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// transport is the library's, less snapshots that come too late. When the sending
// of a snapshot takes too long, the leader begins anew, and the library takes
// the first one after the second and what followed it. It then empties the log, with
// entries that it has acknowledged and that are not in the snapshot; later it
// misses them and panics, and until then it may be elected without them. So a
// snapshot that has nothing new is answered here. One that has is alone on its
// way, since only its end tells what the next one has. And the library does not
// know its own snapshot as what entries follow: see skipApplied.
type transport struct {
	*raft.NetworkTransport
	running func() *raft.Raft // nil until there is one
	log     raft.LogStore
	out     chan raft.RPC
	quit    chan struct{}
	once    sync.Once
}

func newTransport(cfg *raft.NetworkTransportConfig, log raft.LogStore, running func() *raft.Raft) *transport {
	t := &transport{NetworkTransport: raft.NewNetworkTransportWithConfig(cfg), running: running, log: log,
		out: make(chan raft.RPC), quit: make(chan struct{})}
	go t.pass()
	return t
}

// Consumer is raft.Transport's.
func (t *transport) Consumer() <-chan raft.RPC { return t.out }

// Close is raft.WithClose's.
func (t *transport) Close() error {
	t.once.Do(func() { close(t.quit) })
	return t.NetworkTransport.Close()
}

// pass hands the requests of other members to Raft, until Close.
func (t *transport) pass() {
	last := make(chan struct{}) // closed when Raft has dealt with the last snapshot
	close(last)
	for {
		var rpc raft.RPC
		select {
		case rpc = <-t.NetworkTransport.Consumer():
		case <-t.quit:
			return
		}
		if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
			if t.answerEarly(rpc, req) {
				continue
			}
			select {
			case <-last: // it moves the log
			case <-t.quit:
				return
			}
			vouchForNoMore(req)
			t.skipApplied(req)
		}
		if req, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok {
			select {
			case <-last:
			case <-t.quit:
				return
			}
			if t.late(req) {
				go answerLate(rpc, req.Term)
				continue
			}
			last = make(chan struct{})
			rpc.RespChan = t.tell(rpc.RespChan, last)
		}
		select {
		case t.out <- rpc:
		case <-t.quit:
			return
		}
	}
}

// inject has Raft act on a request of this member's own.
func (t *transport) inject(request any) {
	select {
	case t.out <- raft.RPC{Command: request, RespChan: make(chan raft.RPCResponse, 1)}:
	case <-t.quit:
	}
}

// answerEarly answers who tells that an entry is committed (tellCommit) before this member
// has it. The library would refuse it as well, with a warning that somebody might read.
func (t *transport) answerEarly(rpc raft.RPC, req *raft.AppendEntriesRequest) bool {
	r := t.running()
	if r == nil || len(req.Entries) > 0 || req.LeaderCommitIndex != req.PrevLogEntry || req.PrevLogEntry <= r.LastIndex() || req.Term != r.CurrentTerm() {
		return false
	}
	rpc.Respond(&raft.AppendEntriesResponse{Term: req.Term, LastLog: r.LastIndex(), NoRetryBackoff: true}, nil)
	return true
}

// vouchForNoMore takes from what is committed the entries that the request says nothing of: this
// member may have others there, of a leader that was deposed, and the library would carry
// these out (Raft, figure 2: AppendEntries, step 5).
func vouchForNoMore(req *raft.AppendEntriesRequest) {
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, req.PrevLogEntry+uint64(len(req.Entries)))
}

// skipApplied makes of entries that follow one which was applied here, and is no longer in
// the log, entries that follow the last one applied. All of these are committed, so whoever
// leads has them. The library would look for the former in the log, and refuse, though
// it knows it to be in the last snapshot. The leader then sends its snapshot, is told that there
// is nothing new in it, and sends the entries after it, in turns for ever: which an answer
// that got lost was enough for, after a snapshot and the first entries that follow it.
func (t *transport) skipApplied(req *raft.AppendEntriesRequest) {
	r := t.running()
	if r == nil || req.PrevLogEntry == 0 {
		return
	}
	applied := r.AppliedIndex()
	if req.PrevLogEntry > applied {
		return
	}
	if first, err := t.log.FirstIndex(); err != nil || first > 0 && first <= req.PrevLogEntry {
		return
	}
	req.Entries = req.Entries[min(uint64(len(req.Entries)), applied-req.PrevLogEntry):]
	req.PrevLogEntry, req.PrevLogTerm = 0, 0 // there is nothing to compare
}

// late reports whether a snapshot of this term has nothing that was not applied.
func (t *transport) late(req *raft.InstallSnapshotRequest) bool {
	r := t.running()
	return r != nil && req.Term == r.CurrentTerm() && req.LastLogIndex <= r.AppliedIndex()
}

// answerLate says that the member has the snapshot.
func answerLate(rpc raft.RPC, term uint64) {
	_, _ = io.Copy(io.Discard, rpc.Reader) // what follows on the connection is the next request
	rpc.Respond(&raft.InstallSnapshotResponse{Term: term, Success: true}, nil)
}

// tell returns a channel whose one answer goes to the given one, and closes done then.
func (t *transport) tell(to chan<- raft.RPCResponse, done chan<- struct{}) chan<- raft.RPCResponse {
	answer := make(chan raft.RPCResponse, 1)
	go func() {
		defer close(done)
		select {
		case a := <-answer:
			to <- a // the library's has room for it
		case <-t.quit:
		}
	}()
	return answer
}

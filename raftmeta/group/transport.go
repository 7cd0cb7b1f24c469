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
// way, since only its end tells what the next one has.
type transport struct {
	*raft.NetworkTransport
	running func() *raft.Raft // nil until there is one
	out     chan raft.RPC
	quit    chan struct{}
	once    sync.Once
}

func newTransport(cfg *raft.NetworkTransportConfig, running func() *raft.Raft) *transport {
	t := &transport{NetworkTransport: raft.NewNetworkTransportWithConfig(cfg), running: running,
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
	last := make(chan struct{}) // closed when the last snapshot has been dealt with
	close(last)
	for {
		var rpc raft.RPC
		select {
		case rpc = <-t.NetworkTransport.Consumer():
		case <-t.quit:
			return
		}
		if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && t.answerEarly(rpc, req) {
			continue
		}
		if req, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok {
			select {
			case <-last:
			case <-t.quit:
				return
			}
			last = make(chan struct{})
			if t.late(req) {
				go answerLate(rpc, req.Term, last)
				continue
			}
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

// late reports whether a snapshot of this term has nothing that was not applied.
func (t *transport) late(req *raft.InstallSnapshotRequest) bool {
	r := t.running()
	return r != nil && req.Term == r.CurrentTerm() && req.LastLogIndex <= r.AppliedIndex()
}

// answerLate says that the member has the snapshot.
func answerLate(rpc raft.RPC, term uint64, done chan<- struct{}) {
	defer close(done)
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

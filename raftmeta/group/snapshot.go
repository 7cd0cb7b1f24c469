package group

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// A snapshot that a leader sends replaces the log (Raft, figure 13). Of that the library does
// less, and more, than is right:
//
//   - It takes one that has nothing new, and empties the log, with entries that it has
//     acknowledged; later it misses them and panics, and until then it may be elected without
//     them. Such one arrives when sending it took too long and the leader began anew, and when the
//     answers to entries got lost. So it is answered here: see has.
//   - After a log that is longer than the snapshot, of a leader that was deposed, it goes on
//     believing in the last entry, looks for those after the snapshot in the empty log, and refuses them:
//     for ever, or until the leader's next snapshot is beyond that entry. So the log is begun anew: see begin.
//   - A process that ends in the midst of it leaves snapshot and log as they are, and they don't
//     fit together: see dropReplaced.

// install has Raft install a snapshot, if there is anything new in it, and closes done when
// the next request may be dealt with.
func (t *transport) install(rpc raft.RPC, req *raft.InstallSnapshotRequest, done chan<- struct{}) {
	defer close(done)
	// The answer to a request of no term tells that Raft is through with those before, which may move the log.
	if _, ok := t.ask(raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: req.RPCHeader}}); !ok {
		return
	}
	r := t.running()
	switch {
	case r == nil || req.Term > r.CurrentTerm():
		go answerAfter(rpc, nil, fmt.Errorf("the leader of term %d has to be known here before its snapshot", req.Term)) // by a heartbeat
		return
	case req.Term == r.CurrentTerm() && t.has(r, req):
		go answerAfter(rpc, &raft.InstallSnapshotResponse{Term: req.Term, Success: true}, nil)
		return
	}
	a, ok := t.ask(rpc)
	if !ok {
		return
	}
	if m, _ := a.Response.(*raft.InstallSnapshotResponse); a.Error == nil && m != nil && m.Success && !t.begin(r, req) {
		return
	}
	rpc.Respond(a.Response, a.Error)
}

// has reports whether the snapshot of the leader has nothing that was not applied here, or is not in the
// log: the entries up to one that both have are the same.
func (t *transport) has(r *raft.Raft, req *raft.InstallSnapshotRequest) bool {
	if req.LastLogIndex <= r.AppliedIndex() {
		return true
	}
	var entry raft.Log
	return t.log.GetLog(req.LastLogIndex, &entry) == nil && entry.Term == req.LastLogTerm
}

// answerAfter answers who sends a snapshot that is not looked at.
func answerAfter(rpc raft.RPC, response any, err error) {
	_, _ = io.Copy(io.Discard, rpc.Reader) // what follows on the connection is the next request
	rpc.Respond(response, err)
}

// begin begins the log, which the library has emptied, with the last entry that a snapshot has. It is
// in the state, so nobody carries it out any more, and nobody is sent it, as what it follows is not there:
// only its index and term count. They become what the library believes the log to end with.
func (t *transport) begin(r *raft.Raft, req *raft.InstallSnapshotRequest) bool {
	t.log.instead.Store(req.LastLogIndex)
	defer t.log.instead.Store(0)
	for {
		term := r.CurrentTerm()
		a, ok := t.ask(raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: req.RPCHeader, Term: term,
			Entries: []*raft.Log{{Index: req.LastLogIndex, Term: req.LastLogTerm, Type: raft.LogNoop}}}})
		if !ok {
			return false
		}
		if m, _ := a.Response.(*raft.AppendEntriesResponse); m == nil || m.Term == term {
			return true // a disk that refuses it has stopped the member
		}
	}
}

// begun is a log that an entry which is not there any more can be replaced in: the library reads it first, and
// would give up.
type begun struct {
	store
	instead atomic.Uint64 // the index of the entry; 0 for none
}

// GetLog is raft.LogStore's.
func (b *begun) GetLog(index uint64, log *raft.Log) error {
	err := b.store.GetLog(index, log)
	if errors.Is(err, raft.ErrLogNotFound) && index == b.instead.Load() {
		*log = raft.Log{Index: index} // of term 0, as no entry is
		return nil
	}
	return err
}

// dropReplaced empties a log that does not have the last entry of the newest snapshot, though it goes that far
// back: a leader sent the snapshot, and the process ended before the log was emptied. Appended to, it
// would have a gap, or wrong entries before right ones.
func (s *storage) dropReplaced() error {
	list, err := s.snaps.List()
	if err != nil || len(list) == 0 {
		return err
	}
	newest := list[0]
	first, err := s.store.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.store.LastIndex()
	if err != nil || last == 0 || first > newest.Index {
		return err
	}
	if last >= newest.Index {
		var entry raft.Log
		if err := s.store.GetLog(newest.Index, &entry); err != nil || entry.Term == newest.Term {
			return nil // what is damaged is told by who needs it
		}
	}
	_, state, err := s.snaps.Open(newest.ID)
	if err != nil {
		return nil // it is damaged, and the one before it may need the log
	}
	return errors.Join(state.Close(), s.store.DeleteRange(first, last))
}

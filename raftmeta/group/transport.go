package group

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// transport is the library's, less what goes wrong in it when a snapshot arrives (snapshot.go).
// Requests of other members wait until Raft has dealt with a snapshot that came before them.
type transport struct {
	*raft.NetworkTransport
	running func() *raft.Raft // nil until there is one
	log     *begun
	out     chan raft.RPC
	reached reached
	beats   beats
	quit    chan struct{}
	once    sync.Once
}

// newTransport makes a transport that has one request under way to each member. The library's pipelines
// (of its version 1.8) look at a member's address without its lock when a send fails, just when a member that has moved gets
// another one, and may stop for good when a member refuses entries while more are to be sent; what they
// would gain is little where entries that come together travel together.
func newTransport(cfg *raft.NetworkTransportConfig, beat time.Duration, log *begun, running func() *raft.Raft) *transport {
	cfg.MaxRPCsInFlight = 1 // no pipelines
	t := &transport{NetworkTransport: raft.NewNetworkTransportWithConfig(cfg), running: running, log: log, beats: beats{every: beat, start: time.Now()},
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
		if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && t.answerEarly(rpc, req) {
			continue
		}
		select {
		case <-last: // it moves the log
		case <-t.quit:
			return
		}
		switch req := rpc.Command.(type) {
		case *raft.AppendEntriesRequest:
			vouchForNoMore(req)
			t.skipApplied(req)
		case *raft.InstallSnapshotRequest:
			last = make(chan struct{})
			go t.install(rpc, req, last)
			continue
		}
		if !t.hand(rpc) {
			return
		}
	}
}

// hand gives Raft a request. It returns false after Close.
func (t *transport) hand(rpc raft.RPC) bool {
	select {
	case t.out <- rpc:
		return true
	case <-t.quit:
		return false
	}
}

// inject has Raft act on a request of this member's own.
func (t *transport) inject(request any) {
	t.hand(raft.RPC{Command: request, RespChan: make(chan raft.RPCResponse, 1)})
}

// ask is inject, and waits for the answer. It returns false after Close.
func (t *transport) ask(rpc raft.RPC) (raft.RPCResponse, bool) {
	answer := make(chan raft.RPCResponse, 1)
	rpc.RespChan = answer
	if !t.hand(rpc) {
		return raft.RPCResponse{}, false
	}
	select {
	case a := <-answer:
		return a, true
	case <-t.quit:
		return raft.RPCResponse{}, false
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

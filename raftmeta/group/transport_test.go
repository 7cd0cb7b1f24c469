package group

import (
	"fmt"
	"io"
	"testing"

	"github.com/hashicorp/raft"
)

// A snapshot that arrives again, after entries that followed it, takes none of
// them away.
func TestLateSnapshotTakesNothingAway(t *testing.T) {
	c := start(t, 3, func(cfg *Config) { steady(cfg); cfg.TrailingLogs = 1 })
	leader, follower := c.leader(), c.followers()[0]
	names := []string{"a", "b", "c"}
	for _, name := range names {
		c.apply(leader, name)
	}
	if err := leader.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	list, err := leader.storage.snaps.List()
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	for _, name := range []string{"d", "e", "f"} {
		names = append(names, name)
		c.apply(leader, name)
	}
	c.agree(names...)

	meta, data, err := leader.storage.snaps.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	local := leader.trans.LocalAddr()
	var answer raft.InstallSnapshotResponse
	err = leader.trans.InstallSnapshot(raft.ServerID(follower.id), raftAddress(follower.id, follower.cfg.Address), &raft.InstallSnapshotRequest{
		RPCHeader:       raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader.id), Addr: []byte(local)},
		SnapshotVersion: meta.Version, Term: leader.raft.CurrentTerm(), Leader: []byte(local),
		LastLogIndex: meta.Index, LastLogTerm: meta.Term, Size: meta.Size,
		Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
	}, &answer, io.LimitReader(data, meta.Size))
	if err != nil || !answer.Success {
		t.Fatalf("%+v, %v", answer, err)
	}
	var entry raft.Log
	if err := follower.storage.store.GetLog(meta.Index+1, &entry); err != nil {
		t.Errorf("entry %d, which follows the snapshot: %v", meta.Index+1, err)
	}
	names = append(names, "g")
	c.apply(leader, "g")
	c.agree(names...)
}

// Entries that follow a snapshot are taken, also when the member has them, and
// the snapshot, already: the answer may have got lost. The library's own log has nothing then that
// they could follow.
func TestEntriesAfterASnapshotComeAgain(t *testing.T) {
	c, lagging, names := startWithOneBehind(t)
	lagging.mustOpen()
	lagging.await("a snapshot", func(e Event) bool { return e.Kind == EventRestored })
	c.agree(names...)
	first, err := lagging.storage.store.FirstIndex()
	if err != nil || first < 30 {
		t.Fatalf("the log begins at %d (%v), before the snapshot", first, err)
	}
	for prev := first - 1; prev > first-4; prev-- {
		c.until(fmt.Sprint("a leader sends what follows entry ", prev), func() bool { return c.sendAgain(lagging, prev, first) })
	}
	names = append(names, "after")
	c.apply(c.leader(), "after")
	c.agree(names...)
}

// sendAgain sends a member the entries after prev up to last, as the leader does, which may
// have compacted its log up to the snapshot. It returns false when there is no leader for now.
func (c *cluster) sendAgain(to *node, prev, last uint64) bool {
	c.t.Helper()
	leader := c.leading()
	if leader == nil {
		return false
	}
	req := raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader.id), Addr: []byte(leader.trans.LocalAddr())},
		Term:      leader.raft.CurrentTerm(), PrevLogEntry: prev, PrevLogTerm: 1, LeaderCommitIndex: leader.raft.CommitIndex(),
	}
	for i := prev + 1; i <= last; i++ {
		entry := &raft.Log{Index: i, Term: 1, Type: raft.LogNoop} // what it is does not matter before the snapshot
		if err := leader.storage.store.GetLog(i, entry); err != nil && i > to.raft.AppliedIndex() {
			c.t.Fatal(err)
		}
		req.Entries = append(req.Entries, entry)
	}
	var answer raft.AppendEntriesResponse
	if err := leader.trans.NetworkTransport.AppendEntries(raft.ServerID(to.id), raftAddress(to.id, to.cfg.Address), &req, &answer); err != nil || answer.Term > req.Term {
		return false
	}
	if !answer.Success {
		c.t.Fatalf("the entries %d to %d are refused: %+v", prev+1, last, answer)
	}
	return true
}

// A leader vouches for no entries but those that it sends, and what they follow.
func TestOnlyWhatWasComparedIsCommitted(t *testing.T) {
	entry := &raft.Log{}
	for _, d := range []struct{ prev, entries, commits, want uint64 }{
		{7, 0, 9, 7}, {7, 0, 7, 7}, {7, 0, 3, 3}, {7, 2, 20, 9}, {7, 2, 8, 8}, {0, 2, 20, 2}, {0, 0, 0, 0},
	} {
		req := raft.AppendEntriesRequest{PrevLogEntry: d.prev, LeaderCommitIndex: d.commits}
		for range d.entries {
			req.Entries = append(req.Entries, entry)
		}
		if vouchForNoMore(&req); req.LeaderCommitIndex != d.want {
			t.Errorf("%+v: up to %d", d, req.LeaderCommitIndex)
		}
	}
}

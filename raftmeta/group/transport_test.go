package group

import (
	"io"
	"testing"

	"github.com/hashicorp/raft"
)

// A snapshot that arrives again, after entries that followed it, takes none of
// them away.
func TestLateSnapshotTakesNothingAway(t *testing.T) {
	c := start(t, 3, func(cfg *Config) { cfg.TrailingLogs = 1 })
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
	var address raft.ServerAddress
	for _, s := range meta.Configuration.Servers {
		if string(s.ID) == follower.id {
			address = s.Address
		}
	}
	local := leader.trans.LocalAddr()
	var answer raft.InstallSnapshotResponse
	err = leader.trans.InstallSnapshot(raft.ServerID(follower.id), address, &raft.InstallSnapshotRequest{
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

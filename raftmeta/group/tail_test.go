package group

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// withTail makes a group of three whose former leader is cut off, and has more entries that were never
// committed than the others have committed since; these have a snapshot, and no entries
// before it. It returns the former leader, and the commands that have been acknowledged.
func withTail(t *testing.T) (c *cluster, former *node, acknowledged []string) {
	t.Helper()
	c = start(t, 3, func(cfg *Config) { cfg.TrailingLogs, cfg.segmentBytes = 1, 4096 })
	ctx, cancel := context.WithCancel(c.ctx())
	t.Cleanup(cancel)
	const tail = 200
	try := 0
	c.until("a leader has entries of its own", func() bool {
		try++
		leader := c.leader()
		c.agree()
		from := leader.raft.LastIndex()
		c.wires.isolate(c.ids(), leader.id)
		for i := range tail {
			name := fmt.Append(nil, "alone", try, "-", i)
			go func() { _, _ = leader.Apply(ctx, Command{Version: 1, Data: name}) }()
		}
		for leader.raft.LastIndex() < from+tail {
			if _, leads := leader.Leads(); !leads { // it has found out too early
				c.wires.heal()
				return false
			}
		}
		former = leader
		return true
	})
	c.until("another leads", func() bool { l := c.leading(); return l != nil && l != former })
	for i := range 60 {
		acknowledged = append(acknowledged, fmt.Sprint("x", i))
		c.apply(c.leading(), acknowledged[i])
	}
	for _, n := range c.nodes {
		if n == former {
			continue
		}
		if err := n.Barrier(c.ctx()); err != nil {
			t.Fatal(err)
		}
		if err := n.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		// Entries before it may still be there for as long as their segment is.
		if first, _ := n.storage.wal.FirstIndex(); first < 40 || n.raft.LastIndex() >= former.raft.LastIndex() {
			t.Fatalf("%s: the log has the entries %d to %d, and the former leader's ends at %d", n.id, first, n.raft.LastIndex(), former.raft.LastIndex())
		}
	}
	cancel()
	return c, former, acknowledged
}

// A snapshot replaces a log that is longer, with entries of a leader that was deposed. The
// member then follows, and a command is not missed.
func TestSnapshotReplacesALongerLog(t *testing.T) {
	c, former, names := withTail(t)
	c.wires.heal()
	former.await("a snapshot", func(e Event) bool { return e.Kind == EventRestored })
	names = append(names, "after")
	c.apply(c.leader(), "after")
	c.agree(names...)
	former.restart()
	c.agree(names...)
}

// A process that ends while it installs a snapshot leaves the log as it was before. It starts again, and
// follows, be the log too short for the snapshot, or longer and of a leader that was deposed.
func TestSnapshotIsInstalledUpToTheEnd(t *testing.T) {
	t.Run("longer", func(t *testing.T) {
		c, former, names := withTail(t)
		former.stop()
		giveSnapshot(t, c.leader(), former)
		c.wires.heal()
		former.mustOpen()
		names = append(names, "after")
		c.apply(c.leader(), "after")
		c.agree(names...)
	})
	t.Run("shorter", func(t *testing.T) {
		c, lagging, names := startWithOneBehind(t)
		giveSnapshot(t, c.leader(), lagging)
		lagging.mustOpen()
		names = append(names, "after")
		c.apply(c.leader(), "after")
		c.agree(names...)
	})
}

// giveSnapshot copies the newest snapshot of a member to one that is not open.
func giveSnapshot(t *testing.T, from, to *node) {
	t.Helper()
	list, err := from.storage.snaps.List()
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	if err := os.CopyFS(filepath.Join(to.cfg.Dir, "snapshots", list[0].ID), os.DirFS(filepath.Join(from.cfg.Dir, "snapshots", list[0].ID))); err != nil {
		t.Fatal(err)
	}
}

// A member that has acknowledged entries after a snapshot still has them when the snapshot arrives
// late, also if it has not been told yet which are committed: nobody else might have them.
func TestSnapshotTakesNoAcknowledgedEntries(t *testing.T) {
	c := start(t, 3, func(cfg *Config) { cfg.TrailingLogs = 1 })
	leader := c.leader()
	for i := range 5 {
		c.apply(leader, fmt.Sprint("before", i))
	}
	if err := leader.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	names := []string{"a", "b", "c"}
	for _, name := range names {
		c.apply(leader, name)
	}
	c.agree(names...)
	member := c.followers()[0]
	list, err := leader.storage.snaps.List()
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	meta, data, err := leader.storage.snaps.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()

	// It starts again, alone: nothing is applied, as nobody tells it what is committed.
	for _, n := range c.nodes {
		n.stop()
	}
	member.mustOpen()
	last := member.raft.LastIndex()
	if member.raft.AppliedIndex() >= meta.Index || last < meta.Index+3 {
		t.Fatalf("%d of %d entries are applied, and the snapshot has %d", member.raft.AppliedIndex(), last, meta.Index)
	}
	local := []byte(raftAddress(leader.id, leader.cfg.Address))
	answers, done := make(chan raft.RPCResponse, 1), make(chan struct{})
	req := &raft.InstallSnapshotRequest{
		RPCHeader:       raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader.id), Addr: local},
		SnapshotVersion: meta.Version, Term: member.raft.CurrentTerm(), Leader: local,
		LastLogIndex: meta.Index, LastLogTerm: meta.Term, Size: meta.Size,
		Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
	}
	member.trans.install(raft.RPC{Command: req, Reader: io.LimitReader(data, meta.Size), RespChan: answers}, req, done)
	answer := <-answers
	if m, _ := answer.Response.(*raft.InstallSnapshotResponse); answer.Error != nil || m == nil || !m.Success {
		t.Fatalf("the snapshot is refused: %+v", answer)
	}
	for i := meta.Index + 1; i <= last; i++ {
		var entry raft.Log
		if err := member.storage.store.GetLog(i, &entry); err != nil {
			t.Errorf("entry %d of %d, after the snapshot's %d: %v", i, last, meta.Index, err)
		}
	}
	for _, n := range c.nodes {
		if n != member && n.id != leader.id {
			n.mustOpen()
		}
	}
	c.agree(append(names, "before0")...)
}

// Answers get lost, of snapshots and of entries, while members take snapshots, are cut off, and
// others lead: all of them follow once the wires are whole.
func TestAnswersGetLost(t *testing.T) {
	seed := rand.Uint64()
	defer func() { t.Log("seed", seed) }()
	dice := rand.New(rand.NewPCG(seed, 1))
	c := start(t, 3, func(cfg *Config) { cfg.TrailingLogs, cfg.segmentBytes = 1, 4096 })
	l := c.load(4, c.groups()...)
	c.wires.lose(0.02)
	for range 6 {
		cut := c.nodes[c.ids()[dice.IntN(3)]]
		c.wires.isolate(c.ids(), cut.id)
		for range 3 {
			l.more(20 + dice.IntN(40))
			for _, n := range c.nodes {
				if n != cut {
					_ = n.raft.Snapshot().Error() // it may have nothing new
				}
			}
		}
		c.wires.heal()
		l.more(1 + dice.IntN(40))
	}
	c.wires.lose(0)
	names := append(l.stop(), "after")
	c.apply(c.leader(), "after")
	c.agree(names...)
}

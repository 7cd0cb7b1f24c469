package group

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// A backup restores into a new group that has everything, and in which no
// member of the old one takes part.
func TestBackupAndRestore(t *testing.T) {
	c := start(t, 3, nil)
	id := NewRequestID()
	if _, err := c.nodes["n2"].Apply(c.ctx(), Command{Version: 1, Request: id, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	h, err := c.followers()[0].Backup(c.ctx(), &file, time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if h.Incarnation != 1 || h.Cluster != "test" || h.Index == 0 {
		t.Errorf("%+v", h)
	}
	c.apply(c.nodes["n1"], "lost")
	old := c.nodes["n3"]
	c.nodes["n1"].stop()
	c.nodes["n2"].stop()

	kept := newLedger()
	if r, err := ReadBackupFSM(bytes.NewReader(file.Bytes())); err != nil || kept.Restore(r) != nil || kept.counts()["x"] != 1 {
		t.Errorf("what the machine has in it: %v, %v", kept.counts(), err)
	}
	n := c.nodes["n1"]
	n.cfg.Dir = t.TempDir()
	n.cfg.FSM = newLedger()
	if _, err := Restore(n.cfg, bytes.NewReader(file.Bytes())); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(n.cfg, bytes.NewReader(file.Bytes())); err == nil {
		t.Error("restored over a member")
	}
	n.cfg.Bootstrap = false
	n.mustOpen()
	c.apply(n, "new")
	if n.Incarnation() != 2 {
		t.Errorf("incarnation %d", n.Incarnation())
	}
	again, err := n.Apply(c.ctx(), Command{Version: 1, Request: id, Data: []byte("x")})
	if err != nil || again.Index > h.Index {
		t.Errorf("the request was forgotten: %+v, %v", again, err)
	}
	if counts := n.ledger.counts(); counts["x"] != 1 || counts["lost"] != 0 || counts["first"] != 1 {
		t.Errorf("%v", counts)
	}
	if err := old.Join(c.ctx(), map[string]string{"n1": n.cfg.Address}); !errors.Is(err, ErrIncarnation) {
		t.Errorf("a member of the old group mixes in: %v", err)
	}
	// Wiped, it joins.
	old.stop()
	old.cfg.Dir, old.cfg.Incarnation = t.TempDir(), 2
	old.mustOpen()
	if err := old.Join(c.ctx(), map[string]string{"n1": n.cfg.Address}); err != nil {
		t.Fatal(err)
	}
	c.agree("x", "new")
}

// Every damage to a backup is noticed before anything is made of it.
func TestDamagedBackupIsRefused(t *testing.T) {
	c := start(t, 1, nil)
	var file bytes.Buffer
	if _, err := c.nodes["n1"].Backup(c.ctx(), &file, time.Now()); err != nil {
		t.Fatal(err)
	}
	b := file.Bytes()
	if _, err := VerifyBackup(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x10
		if _, err := VerifyBackup(bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d changed, and it is fine", i)
		}
		if _, err := VerifyBackup(bytes.NewReader(b[:i])); !errors.Is(err, ErrBackup) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
	cfg := Config{Dir: t.TempDir(), Cluster: "other", NodeID: "n1", Address: "a:1", FSM: newLedger()}
	if _, err := Restore(cfg, bytes.NewReader(b)); !errors.Is(err, ErrBackup) {
		t.Errorf("restored into another cluster: %v", err)
	}
}

// Two of three voters are lost: the third goes on alone, with all that was
// acknowledged, in a new incarnation.
func TestRecoverFromALostMajority(t *testing.T) {
	c := start(t, 3, nil)
	c.apply(c.leader(), "x")
	for _, n := range c.nodes {
		if err := n.Barrier(c.ctx()); err != nil {
			t.Fatal(err)
		}
	}
	left := c.followers()[0]
	for _, n := range c.nodes {
		n.stop()
	}
	cfg := left.cfg
	cfg.FSM = newLedger()
	if err := Recover(cfg); err != nil {
		t.Fatal(err)
	}
	left.mustOpen()
	c.apply(left, "y")
	c.agree("first", "x", "y")
	if left.Incarnation() != 2 || len(left.Stats().Members) != 1 {
		t.Errorf("%+v", left.Stats())
	}
	for _, n := range c.nodes {
		if n == left {
			continue
		}
		n.mustOpen() // a lost one turns up after all
		if err := n.Join(c.ctx(), map[string]string{left.id: left.cfg.Address}); !errors.Is(err, ErrIncarnation) {
			t.Errorf("%s mixes in: %v", n.id, err)
		}
		e := n.await("it stops by itself", func(e Event) bool { return e.Kind == EventHalted })
		if !errors.Is(e.Err, ErrIncarnation) {
			t.Errorf("%s stopped because of %v", n.id, e.Err)
		}
		n.stop()
	}
	left.restart()
	c.agree("first", "x", "y")
	if err := Recover(Config{Dir: t.TempDir(), Cluster: "test", NodeID: "n1", Address: "a:1", FSM: newLedger()}); err == nil {
		t.Error("recovered nothing")
	}
}

// failing is a disk that has failed, as soon as it is told to.
type failing struct {
	store
	log, stable atomic.Pointer[error]
}

func (f *failing) StoreLogs(l []*raft.Log) error {
	if err := f.log.Load(); err != nil {
		return *err
	}
	return f.store.StoreLogs(l)
}

func (f *failing) StoreLog(l *raft.Log) error { return f.StoreLogs([]*raft.Log{l}) }

func (f *failing) SetUint64(k []byte, v uint64) error {
	if err := f.stable.Load(); err != nil {
		return *err
	}
	return f.store.SetUint64(k, v)
}

func failDisks(cfg *Config, disks map[string]*failing) {
	id := cfg.NodeID
	cfg.wrapStore = func(s store) store {
		disks[id] = &failing{store: s}
		return disks[id]
	}
}

// The leader's disk is full: it stops and says why, nothing is lost, and
// another leads. With room again, it comes back.
func TestLeadersDiskIsFull(t *testing.T) {
	disks := map[string]*failing{}
	c := start(t, 3, func(cfg *Config) { failDisks(cfg, disks) })
	full := c.leader()
	l := c.load(3, c.groups()...)
	l.more(30)
	err := error(unix.ENOSPC)
	disks[full.id].log.Store(&err)
	e := full.await("it stops", func(e Event) bool { return e.Kind == EventHalted })
	if !errors.Is(e.Err, ErrStorage) || !errors.Is(e.Err, unix.ENOSPC) {
		t.Errorf("it stopped because of %v", e.Err)
	}
	if _, err := full.Verify(c.ctx()); err == nil {
		t.Error("it still proves that it leads")
	}
	l.more(30)
	full.restart()
	l.more(30)
	c.agree(l.stop()...)
}

// A follower's disk fails where the library would panic: writing a new term.
func TestFollowersDiskFailsAtTheVote(t *testing.T) {
	disks := map[string]*failing{}
	c := start(t, 3, func(cfg *Config) { failDisks(cfg, disks) })
	bad := c.followers()[0]
	err := error(unix.EIO)
	disks[bad.id].stable.Store(&err)
	c.until("an election", func() bool {
		// It may fail, since only two voters work; its vote is asked for all the same.
		if l := c.leading(); l != nil {
			_ = l.TransferLeadership(c.ctx(), "")
		}
		return bad.Err() != nil
	})
	e := bad.await("it stops", func(e Event) bool { return e.Kind == EventHalted })
	if !errors.Is(e.Err, ErrStorage) || !errors.Is(e.Err, unix.EIO) {
		t.Errorf("it stopped because of %v", e.Err)
	}
	c.apply(c.leader(), "x")
	bad.restart()
	c.agree("x")
}

// A node alone whose disk fails answers nothing any more.
func TestLoneDiskFails(t *testing.T) {
	disks := map[string]*failing{}
	c := start(t, 1, func(cfg *Config) { failDisks(cfg, disks) })
	n := c.nodes["n1"]
	err := error(unix.EIO)
	disks["n1"].log.Store(&err)
	if _, err := n.Apply(c.ctx(), Command{Version: 1, Data: []byte("x")}); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("%v", err)
	}
	<-n.Done()
	if err := n.Barrier(context.Background()); !errors.Is(err, ErrStorage) {
		t.Errorf("it still reads: %v", err)
	}
	n.restart()
	c.apply(n, "y")
}

// A follower drops entries that a new leader doesn't have, and reads its log
// again after a restart. (raft-wal 0.4.0 could not: it needs 0.4.1.)
func TestLogSurvivesTruncation(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}.withDefaults()
	s, err := openStorage(&cfg, libraryLogger(cfg.Events))
	if err != nil {
		t.Fatal(err)
	}
	put := func(from, to, term uint64) {
		t.Helper()
		for i := from; i <= to; i++ {
			if err := s.store.StoreLog(&raft.Log{Index: i, Term: term}); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(1, 10, 1)
	if err := s.store.DeleteRange(8, 10); err != nil {
		t.Fatal(err)
	}
	put(8, 12, 2)
	s.close()
	if s, err = openStorage(&cfg, libraryLogger(cfg.Events)); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for i := uint64(1); i <= 12; i++ {
		var l raft.Log
		if err := s.store.GetLog(i, &l); err != nil || (l.Term == 2) != (i >= 8) {
			t.Errorf("entry %d: term %d, %v", i, l.Term, err)
		}
	}
}

package serve

import (
	"bytes"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/faulty"
	"blockd.dev/blockdev/disk/sim"
	"blockd.dev/blockdev/store"
	"blockd.dev/internal/turn"
	"blockd.dev/replication/message"
	"blockd.dev/replication/replica"
)

// host is a service on one disk, and an owner that asks it one thing at a time.
type host struct {
	*testing.T
	d       *sim.Sim
	st      *store.Store
	svc     *Service
	known   bool
	starts  uint64
	machine store.Boot
	boot    uint64 // of the replica, as it was told
	id      uint64
	epoch   uint64
	session uint64
}

var target = message.Target{Volume: [16]byte{3}, Disk: 4}

func newHost(t *testing.T) *host {
	h := &host{T: t, d: sim.New(128<<20, sim.Options{NoTrace: true}), known: true, machine: store.Boot{1}}
	if err := store.Format(h.d, store.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	h.start()
	t.Cleanup(func() {
		h.svc.Close()
		h.st.Close()
	})
	return h
}

func (h *host) start() {
	h.starts++
	var err error
	if h.st, err = store.Open(h.d, store.Options{Boot: h.machine}); err != nil {
		h.Fatal(err)
	}
	h.svc, err = New(Config{
		Boot: h.starts, Known: func([16]byte, uint16) bool { return h.known },
		Disks: func(d uint16) *store.Store {
			if d != target.Disk {
				return nil
			}
			return h.st
		},
		Volume: func([16]byte) Volume { return nil },
		Anew:   50 * time.Millisecond,
	})
	if err != nil {
		h.Fatal(err)
	}
}

func (h *host) restart() {
	h.svc.Close()
	if err := h.st.Close(); err != nil {
		h.Fatal(err)
	}
	h.start()
}

// ask sends a request, and returns when it was answered.
func (h *host) ask(q replica.Request) *message.Sent {
	h.Helper()
	h.id++
	q.ID, q.Oldest, q.Epoch, q.Session, q.Boot = h.id, h.id, h.epoch, h.session, h.boot
	ended := make(chan struct{})
	m := &message.Sent{Target: target, Request: q, Done: func(*message.Sent) { close(ended) }}
	h.svc.Local(m)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		h.Fatalf("a request of kind %d was not answered", q.Kind)
	}
	return m
}

// fence begins a session.
func (h *host) fence(epoch, session uint64) replica.Response {
	h.Helper()
	h.epoch, h.session = epoch, session
	m := h.ask(replica.Request{Kind: replica.Fence})
	h.boot = m.Response.Boot
	return m.Response
}

func (h *host) want(what string, m *message.Sent, status replica.Status) {
	h.Helper()
	if m.Lost || m.Response.Status != status {
		h.Errorf("%s: lost %v, status %d, want %d", what, m.Lost, m.Response.Status, status)
	}
}

// What a replica has acknowledged is there after a restart: data, versions, the
// epoch, the tail, the watermark.
func TestReplicaSurvivesRestart(t *testing.T) {
	h := newHost(t)
	if got := h.fence(7, 1); got.Status != replica.OK || len(got.Tail) != 0 || got.Last != 0 {
		t.Fatalf("the first fence of a volume: %+v", got)
	}
	data := bytes.Repeat([]byte("data"), 2048)
	write := replica.Request{Kind: replica.Write, Off: 4096, Len: 8192, Data: data, Ver: replica.Version{Epoch: 7, Seq: 1}}
	h.want("write", h.ask(write), replica.OK)
	write.Off, write.Ver.Seq, write.Stable = 1<<20, 2, 1
	h.want("second write", h.ask(write), replica.OK)
	h.want("clear", h.ask(replica.Request{Kind: replica.Clear, Off: 8192, Len: 4096, Ver: replica.Version{Epoch: 7, Seq: 3}}), replica.OK)

	h.restart()
	h.want("in a session from before the restart", h.ask(replica.Request{Kind: replica.Read, Len: 4096}), replica.OldSession)
	if got := h.fence(6, 9); got.Status != replica.OldEpoch || got.Epoch != 7 {
		t.Errorf("an older owner is told %+v", got)
	}
	got := h.fence(8, 1)
	if got.Status != replica.OK || got.Stable != 1 || got.Last != 3 || len(got.Tail) != 2 ||
		got.Tail[0] != (replica.Entry{Ver: replica.Version{Epoch: 7, Seq: 2}, Off: 1 << 20, Len: 8192}) ||
		got.Tail[1] != (replica.Entry{Ver: replica.Version{Epoch: 7, Seq: 3}, Off: 8192, Len: 4096}) {
		t.Errorf("after the restart: %+v", got)
	}
	m := h.ask(replica.Request{Kind: replica.Read, Off: 4096, Len: 8192})
	h.want("read", m, replica.OK)
	if r := m.Response; !bytes.Equal(r.Data, append(bytes.Clone(data[:4096]), make([]byte, 4096)...)) || len(r.Vers) != 1 || r.Vers[0].Seq != 3 {
		t.Errorf("read %d bytes of versions %v, want the first write with a hole", len(r.Data), r.Vers)
	}
	m.Release()
}

// A replica of a machine that went down is unproven until it is vouched for, which is
// as durable as the watermark that comes with it.
func TestUnprovenUntilVouchedFor(t *testing.T) {
	h := newHost(t)
	h.fence(7, 1)
	h.want("write", h.ask(replica.Request{Kind: replica.Write, Len: 4096, Data: make([]byte, 4096), Ver: replica.Version{Epoch: 7, Seq: 1}}), replica.OK)
	state := func() replica.State {
		h.fence(7, h.session+1) // which opens it
		st, err := h.st.ReplicaState(h.svc.replicas[target].vol)
		if err != nil {
			t.Fatal(err)
		}
		return stateOf(st)
	}
	down := func() {
		h.svc.Close() // and not the store
		h.machine[0]++
		h.start()
	}
	if state().Unproven {
		t.Error("a new replica is unproven")
	}
	down()
	if !state().Unproven {
		t.Error("the machine went down, and nothing is in doubt")
	}
	h.restart()
	if !state().Unproven {
		t.Error("a restart has vouched for the replica")
	}
	done := make(chan error, 1)
	o := newStoreOp(h.svc.replicas[target], &replica.Op{Kind: replica.OpVouch, Stable: 5})
	o.Done = func(op *store.Op) { done <- op.Err }
	h.st.Submit([]*store.Op{&o.Op})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := state(); got.Unproven || got.Stable != 5 {
		t.Errorf("vouched for: %+v", got)
	}
	h.restart()
	if got := state(); got.Unproven || got.Stable != 5 {
		t.Errorf("vouched for, and started again: %+v", got)
	}
}

// Beginning a rebuild takes the versions of the regions in the tail away, however
// many they are.
func TestBeginVoidsTheTail(t *testing.T) {
	h := newHost(t)
	h.fence(1, 1)
	for seq := range uint64(3) {
		h.want("write", h.ask(replica.Request{
			Kind: replica.Write, Off: int64(seq) << 16, Len: 4096, Data: make([]byte, 4096), Ver: replica.Version{Epoch: 1, Seq: seq + 1},
		}), replica.OK)
	}
	h.want("begin", h.ask(replica.Request{Kind: replica.Begin, Gen: 2}), replica.OK)
	m := h.ask(replica.Request{Kind: replica.Versions, Len: 4 << 16})
	h.want("versions", m, replica.OK)
	none := replica.NoVersion
	if v := m.Response.Vers; len(v) != 4 || v[0] != none || v[1] != none || v[2] != none || v[3] != (replica.Version{}) {
		t.Errorf("versions %v, want none for three regions and zero for one that nobody wrote", v)
	}

	// More than a note holds go in rounds.
	op := &replica.Op{Kind: replica.OpBegin}
	for i := range int64(store.VoidMax + 1) {
		op.Void = append(op.Void, i<<16)
	}
	o := newStoreOp(h.svc.replicas[target], op)
	if len(o.note.Void) != store.VoidMax || o.note.Forget {
		t.Errorf("the first round voids %d regions and forgets %v, want %d, and the tail is kept", len(o.note.Void), o.note.Forget, store.VoidMax)
	}
	if !o.again() || len(o.note.Void) != 1 || !o.note.Forget || o.again() {
		t.Errorf("the last round voids %d regions and forgets %v, want one and the tail", len(o.note.Void), o.note.Forget)
	}
}

// What the cluster does not know, or not yet, is no failure of a disk.
func TestUnknownVolumesAreRefused(t *testing.T) {
	h := newHost(t)
	h.known = false
	if got := h.fence(1, 1); got.Status != replica.OldSession {
		t.Errorf("an unknown volume: %+v", got)
	}
	if n := len(h.st.Volumes()); n != 0 {
		t.Errorf("the store has %d volumes", n)
	}
	h.known = true
	if got := h.fence(1, 2); got.Status != replica.OK {
		t.Errorf("once it is known: %+v", got)
	}
	other := target
	other.Disk++
	m := &message.Sent{Target: other, Request: replica.Request{ID: 1, Kind: replica.Fence, Epoch: 1, Session: 1}, Done: func(*message.Sent) {}}
	h.svc.Local(m)
	h.want("a disk that is not here", m, replica.OldSession)
}

// A volume that was dropped leaves nothing on the disk.
func TestDrop(t *testing.T) {
	h := newHost(t)
	h.fence(1, 1)
	h.want("write", h.ask(replica.Request{Kind: replica.Write, Len: 65536, Data: make([]byte, 65536), Ver: replica.Version{Epoch: 1, Seq: 1}}), replica.OK)
	h.known = false
	for range 2 {
		if err := h.svc.Drop(target.Volume); err != nil {
			t.Fatal(err)
		}
	}
	if v := h.st.Volumes(); len(v) != 0 {
		t.Errorf("the store still has %+v", v)
	}
	h.want("afterwards", h.ask(replica.Request{Kind: replica.Read, Len: 4096}), replica.OldSession)
}

// A store takes no change that would make the tail longer than it may be, which is no
// fault of the disk: the replica is of use again, and a rebuild makes room.
func TestFullTailIsNoFault(t *testing.T) {
	h := newHost(t)
	h.fence(7, 1)
	write := func(seq uint64) *message.Sent {
		return h.ask(replica.Request{Kind: replica.Clear, Off: int64(seq%1024) * 4096, Len: 4096, Ver: replica.Version{Epoch: 7, Seq: seq}})
	}
	for seq := uint64(1); seq <= store.TailMax; seq++ {
		h.want("change", write(seq), replica.OK)
	}
	h.want("one more than the tail takes", write(store.TailMax+1), replica.Failed)

	h.beginsAnew(7)
	h.want("one more still", write(store.TailMax+2), replica.Failed)
	h.beginsAnew(7)
	h.want("the beginning of a rebuild", h.ask(replica.Request{Kind: replica.Begin, Gen: 1}), replica.OK)
	h.want("after it", write(store.TailMax+3), replica.OK)
}

// beginsAnew waits until a replica that has failed opens a session.
func (h *host) beginsAnew(epoch uint64) {
	h.Helper()
	for end := time.Now().Add(10 * time.Second); h.fence(epoch, h.session+1).Status != replica.OK; {
		if time.Now().After(end) {
			h.Fatal("the replica stays as it is")
		}
		time.Sleep(5 * time.Millisecond) // sleep: until the replica has begun anew
	}
}

// A disk that can't write to one place is well for all else, and its store does not write there again. So
// the replica is of use again, without a restart.
func TestOneWriteThatFailsIsNotTheEnd(t *testing.T) {
	h := newHost(t)
	h.fence(7, 1)
	write := func(seq uint64) *message.Sent {
		return h.ask(replica.Request{Kind: replica.Write, Len: 65536, Data: bytes.Repeat([]byte{byte(seq)}, 65536), Ver: replica.Version{Epoch: 7, Seq: seq}})
	}
	h.want("write", write(1), replica.OK)
	h.d.Rules().Add(faulty.Rule{Op: disk.Write, Count: 1, Err: syscall.EIO})
	h.want("one that the disk refuses", write(2), replica.Failed)
	h.want("the next one", write(3), replica.Failed)
	h.beginsAnew(7)
	m := h.ask(replica.Request{Kind: replica.Read, Len: 65536})
	h.want("read", m, replica.OK)
	if !bytes.Equal(m.Response.Data, bytes.Repeat([]byte{1}, 65536)) {
		t.Error("what was written before is not there")
	}
	m.Release()
	h.want("write again", write(4), replica.OK)
}

// What a disk has noted of a part of a volume may be unreadable. As a source of a rebuild the replica is as one of which data is: another is
// asked, and no session ends. It can't be brought back itself. Somebody is told, once.
func TestVersionsThatCannotBeRead(t *testing.T) {
	h := newHost(t)
	h.fence(7, 1)
	h.want("write", h.ask(replica.Request{Kind: replica.Write, Len: 4096, Data: make([]byte, 4096), Ver: replica.Version{Epoch: 7, Seq: 1}}), replica.OK)
	h.restart()
	h.fence(7, 2)
	var told atomic.Int32
	h.svc.cfg.Log = func(message.Target, error) { told.Add(1) }
	h.d.Rules().Add(faulty.Rule{Op: disk.Read, Err: syscall.EIO})
	for range 2 {
		h.want("versions", h.ask(replica.Request{Kind: replica.Versions, Len: 65536}), replica.Medium)
		h.want("a comparison", h.ask(replica.Request{Kind: replica.Confirm, Len: 65536, Vers: make([]replica.Version, 1)}), replica.Failed)
	}
	if n := told.Load(); n != 1 {
		t.Errorf("somebody was told %d times", n)
	}
}

// What an owner sends together, within a turn, goes to the log together.
func TestWritesOfATurnAreOneBatch(t *testing.T) {
	h := newHost(t)
	h.fence(1, 1)
	const writes = 8
	var now turn.Turn
	var ended sync.WaitGroup
	before := h.st.Stats().Batches
	now.Begin()
	for i := range uint64(writes) {
		h.id++
		ended.Add(1)
		h.svc.Local(&message.Sent{Target: target, Soon: now.Leave, Done: func(m *message.Sent) {
			h.want("write", m, replica.OK)
			ended.Done()
		}, Request: replica.Request{
			ID: h.id, Oldest: h.id, Epoch: h.epoch, Session: h.session, Boot: h.boot, Kind: replica.Write,
			Off: int64(i) << 16, Len: 4096, Data: make([]byte, 4096), Ver: replica.Version{Epoch: 1, Seq: i + 1},
		}})
	}
	now.End()
	ended.Wait()
	if n := h.st.Stats().Batches - before; n != 1 {
		t.Errorf("%d writes of one turn took %d batches of the log", writes, n)
	}
}

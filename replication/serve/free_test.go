package serve

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
	"blockd.dev/blockdev/store"
	"blockd.dev/replication/message"
	"blockd.dev/replication/replica"
)

// slowDisk keeps what it is asked for until it is let go.
type slowDisk struct {
	*sim.Sim
	mu    sync.Mutex
	hold  bool
	kept  []*disk.IO
	began chan struct{} // closed when something is kept
}

func (d *slowDisk) Submit(batch []*disk.IO) {
	d.mu.Lock()
	hold := d.hold
	if hold {
		if d.kept == nil {
			close(d.began)
		}
		d.kept = append(d.kept, batch...)
	}
	d.mu.Unlock()
	if !hold {
		d.Sim.Submit(batch)
	}
}

func (d *slowDisk) keep(hold bool) {
	d.mu.Lock()
	kept := d.kept
	d.hold, d.kept = hold, nil
	d.mu.Unlock()
	d.Sim.Submit(kept)
}

func newSlowHost(t *testing.T) (*host, *slowDisk) {
	h := newHost(t)
	slow := &slowDisk{Sim: h.d, began: make(chan struct{})}
	h.svc.Close()
	if err := h.st.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.st, err = store.Open(slow, store.Options{}); err != nil {
		t.Fatal(err)
	}
	h.starts++
	h.svc, err = New(Config{Boot: h.starts, Known: func([16]byte, uint16) bool { return true },
		Disks: func(uint16) *store.Store { return h.st }, Volume: func([16]byte) Volume { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	return h, slow
}

// Extents of other disks are freed while their replica is open, once it is fenced by an
// owner that does not write them here, and before one that may.
func TestFree(t *testing.T) {
	h, _ := newSlowHost(t)
	data := bytes.Repeat([]byte("data"), 1024)
	write := func(extent int64, seq uint64) {
		t.Helper()
		h.want("write", h.ask(replica.Request{Kind: replica.Write, Off: extent * store.ExtentBytes, Len: 4096, Data: data, Ver: replica.Version{Epoch: h.epoch, Seq: seq}}), replica.OK)
	}
	h.fence(7, 1)
	write(0, 1)
	write(1, 2)
	for _, f := range []Freeing{{[]uint32{1}, 7, 8}, {[]uint32{1}, 7, 9}, {[]uint32{1}, 5, 6}} {
		if err := h.svc.Free(target, f); !errors.Is(err, ErrNotYet) {
			t.Errorf("%+v of a replica fenced in epoch 7: %v", f, err)
		}
	}
	h.fence(9, 1)
	if err := h.svc.Free(target, Freeing{[]uint32{1}, 7, 9}); err != nil {
		t.Fatal(err)
	}
	if got := h.st.Extents(target.Volume); !slices.Equal(got, []uint32{0}) {
		t.Errorf("extents %d", got)
	}
	h.want("a read of what is left", h.ask(replica.Request{Kind: replica.Read, Len: 4096}), replica.OK)
	write(0, 3)
}

// While extents are freed, the present owner goes on, and a later one waits.
func TestALaterOwnerWaitsForWhatIsFreed(t *testing.T) {
	h, slow := newSlowHost(t)
	h.fence(8, 1)
	data := bytes.Repeat([]byte("data"), 1024)
	h.want("write", h.ask(replica.Request{Kind: replica.Write, Off: store.ExtentBytes, Len: 4096, Data: data, Ver: replica.Version{Epoch: 8, Seq: 1}}), replica.OK)
	slow.keep(true)
	freed := make(chan error)
	go func() { freed <- h.svc.Free(target, Freeing{[]uint32{1}, 7, 8}) }()
	<-slow.began
	fence := make(chan replica.Response, 1)
	later := &message.Sent{Target: target, Request: replica.Request{ID: 99, Oldest: 99, Kind: replica.Fence, Epoch: 9, Session: 1}, Done: func(m *message.Sent) { fence <- m.Response }}
	h.svc.Local(later)
	h.want("a read meanwhile", h.ask(replica.Request{Kind: replica.Read, Off: store.ExtentBytes, Len: 4096}), replica.OK)
	select {
	case r := <-fence:
		t.Fatalf("a later owner is told %+v", r)
	case err := <-freed:
		t.Fatalf("it is over: %v", err)
	default:
	}
	slow.keep(false)
	if err := <-freed; err != nil {
		t.Fatal(err)
	}
	if r := <-fence; r.Status != replica.OK {
		t.Errorf("a later owner is told %+v", r)
	}
	if got := h.st.Extents(target.Volume); len(got) != 0 {
		t.Errorf("extents %d", got)
	}
	if err := h.svc.Free(target, Freeing{[]uint32{1}, 7, 8}); !errors.Is(err, ErrNotYet) {
		t.Errorf("after a later owner has come: %v", err)
	}
}

package nvmetcp_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/target/nvmetcp/pdu"
)

// newLeavingBed is a bed whose device keeps its first requests, with a namespace that other
// nodes serve, too, or not.
func newLeavingBed(t *testing.T, limits nvmetcp.Limits, keep int32, shared bool) (*bed, *keeping) {
	t.Helper()
	dev := &keeping{kept: make(chan *blockdev.Request, keep)}
	dev.keep.Store(keep)
	b := newBedWith(t, limits, nil, func(d blockdev.Device) blockdev.Device {
		dev.Device = d
		return dev
	}, func(n *nvme.NamespaceConfig) { n.Shared = shared })
	return b, dev
}

// wait takes a request that the device keeps. It is done by finish, and at the end of the test.
func (d *keeping) wait(t *testing.T) (r *blockdev.Request, finish func()) {
	t.Helper()
	select {
	case r = <-d.kept:
	case <-time.After(10 * time.Second):
		t.Fatal("no request reaches the device")
	}
	finish = sync.OnceFunc(func() { d.Device.Submit([]*blockdev.Request{r}) })
	t.Cleanup(finish)
	return r, finish
}

// shutdown begins one that ends with ctx, or after 20 s.
func (b *bed) shutdown(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		done <- b.server.Shutdown(ctx)
	}()
	return done
}

func (b *bed) gone(h *nvmehost.Host) {
	b.Helper()
	select {
	case <-h.Gone():
	case <-time.After(10 * time.Second):
		b.Fatal("a host is still connected")
	}
}

// submit gives a host a request, and the channel its error.
func submit(n *nvmehost.Namespace, op blockdev.Op, p []byte) <-chan error {
	done := make(chan error, 1)
	n.Submit([]*blockdev.Request{{Op: op, Length: int64(len(p)), Data: [][]byte{p}, Done: func(r *blockdev.Request) { done <- r.Err }}})
	return done
}

// A host is not disconnected while a write of its is under way, which could be done after what
// the host sends by another path then, and after newer writes. Meanwhile it is sent to other
// paths, and hosts that nothing is under way for are not held up. An Asynchronous Event
// Request is not waited for.
func TestShutdownWaitsForCommandsUnderWay(t *testing.T) {
	b, dev := newLeavingBed(t, nvmetcp.Limits{}, 1, true)
	busy, idle := b.dial(b.config()), b.dial(b.config())
	busy.WatchEvents()
	n := b.namespace(busy)
	old := bytes.Repeat([]byte{1}, 4096)
	write := submit(n, blockdev.OpWrite, old)
	_, finish := dev.wait(t)
	down := b.shutdown(t.Context())
	b.gone(idle)

	var refused *nvmehost.StatusError
	if err := <-submit(n, blockdev.OpRead, make([]byte, 4096)); !errors.As(err, &refused) || nvme.Status(refused.Status) != nvme.ANAInaccessibleStatus {
		t.Errorf("a new read: %v", err)
	}
	select {
	case err := <-write:
		t.Fatalf("the write has ended: %v", err)
	case err := <-down:
		t.Fatalf("Shutdown has ended: %v", err)
	case <-busy.Gone():
		t.Fatal("the host was disconnected with a write under way")
	default:
	}
	finish()
	if err := <-write; err != nil {
		t.Errorf("the write: %v", err)
	}
	b.gone(busy)
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// With volumes of this node alone a host has nowhere else to go: what it sends meanwhile waits
// for its next connection, and is not begun.
func TestShutdownAnswersNobodyWithoutAnotherPath(t *testing.T) {
	b, dev := newLeavingBed(t, nvmetcp.Limits{}, 1, false)
	h, idle := b.dial(b.config()), b.dial(b.config())
	n := b.namespace(h)
	write := submit(n, blockdev.OpWrite, bytes.Repeat([]byte{1}, 4096))
	_, finish := dev.wait(t)
	down := b.shutdown(t.Context())
	b.gone(idle)
	received := func() (sum uint64) {
		for _, s := range b.server.Sessions() {
			if s.QID != 0 && s.Stats.InFlight > 0 {
				sum += s.Socket.BytesIn
			}
		}
		return sum
	}
	before := received()
	later := submit(n, blockdev.OpWrite, bytes.Repeat([]byte{2}, 4096))
	b.await("the later write", func() bool { return received() >= before+4096 })
	finish()
	if err := <-write; err != nil {
		t.Errorf("the write: %v", err)
	}
	if err := <-later; !errors.Is(err, blockdev.ErrGone) {
		t.Errorf("the later write: %v, want no answer", err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	p := make([]byte, 4096)
	if err := blockdev.ReadAt(b.device, p, 0); err != nil || p[0] != 1 {
		t.Errorf("the volume has %d: %v", p[0], err)
	}
}

// ioCapsule is an I/O command of n bytes at the start of the namespace, whose data has a PDU of its own.
func ioCapsule(op uint8, cid byte, n int) []byte {
	var c pdu.CapsuleCmd
	c.SQE[0], c.SQE[1], c.SQE[2], c.SQE[4], c.SQE[39] = op, 0x40, cid, 1, 0x5a
	binary.LittleEndian.PutUint32(c.SQE[32:], uint32(n))
	binary.LittleEndian.PutUint16(c.SQE[48:], uint16(n/4096-1))
	return c.Append(nil, &pdu.Layout{}, 0)
}

// What waits for a buffer ends at once, and is not waited for until one is free; nor is what
// waits for its data, which is not begun when that comes.
func TestShutdownDoesNotWaitForWhatHasNotBegun(t *testing.T) {
	const length = nvme.MaxTransferBytes
	b, dev := newLeavingBed(t, nvmetcp.Limits{BufferBytes: length + 2*4096}, 1, true)
	w := b.queueWire(noFlowControl)
	for id := range byte(2) {
		w.send(ioCapsule(nvme.OpWrite, id, 4096))
		if h := w.pdu(); pdu.Type(h[0]) != pdu.TypeR2T {
			t.Fatalf("%v", pdu.Type(h[0]))
		}
	}
	w.send(ioCapsule(nvme.OpRead, 2, length))
	_, finish := dev.wait(t)
	w.send(ioCapsule(nvme.OpWrite, 3, length))
	b.await("a command that waits for the read's buffer", func() bool {
		for _, s := range b.server.Sessions() {
			if s.Stats.Parked > 0 {
				return true
			}
		}
		return false
	})
	down := b.shutdown(t.Context())
	if s := w.response(); s != nvme.ANAInaccessibleStatus {
		t.Errorf("the command that waited for a buffer: %v", s)
	}
	d := pdu.Data{FromHost: true, TTag: 1, Length: 4096, Last: true}
	w.send(append(d.Append(nil, &pdu.Layout{}), bytes.Repeat([]byte{1}, 4096)...))
	if s := w.response(); s != nvme.ANAInaccessibleStatus {
		t.Errorf("the command whose data came late: %v", s)
	}
	finish()
	if h := w.pdu(); pdu.Type(h[0]) != pdu.TypeC2HData || len(h) < length {
		t.Errorf("the read: %v of %d bytes", pdu.Type(h[0]), len(h))
	}
	w.closed()
	if err := <-down; err != nil {
		t.Error(err)
	}
	p := make([]byte, 4096)
	if err := blockdev.ReadAt(b.device, p, 0); err != nil || p[0] != 0 {
		t.Errorf("a write was done: %d, %v", p[0], err)
	}
}

// A host that does not read what it has asked for is waited for until the time is over, and
// others are not.
func TestShutdownGivesUpHostsThatDoNotRead(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, nil)
	other := b.dial(b.config())
	w := b.queueWire(noFlowControl)
	for id := range byte(16) {
		w.send(ioCapsule(nvme.OpRead, id, nvme.MaxTransferBytes))
	}
	b.await("a read of which nothing is sent", func() bool {
		for _, s := range b.server.Sessions() {
			if s.QID != 0 && s.Socket.Stalls > 0 {
				return true
			}
		}
		return false
	})
	ctx, cancel := context.WithCancel(t.Context())
	down := b.shutdown(ctx)
	b.gone(other)
	select {
	case err := <-down:
		t.Fatalf("Shutdown has ended: %v", err)
	default:
	}
	cancel()
	if err := <-down; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What the device has not done by then is cut off.
func TestShutdownCutsOffWhatTakesTooLong(t *testing.T) {
	b, dev := newLeavingBed(t, nvmetcp.Limits{}, 1, true)
	h := b.dial(b.config())
	write := submit(b.namespace(h), blockdev.OpWrite, make([]byte, 4096))
	kept, finish := dev.wait(t)
	ctx, cancel := context.WithCancel(t.Context())
	down := b.shutdown(ctx)
	cancel()
	if err := <-write; !errors.Is(err, blockdev.ErrGone) {
		t.Errorf("the write: %v", err)
	}
	if !kept.Gone.Load() {
		t.Error("the device is not told that nobody waits any more")
	}
	finish()
	if err := <-down; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

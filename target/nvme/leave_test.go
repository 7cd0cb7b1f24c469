package nvme

import (
	"bytes"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/devtest"
	"blockd.dev/target/access"
)

// A bed whose device holds requests back, with its volume shared or not.
func newLeavingBed(t *testing.T, shared bool) (*bed, *devtest.Holding) {
	t.Helper()
	holding := &devtest.Holding{}
	b := newBed(t, func(c *Config, _ *Deps) {
		holding.Device = c.Namespaces[0].Device
		c.Namespaces[0].Device, c.Namespaces[0].Shared = holding, shared
	})
	return b, holding
}

// When the target stops no command begins, whatever it waits for. Its host is told to use
// another path, or nothing where there is none.
func TestLeaveLetsNoCommandBegin(t *testing.T) {
	for name, tc := range map[string]struct {
		shared bool
		want   Status
	}{"of several nodes": {true, ANAInaccessibleStatus}, "of this node": {false, Unanswered}} {
		t.Run(name, func(t *testing.T) {
			b, holding := newLeavingBed(t, tc.shared)
			h := b.host
			write := rw(OpWrite, 0, 1, 0)
			held := b.start(h.io, write, fill(bedBlock, 1), 0)
			waits := b.prepare(h.io, write, fill(bedBlock, 2), 0) // its data has yet to come
			first := b.start(h.io, fuse(rw(OpCompare, 0, 1, 0), fuseFirst), fill(bedBlock, 0), 0)
			if holding.Held() != 1 || first.finished() {
				t.Fatalf("%d are held", holding.Held())
			}
			b.sub.Leave()
			h.io.Execute(waits.Command)
			for what, c := range map[string]*call{
				"held by the device": held, "without its data": waits, "half of a pair": first,
				"new": b.start(h.io, write, fill(bedBlock, 3), 0), "a new read": b.start(h.io, rw(OpRead, 0, 1, 0), nil, bedBlock),
			} {
				if s := c.wait().status; s != tc.want {
					t.Errorf("%s: %v, want %v", what, s, tc.want)
				}
			}
			if n, m := h.io.Commands(); n != 0 || m != 0 || holding.Held() != 0 {
				t.Errorf("%d run, %d wait, %d are held", n, m, holding.Held())
			}
			if !bytes.Equal(b.blocksAt(0, 1), fill(bedBlock, 0)) {
				t.Error("a write was done")
			}
			if tc.want == Unanswered && b.sub.Stats().Failed != 0 {
				t.Errorf("%d commands count as failed, of which no host was told", b.sub.Stats().Failed)
			}
		})
	}
}

// The second half of a pair whose first half was turned away ends too, and as that did where
// nobody was told of it.
func TestLeaveBetweenTheHalvesOfAPair(t *testing.T) {
	for _, tc := range []struct {
		shared bool
		want   Status
	}{{true, AbortedFailedFused}, {false, Unanswered}} {
		b, holding := newLeavingBed(t, tc.shared)
		h := b.host
		first := b.start(h.io, fuse(rw(OpCompare, 0, 1, 0), fuseFirst), fill(bedBlock, 0), 0)
		b.sub.Leave()
		first.wait()
		second := b.start(h.io, fuse(rw(OpWrite, 0, 1, 0), fuseSecond), fill(bedBlock, 1), 0)
		if s := second.wait().status; s != tc.want || holding.Held() != 0 {
			t.Errorf("%v, want %v; %d requests reached the device", s, tc.want, holding.Held())
		}
	}
}

// What a device works on goes on, and is told of as it ends; what takes several steps ends with
// the one under way.
func TestLeaveWaitsForWhatIsUnderWay(t *testing.T) {
	keeping := &keeping{}
	b := newBed(t, func(c *Config, _ *Deps) {
		keeping.Device = c.Namespaces[0].Device
		c.Namespaces[0].Device, c.Namespaces[0].Shared = keeping, true
	})
	h := b.host
	w := b.start(h.io, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
	v := b.start(h.io, rw(OpVerify, 0, 2*chunkMax/bedBlock, 0), nil, 0)
	pair := [2]*call{
		b.start(h.io, fuse(rw(OpCompare, 8, 1, 0), fuseFirst), fill(bedBlock, 0), 0),
		b.start(h.io, fuse(rw(OpWrite, 8, 1, 0), fuseSecond), fill(bedBlock, 1), 0),
	}
	h.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featAsyncEvents), 0), nil, 0) // of nothing
	aer := b.start(h.admin, sqe(OpAsyncEventRequest, 0), nil, 0)
	b.sub.Leave()
	if n, m := h.io.Commands(); n != 4 || m != 0 || w.finished() || v.finished() {
		t.Fatalf("%d run, %d wait", n, m)
	}
	if n, m := h.admin.Commands(); n != 0 || m != 1 || aer.finished() {
		t.Errorf("of the admin queue %d run and %d wait", n, m)
	}
	if n := keeping.release(); n != 3 {
		t.Errorf("the device had %d requests", n)
	}
	if s := w.wait().status; s != Success {
		t.Errorf("the write: %v", s)
	}
	if s := v.wait().status; s != ANAInaccessibleStatus {
		t.Errorf("what takes several steps: %v", s)
	}
	if x, y := pair[0].wait().status, pair[1].wait().status; x != Success || y != Success {
		t.Errorf("the pair: %v, %v", x, y)
	}
	if n, m := h.io.Commands(); n != 0 || m != 0 || keeping.release() != 0 {
		t.Errorf("%d run, %d wait", n, m)
	}
}

// Hosts are told by event that their namespaces are inaccessible, and find it so in the log
// page, whatever the subsystem is configured with afterwards. Admin commands are served.
func TestLeaveTellsHosts(t *testing.T) {
	b, _ := newLeavingBed(t, true)
	h := b.host
	h.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featAsyncEvents), eventDescs[eventANA].config), nil, 0)
	aer := b.start(h.admin, sqe(OpAsyncEventRequest, 0), nil, 0)
	b.sub.Leave()
	if r := aer.wait(); r.result != eventDescs[eventANA].dword {
		t.Errorf("event %#x", r.result)
	}
	for range 2 {
		p := h.logPage(logANA, 52, 0, false)
		if le.Uint16(p[8:]) != 1 || p[16+16] != uint8(ANAInaccessible) || le.Uint32(p[16+32:]) != 1 {
			t.Errorf("ANA log page %x", p)
		}
		h.want(ANAInaccessibleStatus, rw(OpRead, 0, 1, 0), nil, bedBlock)
		b.configure(func(c *Config) { c.Namespaces[0].Access = access.Optimized; c.Namespaces[0].Name = "other" })
	}
	p := make([]byte, hostBehaviorBytes)
	p[0] = 1 // ACRE
	h.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featHostBehavior)), p, 0)
	h.want(ANAInaccessibleStatus|crd1, rw(OpRead, 0, 1, 0), nil, bedBlock)
	h.wantAdmin(Success, sqe(OpKeepAlive, 0), nil, 0)
	r := b.request(hostA, 2)
	r.CNTLID = h.admin.Controller().ID()
	if _, s, _ := b.sub.Connect(r); s != ConnectControllerBusy {
		t.Errorf("Connect of an I/O queue: %v", s)
	}
	if _, s, _ := b.sub.Connect(b.request(hostB, 0)); s != ConnectControllerBusy {
		t.Errorf("Connect of an admin queue: %v", s)
	}
}

// keeping is a device that works on requests until release.
type keeping struct {
	blockdev.Device
	kept []*blockdev.Request
}

func (d *keeping) Submit(batch []*blockdev.Request) { d.kept = append(d.kept, batch...) }

// release has the device do what it has, and returns how many those were.
func (d *keeping) release() int {
	kept := d.kept
	d.kept = nil
	d.Device.Submit(kept)
	return len(kept)
}

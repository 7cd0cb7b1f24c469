package nvme

import (
	"bytes"
	"testing"

	"blockd.dev/blockdev/devtest"
)

// A command that its device holds back is aborted like one that waits for its data: it
// ends at once, and has no effect.
func TestAbortOfWhatIsHeldBack(t *testing.T) {
	holding := &devtest.Holding{}
	b := newBed(t, func(c *Config, _ *Deps) {
		holding.Device = c.Namespaces[0].Device
		c.Namespaces[0].Device = holding
	})
	h := b.host
	for name, e := range map[string][64]byte{"a write": rw(OpWrite, 0, 1, 0), "one of several steps": rw(OpVerify, 0, bedBlocks, 0)} {
		data := fill(bedBlock, 1)
		if e[0] == OpVerify {
			data = nil
		}
		w := b.start(h.io, e, data, 0)
		if w.finished() || holding.Held() != 1 {
			t.Fatalf("%s: %d are held", name, holding.Held())
		}
		a := b.start(h.admin, sqe(OpAbort, 0, uint32(h.io.ID())|uint32(w.CID())<<16), nil, 0)
		if !a.finished() || a.wait().result != 0 || w.wait().status != CommandAborted || holding.Held() != 0 {
			t.Errorf("%s was not aborted", name)
		}
	}
	// What is aborted while others are being ended is ended once.
	var both [2]*call
	for i := range both {
		both[i] = b.start(h.io, rw(OpWrite, uint64(i), 1, 0), fill(bedBlock, 1), 0)
	}
	done := both[0].Done
	both[0].Done = func(c *Command) {
		h.io.abortAll(nil, AbortedSQDeletion, nil)
		done(c)
	}
	h.io.abortAll(nil, AbortedSQDeletion, nil)
	for _, c := range both {
		if s := c.wait().status; s != AbortedSQDeletion {
			t.Errorf("aborted twice: %v", s)
		}
	}
	w := b.start(h.io, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
	h.io.Disconnect()
	if w.wait().status == Success || holding.Held() != 0 || !bytes.Equal(b.blocksAt(0, 1), fill(bedBlock, 0)) {
		t.Errorf("a connection ended, and %d are held", holding.Held())
	}
}

// What ends with its controller, while the connection may yet carry the answer, is a matter of the path: a host
// with another one sends it there, rather than fail it.
func TestHeldBackAtTheEndOfTheController(t *testing.T) {
	b := newBed(t, func(c *Config, _ *Deps) {
		c.Namespaces[0].Device = &devtest.Holding{Device: c.Namespaces[0].Device}
	})
	r := b.start(b.host.io, rw(OpRead, 0, 1, 0), nil, bedBlock)
	b.host.admin.Disconnect()
	if s := r.wait().status; s != InternalPathError {
		t.Errorf("a read ended with %v", s)
	}
}

// A command that was let pass right before its queue ended is ended with the others: the first half of a pair
// would wait for a second that never comes, and its connection for it.
func TestCommandMeetsTheEndOfItsQueue(t *testing.T) {
	b := newBed(t)
	was := ioTable[OpCompare]
	defer func() { ioTable[OpCompare] = was }()
	ends := *was
	ends.prepare = func(c *Command) Status {
		b.host.admin.Disconnect()
		return was.prepare(c)
	}
	ioTable[OpCompare] = &ends
	c := b.start(b.host.io, fuse(rw(OpCompare, 0, 1, 0), fuseFirst), fill(bedBlock, 0), 0)
	if !c.finished() {
		t.Fatal("it waits on")
	}
	if s := c.wait().status; s != InternalPathError {
		t.Errorf("it ended with %v", s)
	}
}

// Half of a fused pair whose partner is being ended does not run, neither alone nor as the
// pair, even before the two have been parted.
func TestFusedHalfWhilePartnerEnds(t *testing.T) {
	holding := &devtest.Holding{}
	b := newBed(t, func(c *Config, _ *Deps) {
		holding.Device = c.Namespaces[0].Device
		c.Namespaces[0].Device = holding
	})
	h := b.host
	halves := [2]func() *call{
		func() *call {
			return b.prepare(h.io, fuse(rw(OpCompare, 0, 1, 0), fuseFirst), fill(bedBlock, 0), 0)
		},
		func() *call {
			return b.prepare(h.io, fuse(rw(OpWrite, 0, 1, 0), fuseSecond), fill(bedBlock, 1), 0)
		},
	}
	check := func(name string, x, y *call, want Status) {
		t.Helper()
		if n := holding.Held(); n != 0 {
			t.Fatalf("%s: %d requests reached the device", name, n)
		}
		if s1, s2 := x.wait().status, y.wait().status; s1 != want || s2 != AbortedFailedFused {
			t.Errorf("%s: %v, %v", name, s1, s2)
		}
	}
	for aborted, name := range []string{"the first is aborted", "the second is aborted"} {
		w := b.start(h.io, rw(OpWrite, 8, 1, 0), fill(bedBlock, 1), 0)
		pair := [2]*call{halves[0](), halves[1]()}
		x, y := pair[aborted], pair[1-aborted]
		le.PutUint16(x.SQE[2:], w.CID())
		h.io.Execute(x.Command)
		// Its request is withdrawn, and its end told, after x was marked as aborted and
		// before x ends.
		done := w.Done
		w.Done = func(c *Command) {
			if x.finished() {
				t.Errorf("%s: it has ended already", name)
			}
			h.io.Execute(y.Command)
			done(c)
		}
		a := b.start(h.admin, sqe(OpAbort, 0, uint32(h.io.ID())|uint32(w.CID())<<16), nil, 0)
		if a.wait().result != 0 || w.wait().status != CommandAborted {
			t.Errorf("%s: the write was not aborted", name)
		}
		check(name, x, y, CommandAborted)
	}
	// The same when one ends because its data is short.
	for short, name := range []string{"the first is short", "the second is short"} {
		pair := [2]*call{halves[0](), halves[1]()}
		x, y := pair[short], pair[1-short]
		x.OutLen--
		_, s := h.io.start(x.Command)
		h.io.Execute(y.Command)
		h.io.dissolve(x.Command)
		x.complete(s)
		check(name, x, y, DataTransferError)
	}
}

// A namespace that a host is sent away from is inaccessible to it: what the device holds back, or waits
// for its data, ends so at once, and so does what comes; the host is told by events. Other hosts
// see nothing of it. Afterwards it is what it was.
func TestDivertedHosts(t *testing.T) {
	b, holding := newLeavingBed(t, true)
	h, other := b.host, b.connect(hostB)
	for _, h := range []*host{h, other} {
		h.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featAsyncEvents), eventDescs[eventANA].config|eventDescs[eventNamespace].config), nil, 0)
	}
	aer := func() [3]*call {
		return [3]*call{b.start(h.admin, sqe(OpAsyncEventRequest, 0), nil, 0), b.start(h.admin, sqe(OpAsyncEventRequest, 0), nil, 0), b.start(other.admin, sqe(OpAsyncEventRequest, 0), nil, 0)}
	}
	told := func(aer [3]*call) {
		t.Helper()
		if a, n := aer[0].wait().result, aer[1].wait().result; a+n != eventDescs[eventANA].dword+eventDescs[eventNamespace].dword {
			t.Errorf("events %#x and %#x", a, n)
		}
		h.logPage(logChangedNamespaces, 4096, 0, false)
	}
	changes := uint64(0)
	is := func(h *host, want ANAState) {
		t.Helper()
		p := h.logPage(logANA, 52, 0, false)
		group := le.Uint32(p[16:])
		if ANAState(p[32]) != want || le.Uint32(h.identify(cnsNamespace, 1)[92:]) != group {
			t.Errorf("state %#x, group %d; want state %#x", p[32], group, want)
		}
		if n := le.Uint64(p); h.hostNQN() == hostA && n <= changes {
			t.Errorf("the change count is %d, and was %d", n, changes)
		} else if h.hostNQN() == hostA {
			changes = n
		}
	}
	is(h, ANAOptimized)

	held := b.start(h.io, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
	waits := b.prepare(h.io, rw(OpWrite, 0, 1, 0), fill(bedBlock, 2), 0) // its data has yet to come
	others := b.start(other.io, rw(OpRead, 0, 1, 0), nil, bedBlock)
	notes := aer()
	if n := b.sub.Divert(func(string, VolumeID) bool { return false }); n != 0 || held.finished() || holding.Held() != 2 {
		t.Fatalf("nobody is sent away: %d, and %d are held", n, holding.Held())
	}
	match := func(host string, v VolumeID) bool { return host == hostA && v == bedVolume }
	if n, again := b.sub.Divert(match), b.sub.Divert(match); n != 1 || again != 0 {
		t.Errorf("%d are diverted, and %d when they are", n, again)
	}
	if s := held.wait().status; s != ANAInaccessibleStatus || holding.Held() != 1 {
		t.Errorf("what was held: %v, and %d are held", s, holding.Held())
	}
	h.io.Execute(waits.Command)
	if s := waits.wait().status; s != ANAInaccessibleStatus {
		t.Errorf("what waited for its data: %v", s)
	}
	h.want(ANAInaccessibleStatus, rw(OpRead, 0, 1, 0), nil, bedBlock)
	told(notes)
	is(h, ANAInaccessible)
	b.configure(func(*Config) {})
	h.want(ANAInaccessibleStatus, rw(OpRead, 0, 1, 0), nil, bedBlock)
	if notes[2].finished() || others.finished() {
		t.Error("another host was told, or turned away")
	}
	is(other, ANAOptimized)

	notes = aer()
	b.sub.Readmit()
	b.sub.Readmit()
	told(notes)
	is(h, ANAOptimized)
	ours := b.start(h.io, rw(OpRead, 0, 1, 0), nil, bedBlock)
	holding.Release()
	if x, y := ours.wait().status, others.wait().status; x != Success || y != Success {
		t.Errorf("afterwards: %v, and the other host: %v", x, y)
	}
}

// hostNQN is the name of the host.
func (h *host) hostNQN() string { return h.admin.Controller().HostNQN() }

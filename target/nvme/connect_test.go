package nvme

import (
	"strings"
	"testing"
	"time"
)

// NVMe Base 2.0 §6.3: what Connect refuses, and that nothing that may pass by
// itself carries DNR (an unknown host or subsystem may be configured yet).
func TestConnectRefusals(t *testing.T) {
	b := newBed(t, func(c *Config, _ *Deps) {
		c.Views = map[string]View{hostA: {1: bedVolume}}
		c.AnyView = nil
	})
	id := b.host.admin.Controller().ID()
	for _, c := range []struct {
		name   string
		change func(*ConnectRequest)
		want   Status
		result uint64
	}{
		{"host NQN is none", func(r *ConnectRequest) { r.HostNQN = "x" }, ConnectInvalidParameters | DNR, badHostNQN},
		{"host NQN too long", func(r *ConnectRequest) { r.HostNQN = "nqn." + strings.Repeat("x", 220) }, ConnectInvalidParameters | DNR, badHostNQN},
		{"subsystem unknown", func(r *ConnectRequest) { r.SubNQN += "x" }, ConnectInvalidParameters, badSubNQN},
		{"host sees nothing", func(r *ConnectRequest) { r.HostNQN = hostB }, ConnectInvalidHost, badHostNQN},
		{"queue of one entry", func(r *ConnectRequest) { r.SQSize = 0 }, ConnectInvalidParameters | DNR, badSQSize},
		{"queue too long", func(r *ConnectRequest) { r.SQSize = 1024 }, ConnectInvalidParameters | DNR, badSQSize},
		{"static controller", func(r *ConnectRequest) { r.CNTLID = 1 }, ConnectInvalidParameters | DNR, badCNTLID},
		{"I/O queue of no controller", func(r *ConnectRequest) { r.QID, r.CNTLID = 1, 999 }, ConnectInvalidParameters, badCNTLID},
		{"I/O queue twice", func(r *ConnectRequest) { r.QID, r.CNTLID = 1, id }, CommandSequenceError, 0},
		{"I/O queue beyond those granted", func(r *ConnectRequest) { r.QID, r.CNTLID = 129, id }, ConnectInvalidParameters | DNR, badQID},
		{"I/O queue with another host id", func(r *ConnectRequest) { r.QID, r.CNTLID, r.HostID[0] = 2, id, 9 }, ConnectInvalidParameters | DNR, badHostID},
		{"I/O queue of a discovery controller", func(r *ConnectRequest) { r.QID, r.CNTLID, r.SubNQN = 2, id, DiscoveryNQN }, ConnectInvalidParameters | DNR, badQID},
	} {
		r := b.request(hostA, 0)
		c.change(r)
		q, s, res := b.sub.Connect(r)
		if q != nil || s != c.want || res != c.result {
			t.Errorf("%s: got %v with %#x, want %v with %#x", c.name, s, res, c.want, c.result)
		}
	}
}

// An I/O queue of another host's controller is refused: NVMe Base 2.0 §6.3
// wants the same Host NQN as the admin queue's.
func TestConnectIOQueueOfAnotherHost(t *testing.T) {
	b := newBed(t)
	r := b.request(hostB, 2)
	r.CNTLID = b.host.admin.Controller().ID()
	if _, s, res := b.sub.Connect(r); s != ConnectInvalidParameters|DNR || res != badHostNQN {
		t.Errorf("got %v with %#x", s, res)
	}
}

func TestConnectLimitsControllersPerHost(t *testing.T) {
	b := newBed(t, func(c *Config, _ *Deps) { c.MaxControllers = 8 })
	b.connect(hostA)
	if _, s, _ := b.sub.Connect(b.request(hostA, 0)); s != ConnectControllerBusy {
		t.Errorf("third controller of a host with room for 2: got %v", s)
	}
	b.connect(hostB)
}

func TestParseConnect(t *testing.T) {
	e := sqe(OpFabrics, 0)
	e[4] = FabricsConnect
	le.PutUint16(e[42:], 3)
	le.PutUint16(e[44:], 127)
	le.PutUint32(e[48:], 5000)
	le.PutUint32(e[32:], ConnectDataBytes)
	data := make([]byte, ConnectDataBytes)
	data[0], data[16] = 7, 5
	copy(data[256:], bedNQN)
	copy(data[512:], hostA)
	r, err := ParseConnect(&e, data)
	if err != nil || r.QID != 3 || r.SQSize != 127 || r.KATO != 5000 || r.HostID[0] != 7 || r.CNTLID != 5 || r.SubNQN != bedNQN || r.HostNQN != hostA {
		t.Errorf("got %+v, %v", r, err)
	}
	if _, err := ParseConnect(&e, data[:1000]); err == nil {
		t.Error("short data is taken")
	}
	c := &Command{SQE: e}
	if s, _ := CheckConnect(c); s != Success {
		t.Errorf("good command: %v", s)
	}
	c.SQE[40] = 1
	if s, res := CheckConnect(c); s != ConnectIncompatible|DNR || res != badRecFmt {
		t.Errorf("record format 1: %v", s)
	}
}

// NVMe Base 2.0 §3.1.3: the properties that Linux reads, and the way of CC and
// CSTS through enabling, shutdown and reset.
func TestControllerStates(t *testing.T) {
	b := newBed(t)
	h := b.connectAdmin(hostB)
	read := sqe(OpIdentify, 0, uint32(cnsController))
	h.wantAdmin(CommandSequenceError, read, nil, identifyBytes)
	r := b.request(hostB, 1)
	r.CNTLID = h.admin.Controller().ID()
	if _, s, _ := b.sub.Connect(r); s != CommandSequenceError {
		t.Errorf("I/O queue before the controller is ready: %v", s)
	}
	capability := h.property(propCAP, true)
	if capability&0xffff != 1023 || capability>>16&1 != 1 || capability>>37&0x41 != 0x41 || capability>>48&0xf != 0 || capability>>59&1 != 1 {
		t.Errorf("CAP is %#x", capability)
	}
	if to, crwmt := capability>>24&0xff, h.property(propCRTO, false)&0xffff; to == 0 || crwmt < to {
		t.Errorf("CAP.TO %d, CRTO.CRWMT %d: Linux wants the second to be at least the first", to, crwmt)
	}
	if v := h.property(propVS, false); v != 0x20000 {
		t.Errorf("VS is %#x", v)
	}
	h.setProperty(propCC, enableCC|6<<4) // all command sets
	if v := h.property(propCSTS, false); v != 1 {
		t.Errorf("CSTS is %#x, want ready", v)
	}
	h.wantAdmin(Success, read, nil, identifyBytes)
	q, s, _ := b.sub.Connect(func() *ConnectRequest { r.Closed = h.noteClosed; return r }())
	if s != Success {
		t.Fatalf("I/O queue: %v", s)
	}
	h.setProperty(propCC, enableCC|1<<14) // normal shutdown
	if v := h.property(propCSTS, false); v>>2&3 != 2 {
		t.Errorf("CSTS is %#x, want shutdown complete", v)
	}
	if h.closedCount() != 1 || !q.gone.Load() {
		t.Error("shutdown leaves the I/O queue")
	}
	h.setProperty(propCC, 0)
	if v := h.property(propCSTS, false); v != 0 {
		t.Errorf("CSTS is %#x after disabling", v)
	}
	h.enable()
	h.setProperty(propCC, 0)
	h.setProperty(propCC, 0x450001) // 32-byte entries
	if v := h.property(propCSTS, false); v != uint64(cstsFatal) {
		t.Errorf("CSTS is %#x for a CC that can't be, want fatal", v)
	}
	if s := h.setProperty(propCSTS, 0); s != InvalidField|DNR {
		t.Errorf("write of CSTS: %v", s)
	}
	e := sqe(OpFabrics, 0)
	e[4] = FabricsPropertyGet
	e[44] = propVS
	e[40] = 1
	h.wantAdmin(InvalidField|DNR, e, nil, 0) // 8 bytes of a 4-byte property
}

func TestDisconnectOfAnIOQueue(t *testing.T) {
	b := newBed(t)
	e := sqe(OpFabrics, 0)
	e[4] = FabricsDisconnect
	b.host.wantAdmin(InvalidQueueType|DNR, e, nil, 0)
	b.host.want(Success, e, nil, 0)
	b.host.want(InternalPathError, rw(OpRead, 0, 1, 0), nil, bedBlock)
	r := b.request(hostA, 1)
	r.CNTLID = b.host.admin.Controller().ID()
	if _, s, _ := b.sub.Connect(r); s != Success {
		t.Errorf("the QID can't be used again: %v", s)
	}
	if b.host.closedCount() != 0 {
		t.Error("Closed was called although the host asked for it")
	}
}

// The admin connection carries the association: without it the controller
// ends (NVMe TCP Transport 1.0 §3.1).
func TestLossOfTheAdminConnectionEndsTheController(t *testing.T) {
	b := newBed(t)
	aer := b.start(b.host.admin, sqe(OpAsyncEventRequest, 0), nil, 0)
	b.host.admin.Disconnect()
	b.host.admin.Disconnect()
	if r := aer.wait(); r.status != AbortedSQDeletion {
		t.Errorf("waiting request: %v", r.status)
	}
	if len(b.sub.Controllers()) != 0 || b.host.closedCount() != 1 {
		t.Errorf("controllers %v, closed %v", b.sub.Controllers(), b.host.closed)
	}
}

// What a host sends while its association is being ended from this side is a matter of the path, at each step of that.
func TestCommandsAtTheEndOfTheController(t *testing.T) {
	b := newBed(t)
	ctrl, io := b.host.io.Controller(), b.host.io
	ctrl.mu.Lock()
	ctrl.mu.ended = true
	ctrl.mu.Unlock()
	ctrl.view.Store(&nsView{})
	b.host.want(InternalPathError, rw(OpRead, 0, 1, 0), nil, bedBlock)
	ctrl.enabled.Store(false)
	b.host.want(InternalPathError, rw(OpRead, 0, 1, 0), nil, bedBlock)
	io.gone.Store(true)
	b.host.want(InternalPathError, rw(OpRead, 0, 1, 0), nil, bedBlock)
}

// NVMe Base 2.0 §3.9: with traffic-based keep-alive any command keeps the
// controller, and silence for KATO ends it.
func TestKeepAlive(t *testing.T) {
	b := newBed(t)
	b.after(4 * time.Second)
	b.host.want(Success, rw(OpRead, 0, 1, 0), nil, bedBlock)
	b.after(4 * time.Second)
	b.host.wantAdmin(Success, sqe(OpKeepAlive, 0), nil, 0)
	b.after(4900 * time.Millisecond)
	b.after(4900 * time.Millisecond)
	if len(b.sub.Controllers()) != 1 {
		t.Fatal("the controller ended too early")
	}
	b.after(200 * time.Millisecond)
	if len(b.sub.Controllers()) != 0 || b.host.closedCount() != 2 {
		t.Errorf("controllers %v, closed %v", b.sub.Controllers(), b.host.closed)
	}
}

// Starts give their controllers different ids, within what is configured: a host
// may still know those of the start before.
func TestControllerIDsDifferBetweenStarts(t *testing.T) {
	first := map[uint16]bool{}
	for range 20 {
		b := newBed(t, func(c *Config, _ *Deps) { c.ControllerIDMin, c.ControllerIDMax = 1000, 1999 })
		id := b.sub.Controllers()[0].ID
		if id < 1000 || id > 1999 {
			t.Fatalf("controller id %d, want one from 1000 to 1999", id)
		}
		first[id] = true
	}
	if len(first) == 1 {
		t.Error("20 starts began with the same controller id")
	}
}

// While the node stands still it reads no commands, and blames no host for it.
func TestKeepAliveOfANodeThatStoodStill(t *testing.T) {
	b := newBed(t)
	b.after(0) // the commands so far count up to now
	b.sub.StoodStill(time.Minute)
	b.after(time.Minute + 4900*time.Millisecond)
	if len(b.sub.Controllers()) != 1 {
		t.Fatal("the controller ended, as if its host had been silent")
	}
	b.after(200 * time.Millisecond)
	if len(b.sub.Controllers()) != 0 {
		t.Error("a silent host keeps its controller")
	}
}

// KATO counts seconds here and is rounded up, never down (NVMe Base 2.0
// §5.27.1.12).
func TestKeepAliveGranularity(t *testing.T) {
	b := newBed(t)
	for _, c := range []struct {
		ms   uint32
		want uint64
	}{{1, 1000}, {1000, 1000}, {1001, 2000}, {0, 0}} {
		b.host.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featKeepAlive), c.ms), nil, 0)
		if r := b.host.wantAdmin(Success, sqe(OpGetFeatures, 0, uint32(featKeepAlive)), nil, 0); r.result != c.want {
			t.Errorf("KATO %d ms reads as %d, want %d", c.ms, r.result, c.want)
		}
	}
	b.host.wantAdmin(KeepAliveInvalid|DNR, sqe(OpKeepAlive, 0), nil, 0)
	b.after(time.Hour)
	if len(b.sub.Controllers()) != 1 {
		t.Error("a controller without keep-alive ended")
	}
	b.connectAdmin(hostB, func(r *ConnectRequest) { r.SubNQN, r.KATO = DiscoveryNQN, 0 })
	b.after(time.Minute)
	if len(b.sub.Controllers()) != 2 {
		t.Error("discovery controller ended after a minute")
	}
	b.after(61 * time.Second)
	if len(b.sub.Controllers()) != 1 {
		t.Error("idle discovery controller without keep-alive lives on")
	}
}

// Until the host has authenticated, nothing else works on any queue (NVMe Base
// 2.0 §8.13).
func TestCommandsBeforeAuthentication(t *testing.T) {
	b := newBed(t)
	r := b.request(hostB, 0)
	r.AuthRequired = true
	q, s, res := b.sub.Connect(r)
	if s != Success || res>>16 != 2 {
		t.Fatalf("got %v, result %#x, want the ATR bit", s, res)
	}
	h := &host{bed: b, admin: q}
	e := sqe(OpFabrics, 0)
	e[4] = FabricsPropertyGet
	e[44] = propVS
	h.wantAdmin(AuthenticationRequired, e, nil, 0)
	h.wantAdmin(AuthenticationRequired, sqe(OpIdentify, 0, 1), nil, identifyBytes)
	q.SetAuthenticated(true)
	h.wantAdmin(Success, e, nil, 0)
}

package nvme

import (
	"testing"

	"blockd.dev/target/access"
)

func (h *host) aer() *call {
	h.tb.Helper()
	return h.start(h.admin, sqe(OpAsyncEventRequest, 0), nil, 0)
}

func (c *call) wantEvent(k eventKind) {
	c.bed.tb.Helper()
	if r := c.wait(); r.status != Success || r.result != eventDescs[k].dword {
		c.bed.tb.Errorf("event is %v with %#x, want %#x", r.status, r.result, eventDescs[k].dword)
	}
}

func (c *call) wantNoEvent() {
	c.bed.tb.Helper()
	if c.finished() {
		c.bed.tb.Errorf("event %#x was reported", c.Result)
	}
}

// NVMe Base 2.0 §5.2: as many requests may wait as AERL says.
func TestEventRequestLimit(t *testing.T) {
	b := newBed(t)
	for range int(b.host.identify(cnsController, 0)[259]) + 1 {
		b.host.aer()
	}
	b.host.wantAdmin(AsyncEventLimitExceeded|DNR, sqe(OpAsyncEventRequest, 0), nil, 0)
}

// A resize reaches a connected host as a namespace attribute notice, once
// until it has read the log page (NVMe Base 2.0 §5.16.1.5).
func TestResizeIsNoticed(t *testing.T) {
	b := newBed(t)
	h := b.host
	x := h.aer()
	if err := b.ram.Resize(2 * bedBlocks * bedBlock); err != nil {
		t.Fatal(err)
	}
	x.wantEvent(eventNamespace)
	y := h.aer()
	if err := b.ram.Resize(3 * bedBlocks * bedBlock); err != nil {
		t.Fatal(err)
	}
	y.wantNoEvent()
	if p := h.logPage(logChangedNamespaces, 4096, 0, true); le.Uint32(p) != 1 {
		t.Errorf("changed namespace %d", le.Uint32(p))
	}
	y.wantNoEvent() // RAE was set
	if p := h.logPage(logChangedNamespaces, 4096, 0, false); le.Uint32(p) != 1 || le.Uint32(p[4:]) != 0 {
		t.Errorf("changed namespace %d", le.Uint32(p))
	}
	y.wantEvent(eventNamespace) // the second change was still to be told
	if p := h.logPage(logChangedNamespaces, 4096, 0, false); le.Uint32(p) != 0 {
		t.Errorf("changed namespace %d after it was read", le.Uint32(p))
	}
	if n := le.Uint64(h.identify(cnsNamespace, 1)); n != 3*bedBlocks {
		t.Errorf("NSZE is %d", n)
	}
	h.want(Success, rw(OpRead, 3*bedBlocks-1, 1, 0), nil, bedBlock)
}

// Events that came before the host asked wait for it; masked ones are not
// kept (NVMe Base 2.0 §5.27.1.8).
func TestEventsWaitAndMask(t *testing.T) {
	b := newBed(t)
	h := b.host
	b.ram.SetReadOnly(true)
	h.aer().wantEvent(eventNamespace)
	if p := h.identify(cnsNamespaceAny, 1); p[8] != 1 {
		t.Error("the namespace is not shown as write protected")
	}
	h.want(NamespaceWriteProtected, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
	h.logPage(logChangedNamespaces, 4096, 0, false)
	h.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featAsyncEvents), 0), nil, 0)
	b.ram.SetReadOnly(false)
	x := h.aer()
	x.wantNoEvent()
	h.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featAsyncEvents), 1<<8), nil, 0)
	x.wantNoEvent()
}

// Mapping and unmapping reach connected hosts without reconnecting; each sees
// only its own.
func TestMapAndUnmapAreNoticed(t *testing.T) {
	second := VolumeID{9}
	b := newBed(t, func(c *Config, _ *Deps) {
		c.Namespaces = append(c.Namespaces, NamespaceConfig{ID: second, Name: "vol1", Device: c.Namespaces[0].Device})
	})
	other := b.connect(hostB)
	x, y := b.host.aer(), other.aer()
	b.configure(func(c *Config) { c.Views = map[string]View{hostA: {300: second}} })
	x.wantEvent(eventNamespace)
	y.wantNoEvent()
	if p := b.host.logPage(logChangedNamespaces, 4096, 0, false); le.Uint32(p) != 300 {
		t.Errorf("changed namespace %d", le.Uint32(p))
	}
	e := rw(OpRead, 0, 1, 0)
	le.PutUint32(e[4:], 300)
	b.host.want(Success, e, nil, bedBlock)
	other.want(InvalidNamespace|DNR, e, nil, bedBlock)
	x = b.host.aer()
	b.configure(func(c *Config) { c.Views = nil })
	x.wantEvent(eventNamespace)
	b.host.want(InvalidNamespace|DNR, e, nil, bedBlock)
}

// More changes than the list holds are FFFFFFFFh (NVMe Base 2.0 §5.16.1.5).
func TestChangedNamespaceListOverflows(t *testing.T) {
	b := newBed(t, func(c *Config, _ *Deps) {
		c.AnyView = View{}
		for n := range uint32(changedMax + 1) {
			c.AnyView[n+1] = bedVolume
		}
	})
	b.ram.SetReadOnly(true)
	p := b.host.logPage(logChangedNamespaces, 4096, 0, false)
	if le.Uint32(p) != NSIDAll || le.Uint32(p[4:]) != 0 {
		t.Errorf("list begins %#x %#x", le.Uint32(p), le.Uint32(p[4:]))
	}
}

// NVMe Base 2.0 §8.1: the state of a group decides whether commands run, the
// host is told of changes and reads them in the log page, per port.
func TestANA(t *testing.T) {
	b := newBed(t)
	h := b.host
	far := b.connect(hostB, func(r *ConnectRequest) { r.Port = 2 })
	page := func(h *host) (count uint64, state uint8) {
		p := h.logPage(logANA, 64, 0, false)
		if le.Uint16(p[8:]) != 1 || le.Uint32(p[16:]) != 1 || le.Uint32(p[20:]) != 1 || le.Uint32(p[48:]) != 1 {
			t.Errorf("ANA log page %x", p)
		}
		return le.Uint64(p), p[32]
	}
	if _, s := page(h); s != uint8(ANAOptimized) {
		t.Errorf("state %#x at first", s)
	}
	for _, c := range []struct {
		state ANAState
		want  Status
	}{
		{ANAInaccessible, ANAInaccessibleStatus}, {ANAPersistent, ANAPersistentLoss},
		{ANAChange, ANATransition}, {ANANonOptimized, Success}, {ANAOptimized, Success},
	} {
		x, y := h.aer(), far.aer()
		before, _ := page(h)
		b.configure(func(cfg *Config) {
			cfg.ANAGroups = []ANAGroup{{ID: 1, Ports: map[uint16]ANAState{1: c.state, 2: ANAOptimized}}}
		})
		x.wantEvent(eventANA)
		y.wantNoEvent()
		if n, s := page(h); s != uint8(c.state) || n == before {
			t.Errorf("log page has state %#x, count %d after %d; want %#x", s, n, before, c.state)
		}
		r := h.start(h.io, rw(OpRead, 0, 1, 0), nil, bedBlock).wait()
		if r.status != c.want {
			t.Errorf("state %#x: read ends with %v, want %v", c.state, r.status, c.want)
		}
		far.want(Success, rw(OpRead, 0, 1, 0), nil, bedBlock)
		b.host.want(Success, sqe(OpFlush, NSIDAll), nil, 0)
		_ = far.start(far.admin, sqe(OpAbort, 0, uint32(y.CID())<<16), nil, 0).wait()
	}
}

// The state of a volume decides its ANA group; a change is an ANA event, and the
// number of groups stays what the host was told when it connected.
func TestAccessMovesANamespace(t *testing.T) {
	b := newBed(t)
	h := b.host
	for _, c := range []struct {
		state access.State
		ana   ANAState
		want  Status
	}{
		{access.Inaccessible, ANAInaccessible, ANAInaccessibleStatus}, {access.Transition, ANAChange, ANATransition},
		{access.NonOptimized, ANANonOptimized, Success}, {access.Optimized, ANAOptimized, Success},
	} {
		x := h.aer()
		b.configure(func(cfg *Config) { cfg.Namespaces[0].Access = c.state })
		y := h.aer()
		if a, n := x.wait().result, y.wait().result; a+n != eventDescs[eventANA].dword+eventDescs[eventNamespace].dword {
			t.Errorf("%v: events %#x and %#x", c.state, a, n)
		}
		h.logPage(logChangedNamespaces, 4096, 0, false)
		p := h.logPage(logANA, 64, 0, false)
		group := le.Uint32(p[16:])
		if group != uint32(c.state)+1 || le.Uint32(p[48:]) != 1 || p[32] != uint8(c.ana) {
			t.Errorf("%v: ANA log page %x", c.state, p)
		}
		if g := le.Uint32(h.identify(cnsNamespace, 1)[92:]); g != group {
			t.Errorf("%v: ANAGRPID is %d, the log page has %d", c.state, g, group)
		}
		if n := le.Uint32(h.identify(cnsController, 0)[348:]); n != 4 {
			t.Errorf("%v: NANAGRPID is %d", c.state, n)
		}
		if r := h.start(h.io, rw(OpRead, 0, 1, 0), nil, bedBlock).wait(); r.status != c.want {
			t.Errorf("%v: a read ends with %v, want %v", c.state, r.status, c.want)
		}
	}
}

func TestANAGroupsOnly(t *testing.T) {
	b := newBed(t)
	e := logEntry(logANA, 64, 0, true)
	e[41] |= 1 // RGO
	p := b.host.wantAdmin(Success, e, nil, 64).data
	if le.Uint16(p[8:]) != 1 || le.Uint32(p[16:]) != 1 || le.Uint32(p[20:]) != 0 || p[32] != 1 {
		t.Errorf("ANA log page %x", p)
	}
}

// A host that may not see anything any more loses its controllers; one that
// is listed in Hosts keeps them.
func TestRemovedHostIsDropped(t *testing.T) {
	b := newBed(t)
	b.connect(hostB)
	b.configure(func(c *Config) { c.AnyView, c.Hosts = nil, []string{hostB} })
	if l := b.sub.Controllers(); len(l) != 1 || l[0].HostNQN != hostB || b.host.closedCount() != 2 {
		t.Errorf("left: %+v", l)
	}
}

// A namespace whose device is replaced is a change; its commands in flight
// still end.
func TestDeviceReplaced(t *testing.T) {
	b := newBed(t)
	b.fault("read hang")
	r := b.start(b.host.io, rw(OpRead, 0, 1, 0), nil, bedBlock)
	x := b.host.aer()
	b.configure(func(c *Config) {
		c.Namespaces = []NamespaceConfig{{ID: bedVolume, Name: "vol0", Device: b.ram}}
	})
	x.wantEvent(eventNamespace)
	b.host.want(Success, rw(OpRead, 0, 1, 0), nil, bedBlock)
	b.faults.Clear()
	b.faults.Resume()
	if s := r.wait().status; s != Success {
		t.Errorf("read in flight: %v", s)
	}
}

func discover(b *bed, nqn string) *host {
	h := b.connectAdmin(nqn, func(r *ConnectRequest) { r.SubNQN = DiscoveryNQN })
	h.setProperty(propCC, 1)
	return h
}

// NVMe Base 2.0 §5.16.1.23: the log page is filtered by host, and counts its
// generations; a persistent connection is told of changes.
func TestDiscovery(t *testing.T) {
	b := newBed(t, func(c *Config, _ *Deps) {
		c.Views = map[string]View{hostA: {1: bedVolume}}
		c.AnyView = nil
		c.DiscoveryPorts = []Port{{ID: 2, Family: IPv6, Addr: "::1", Service: "8009"}}
		c.Referrals = []Port{{ID: 3, Family: IPv4, Addr: "10.0.0.9", Service: "8009"}}
	})
	seen, hidden := discover(b, hostA), discover(b, hostB)
	p := seen.logPage(logDiscovery, 4096, 0, false)
	gen := le.Uint64(p)
	if n := le.Uint64(p[8:]); gen == 0 || n != 3 || le.Uint16(p[16:]) != 0 {
		t.Fatalf("generation %d, %d records", gen, n)
	}
	for i, want := range []struct {
		subtype, family uint8
		nqn, addr, svc  string
	}{
		{subtypeCurrent, 2, DiscoveryNQN, "::1", "8009"},
		{subtypeNVM, 1, bedNQN, "127.0.0.1", "4420"},
		{subtypeReferral, 1, DiscoveryNQN, "10.0.0.9", "8009"},
	} {
		r := p[1024*(i+1):]
		svc, addr := make([]byte, 32), make([]byte, 256)
		pad(svc, want.svc)
		pad(addr, want.addr)
		if r[0] != 3 || r[1] != want.family || r[2] != want.subtype || r[3] != 4 || le.Uint16(r[6:]) != 0xffff || le.Uint16(r[8:]) != 32 ||
			nqnField(r[256:512]) != want.nqn || string(r[512:768]) != string(addr) || string(r[32:64]) != string(svc) {
			t.Errorf("record %d: %x", i, r[:64])
		}
	}
	if n := le.Uint64(hidden.logPage(logDiscovery, 1024, 0, false)[8:]); n != 2 {
		t.Errorf("a host without volumes sees %d records", n)
	}
	x, y := seen.aer(), hidden.aer()
	b.configure(func(c *Config) { c.Views[hostB] = View{1: bedVolume} })
	y.wantEvent(eventDiscovery)
	x.wantNoEvent()
	if p := hidden.logPage(logDiscovery, 1024, 0, false); le.Uint64(p[8:]) != 3 || le.Uint64(p) == gen {
		t.Errorf("generation %d, %d records", le.Uint64(p), le.Uint64(p[8:]))
	}
	b.configure(func(c *Config) {
		c.Ports = append(c.Ports, Port{ID: 4, Family: IPv4, Addr: "127.0.0.2", Service: "4420"})
	})
	x.wantEvent(eventDiscovery)
	gen = le.Uint64(seen.logPage(logDiscovery, 1024, 0, false))
	b.configure(func(c *Config) { c.Serial = "other" })
	if n := le.Uint64(seen.logPage(logDiscovery, 1024, 0, false)); n != gen {
		t.Error("the generation changes with what is not in the page")
	}
}

// A discovery controller has few commands and no I/O queues (NVMe Base 2.0
// §3.1.2.3).
func TestDiscoveryControllerIsSmall(t *testing.T) {
	b := newBed(t)
	h := discover(b, hostB)
	p := h.identify(cnsController, 0)
	if p[111] != 2 || nqnField(p[768:1024]) != DiscoveryNQN || le.Uint32(p[92:]) != 1<<31 || le.Uint16(p[320:]) != 10 {
		t.Errorf("CNTRLTYPE %d, SUBNQN %q, OAES %#x", p[111], nqnField(p[768:1024]), le.Uint32(p[92:]))
	}
	h.wantAdmin(InvalidField|DNR, sqe(OpIdentify, 1, uint32(cnsNamespace)), nil, identifyBytes)
	h.wantAdmin(InvalidLogPage|DNR, logEntry(logANA, 64, 0, false), nil, 64)
	h.wantAdmin(InvalidField|DNR, sqe(OpGetFeatures, 0, uint32(featQueues)), nil, 0)
	h.wantAdmin(Success, sqe(OpKeepAlive, 0), nil, 0)
	b.host.wantAdmin(InvalidLogPage|DNR, logEntry(logDiscovery, 1024, 0, false), nil, 1024)
}

// NVMe Base 2.0 §5.2.1, §5.16.1.3: hosts that asked for it are told when space
// falls below the threshold, once until they have read the log page and it fell
// again; the log page says so to all.
func TestSpareBelowThreshold(t *testing.T) {
	b := newBed(t)
	h := b.host
	smart := func() []byte { return h.logPage(logSMART, 512, 0, false) }
	if p := smart(); p[0] != 0 || p[3] != 100 {
		t.Errorf("SMART at first: %x", p[:8])
	}
	silent := b.connect(hostB).aer() // did not ask
	h.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featAsyncEvents), 1), nil, 0)
	x := h.aer()
	b.sub.SetSpare(10, 10)
	x.wantNoEvent()
	b.sub.SetSpare(9, 10)
	x.wantEvent(eventSpare)
	y := h.aer()
	b.sub.SetSpare(8, 10)
	if p := smart(); p[0] != 1 || p[3] != 8 || p[4] != 10 {
		t.Errorf("SMART when it is low: %x", p[:8])
	}
	y.wantNoEvent()
	b.sub.SetSpare(50, 10)
	if p := smart(); p[0] != 0 || p[3] != 50 {
		t.Errorf("SMART when there is more: %x", p[:8])
	}
	b.sub.SetSpare(1, 10)
	y.wantEvent(eventSpare)
	silent.wantNoEvent()
}

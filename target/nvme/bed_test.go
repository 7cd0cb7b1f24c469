package nvme

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/fault"
	"blockd.dev/blockdev/ram"
)

var le = binary.LittleEndian

const (
	bedBlocks = 8192
	bedBlock  = 512
	bedNQN    = "nqn.2025-01.dev.blockd:test"
	hostA     = "nqn.2025-01.dev.blockd:host-a"
	hostB     = "nqn.2025-01.dev.blockd:host-b"
)

var bedVolume = VolumeID{1, 2, 3}

// bed is a subsystem with one RAM volume behind a fault injector at NSID 1,
// and what a transport does around it.
type bed struct {
	tb     testing.TB
	arena  *arena.Arena
	ram    *ram.Device
	faults *fault.Device
	cfg    Config
	sub    *Subsystem
	host   *host // hostA, connected, with one I/O queue

	mu     sync.Mutex
	now    time.Time
	events []Event
	cid    uint16
}

func newBed(tb testing.TB, change ...func(*Config, *Deps)) *bed {
	tb.Helper()
	b := &bed{tb: tb, now: time.Unix(1_000_000, 0)}
	var err error
	if b.arena, err = arena.New(arena.Config{SizeBytes: 64 << 20, HugePages: arena.Off}); err != nil {
		tb.Fatal(err)
	}
	if b.ram, err = ram.New(ram.Config{SizeBytes: bedBlocks * bedBlock}); err != nil {
		tb.Fatal(err)
	}
	b.faults = fault.New(b.ram, nil)
	b.cfg = Config{
		NQN: bedNQN, Serial: "serial",
		Namespaces: []NamespaceConfig{{ID: bedVolume, Name: "vol0", Device: b.faults}},
		AnyView:    View{1: bedVolume},
		Ports:      []Port{{ID: 1, Family: IPv4, Addr: "127.0.0.1", Service: "4420"}},
	}
	deps := Deps{Arena: b.arena, Now: b.clock, Events: func(e Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e)
	}}
	for _, c := range change {
		c(&b.cfg, &deps)
	}
	if b.sub, err = NewSubsystem(b.cfg, deps); err != nil {
		tb.Fatal(err)
	}
	b.host = b.connect(hostA)
	tb.Cleanup(func() {
		b.sub.Close()
		if err := b.arena.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b
}

func (b *bed) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

// after moves the clock and ticks.
func (b *bed) after(d time.Duration) {
	b.mu.Lock()
	b.now = b.now.Add(d)
	now := b.now
	b.mu.Unlock()
	b.sub.Tick(now)
}

func (b *bed) configure(change func(*Config)) {
	b.tb.Helper()
	change(&b.cfg)
	if err := b.sub.Configure(b.cfg); err != nil {
		b.tb.Fatal(err)
	}
}

// host is a controller as its host has it.
type host struct {
	*bed
	admin, io *Queue
	mu        sync.Mutex
	closed    []error
}

func (b *bed) request(nqn string, qid uint16) *ConnectRequest {
	r := &ConnectRequest{HostNQN: nqn, SubNQN: bedNQN, CNTLID: 0xffff, QID: qid, SQSize: 31, KATO: 5000, Port: 1}
	copy(r.HostID[:], nqn[len(nqn)-6:])
	return r
}

func (b *bed) connect(nqn string, change ...func(*ConnectRequest)) *host {
	b.tb.Helper()
	h := b.connectAdmin(nqn, change...)
	h.enable()
	r := b.request(nqn, 1)
	for _, c := range change {
		c(r)
	}
	r.QID, r.CNTLID, r.Closed = 1, h.admin.Controller().ID(), h.noteClosed
	q, s, _ := b.sub.Connect(r)
	if s != Success {
		b.tb.Fatalf("connect of I/O queue: %v", s)
	}
	h.io = q
	return h
}

func (b *bed) connectAdmin(nqn string, change ...func(*ConnectRequest)) *host {
	b.tb.Helper()
	h := &host{bed: b}
	r := b.request(nqn, 0)
	r.Closed = h.noteClosed
	for _, c := range change {
		c(r)
	}
	q, s, res := b.sub.Connect(r)
	if s != Success {
		b.tb.Fatalf("connect: %v", s)
	}
	if uint16(res) != q.Controller().ID() {
		b.tb.Fatalf("connect gives controller %d, want %d", uint16(res), q.Controller().ID())
	}
	h.admin = q
	return h
}

func (h *host) noteClosed(reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = append(h.closed, reason)
}

func (h *host) closedCount() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.closed)
}

const enableCC = 0x460001

func (h *host) enable() {
	h.tb.Helper()
	h.setProperty(propCC, enableCC)
	if v := h.property(propCSTS, false); v != uint64(cstsReady) {
		h.tb.Fatalf("CSTS is %#x after enabling", v)
	}
}

func (h *host) setProperty(offset, value uint32) Status {
	e := sqe(OpFabrics, 0)
	e[4] = FabricsPropertySet
	le.PutUint32(e[44:], offset)
	le.PutUint64(e[48:], uint64(value))
	return h.start(h.admin, e, nil, 0).wait().status
}

func (h *host) property(offset uint32, wide bool) uint64 {
	e := sqe(OpFabrics, 0)
	e[4] = FabricsPropertyGet
	if wide {
		e[40] = 1
	}
	le.PutUint32(e[44:], offset)
	r := h.start(h.admin, e, nil, 0).wait()
	if r.status != Success {
		h.tb.Fatalf("property %#x: %v", offset, r.status)
	}
	return r.result
}

// sqe makes an entry with Dwords 10 and up.
func sqe(op uint8, nsid uint32, cdw ...uint32) (e [64]byte) {
	e[0], e[1] = op, 1<<6
	le.PutUint32(e[4:], nsid)
	for i, v := range cdw {
		le.PutUint32(e[40+4*i:], v)
	}
	e[39] = byte(SGLTransport)
	return e
}

// rw makes an entry with a range of blocks.
func rw(op uint8, slba uint64, blocks uint32, flags uint32) [64]byte {
	return sqe(op, 1, uint32(slba), uint32(slba>>32), (blocks-1)|flags)
}

func fuse(e [64]byte, f byte) [64]byte {
	e[1] |= f
	return e
}

// call is a command under way.
type call struct {
	*Command
	bed  *bed
	q    *Queue
	sg   arena.SG
	done chan struct{}
}

type result struct {
	status Status
	result uint64
	data   []byte
}

// prepare does what a transport does up to Execute; data is what the host
// sends, in how many bytes it wants.
func (b *bed) prepare(q *Queue, e [64]byte, data []byte, in int) *call {
	c := &call{Command: &Command{SQE: e}, bed: b, q: q, done: make(chan struct{})}
	b.mu.Lock()
	b.cid++
	le.PutUint16(c.SQE[2:], b.cid)
	b.mu.Unlock()
	le.PutUint32(c.SQE[32:], uint32(max(len(data), in)))
	c.Done = func(*Command) { close(c.done) } // a second call panics
	if !q.Prepare(c.Command) {
		close(c.done)
		return c
	}
	if c.Length > 0 {
		if !b.arena.GetSG(c.Length, &c.sg) {
			b.tb.Fatal("arena is empty; leak?")
		}
		c.Data = &c.sg
	}
	if c.Dir == DirOut {
		c.OutLen = c.sg.CopyIn(0, data)
	}
	return c
}

func (b *bed) start(q *Queue, e [64]byte, data []byte, in int) *call {
	c := b.prepare(q, e, data, in)
	if !c.finished() {
		q.Execute(c.Command)
	}
	return c
}

func (c *call) finished() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *call) wait() result {
	select {
	case <-c.done:
	case <-time.After(20 * time.Second):
		c.bed.tb.Fatalf("command %#x does not end", c.Opcode())
	}
	r := result{status: c.Status, result: c.Result}
	if c.InLen > 0 {
		r.data = make([]byte, c.InLen)
		c.sg.CopyOut(0, r.data)
	}
	c.sg.Release()
	return r
}

// want runs a command on the I/O queue and checks its status.
func (h *host) want(s Status, e [64]byte, data []byte, in int) result {
	h.tb.Helper()
	return h.wantOn(h.io, s, e, data, in)
}

func (h *host) wantAdmin(s Status, e [64]byte, data []byte, in int) result {
	h.tb.Helper()
	return h.wantOn(h.admin, s, e, data, in)
}

func (h *host) wantOn(q *Queue, s Status, e [64]byte, data []byte, in int) result {
	h.tb.Helper()
	r := h.start(q, e, data, in).wait()
	if r.status != s {
		h.tb.Errorf("opcode %#02x, Dword 10 %#x, 11 %#x: got %v, want %v", e[0], le.Uint32(e[40:]), le.Uint32(e[44:]), r.status, s)
	}
	if s == Success && len(r.data) != in {
		h.tb.Errorf("opcode %#02x: got %d bytes, want %d", e[0], len(r.data), in)
	}
	return r
}

func (h *host) identify(cns uint8, nsid uint32) []byte {
	h.tb.Helper()
	p := h.wantAdmin(Success, sqe(OpIdentify, nsid, uint32(cns)), nil, identifyBytes).data
	if len(p) != identifyBytes {
		h.tb.FailNow()
	}
	return p
}

// logPage reads n bytes of a log page from off on; rae keeps its event.
func (h *host) logPage(id uint8, n int, off uint64, rae bool) []byte {
	h.tb.Helper()
	p := h.wantAdmin(Success, logEntry(id, n, off, rae), nil, n).data
	if len(p) != n {
		h.tb.FailNow()
	}
	return p
}

func logEntry(id uint8, n int, off uint64, rae bool) [64]byte {
	numd := uint32(n/4 - 1)
	e := sqe(OpGetLogPage, NSIDAll, uint32(id)|numd<<16, numd>>16, uint32(off), uint32(off>>32))
	if rae {
		e[41] |= 0x80
	}
	return e
}

func fill(n int, c byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = c
	}
	return p
}

// blocksAt reads blocks past the command set.
func (b *bed) blocksAt(lba, n int) []byte {
	b.tb.Helper()
	p := make([]byte, n*bedBlock)
	if err := blockdev.ReadAt(b.ram, p, int64(lba*bedBlock)); err != nil {
		b.tb.Fatal(err)
	}
	return p
}

func (b *bed) fault(rule string) {
	b.tb.Helper()
	if _, err := b.faults.AddText(rule); err != nil {
		b.tb.Fatal(err)
	}
}

package nvmetcp_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/ram"
	"blockd.dev/target/auth"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/target/nvmetcp/pdu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	subNQN  = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111"
	hostNQN = "nqn.2014-08.org.nvmexpress:uuid:22222222-2222-4222-8222-222222222222"
)

// bed is a server with one RAM namespace.
type bed struct {
	testing.TB
	device    *ram.Device
	arena     *arena.Arena
	subsystem *nvme.Subsystem
	server    *nvmetcp.Server
	addr      string // of the port
	discovery string // of the discovery port
}

// directory is an NVMeDirectory with one policy for all.
type directory struct {
	policy auth.NVMePolicy
	err    error
}

func (d directory) NVMeHost(string) (auth.NVMePolicy, error) { return d.policy, d.err }

func newBed(t testing.TB, limits nvmetcp.Limits, dir auth.NVMeDirectory) *bed {
	t.Helper()
	return newBedOf(t, limits, dir, func(d blockdev.Device) blockdev.Device { return d })
}

// newBedOf is newBed with something in front of the RAM device.
func newBedOf(t testing.TB, limits nvmetcp.Limits, dir auth.NVMeDirectory, front func(blockdev.Device) blockdev.Device) *bed {
	t.Helper()
	return newBedWith(t, limits, dir, front, func(*nvme.NamespaceConfig) {})
}

// newBedWith is newBedOf with a namespace of another kind.
func newBedWith(t testing.TB, limits nvmetcp.Limits, dir auth.NVMeDirectory, front func(blockdev.Device) blockdev.Device, change func(*nvme.NamespaceConfig)) *bed {
	t.Helper()
	b := &bed{TB: t}
	var err error
	if b.device, err = ram.New(ram.Config{SizeBytes: 64 << 20, BlockSize: 4096}); err != nil {
		t.Fatal(err)
	}
	if b.arena, err = arena.New(arena.Config{SizeBytes: 64 << 20, HugePages: arena.Off}); err != nil {
		t.Fatal(err)
	}
	id := nvme.VolumeID{1}
	namespace := nvme.NamespaceConfig{ID: id, Name: "v", Device: front(b.device)}
	change(&namespace)
	b.subsystem, err = nvme.NewSubsystem(nvme.Config{NQN: subNQN, Serial: "1",
		Namespaces: []nvme.NamespaceConfig{namespace}, AnyView: nvme.View{1: id}},
		nvme.Deps{Arena: b.arena})
	if err != nil {
		t.Fatal(err)
	}
	b.server, err = nvmetcp.New(nvmetcp.Config{Subsystem: b.subsystem, Arena: b.arena, Limits: limits, Auth: dir})
	if err != nil {
		t.Fatal(err)
	}
	listen := func(serve func(net.Listener) error) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- serve(ln) }()
		t.Cleanup(func() {
			if err := <-done; !errors.Is(err, nvmetcp.ErrClosed) {
				t.Errorf("Serve: %v", err)
			}
		})
		return ln.Addr().String()
	}
	b.addr = listen(func(ln net.Listener) error { return b.server.Serve(ln, 1) })
	b.discovery = listen(b.server.ServeDiscovery)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := b.server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		b.subsystem.Close()
		if err := b.arena.Close(); err != nil {
			t.Error(err)
		}
		_ = b.device.Close()
	})
	return b
}

func (b *bed) config() nvmehost.Config {
	return nvmehost.Config{Addr: b.addr, SubNQN: subNQN, HostNQN: hostNQN, HostID: [16]byte{1}}
}

func (b *bed) dial(cfg nvmehost.Config) *nvmehost.Host {
	b.Helper()
	h, err := nvmehost.Dial(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(h.Close)
	return h
}

func (b *bed) namespace(h *nvmehost.Host) *nvmehost.Namespace {
	b.Helper()
	n, err := h.Namespace(1)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// await waits until something is so that nobody tells of.
func (b *bed) await(what string, so func() bool) {
	b.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for !so() {
		select {
		case <-tick.C:
		case <-late:
			b.Fatalf("not within 10 s: %s", what)
		}
	}
}

// works proves that the server serves others.
func (b *bed) works() {
	b.Helper()
	h, err := nvmehost.Dial(b.config())
	if err != nil {
		b.Fatalf("the server does not serve others: %v", err)
	}
	defer h.Close()
	n := b.namespace(h)
	p := make([]byte, 4096)
	if err := blockdev.ReadAt(n, p, 0); err != nil {
		b.Fatal(err)
	}
}

// wire is a connection whose bytes the test writes itself.
type wire struct {
	testing.TB
	net.Conn
	r *bufio.Reader
}

func (b *bed) wire() *wire {
	b.Helper()
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &wire{b.TB, c, bufio.NewReader(c)}
}

func (w *wire) send(p []byte) {
	w.Helper()
	if _, err := w.Write(p); err != nil {
		w.Fatal(err)
	}
}

// init sends an ICReq and takes the ICResp.
func (w *wire) init(q pdu.IC) pdu.IC {
	w.Helper()
	w.send(q.Append(nil))
	var r pdu.IC
	if _, err := r.Decode(w.pdu()); err != nil || !r.Resp {
		w.Fatalf("ICResp: %+v %v", r, err)
	}
	return r
}

// pdu reads one PDU whole.
func (w *wire) pdu() []byte {
	w.Helper()
	b := make([]byte, 8)
	if _, err := io.ReadFull(w.r, b); err != nil {
		w.Fatalf("reading a PDU: %v", err)
	}
	n := binary.LittleEndian.Uint32(b[4:])
	b = append(b, make([]byte, n-8)...)
	if _, err := io.ReadFull(w.r, b[8:]); err != nil {
		w.Fatal(err)
	}
	return b
}

// response reads a response capsule and returns its status.
func (w *wire) response() nvme.Status {
	w.Helper()
	var p pdu.CapsuleResp
	b := w.pdu()
	if pdu.Type(b[0]) != pdu.TypeCapsuleResp {
		w.Fatalf("got %v, want a response", pdu.Type(b[0]))
	}
	if _, err := p.Decode(b); err != nil {
		w.Fatal(err)
	}
	return nvme.Status(binary.LittleEndian.Uint16(p.CQE[14:]) >> 1)
}

// terminated reads until the C2HTermReq and the end of the connection.
func (w *wire) terminated() pdu.FatalError {
	w.Helper()
	for {
		b := w.pdu()
		if pdu.Type(b[0]) != pdu.TypeC2HTermReq {
			continue
		}
		var t pdu.TermReq
		if _, err := t.Decode(b); err != nil {
			w.Fatal(err)
		}
		return t.FatalError
	}
}

// closed reads until the connection ends.
func (w *wire) closed() {
	w.Helper()
	if _, err := io.Copy(io.Discard, w.r); err != nil {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			w.Fatal("the connection stays open")
		}
	}
}

// connectCapsule is a Connect for an admin queue with its data.
func connectCapsule(size uint16) []byte {
	var p pdu.CapsuleCmd
	p.SQE[0], p.SQE[1], p.SQE[4] = nvme.OpFabrics, 0x40, nvme.FabricsConnect
	binary.LittleEndian.PutUint32(p.SQE[32:], nvme.ConnectDataBytes)
	p.SQE[39] = 1
	binary.LittleEndian.PutUint16(p.SQE[44:], size)
	p.SQE[46] = 4
	data := make([]byte, nvme.ConnectDataBytes)
	data[0] = 9
	data[16], data[17] = 0xff, 0xff
	copy(data[256:], subNQN)
	copy(data[512:], hostNQN)
	return append(p.Append(nil, &pdu.Layout{}, len(data)), data...)
}

// noFlowControl is the CATTR of a Connect without SQ flow control.
const noFlowControl = 4

// queueWire is a connection that is an I/O queue, of a controller that is enabled.
func (b *bed) queueWire(cattr byte) *wire {
	b.Helper()
	admin := b.wire()
	admin.init(pdu.IC{})
	admin.send(connectCapsule(31))
	var connected pdu.CapsuleResp
	if _, err := connected.Decode(admin.pdu()); err != nil {
		b.Fatal(err)
	}
	var enable pdu.CapsuleCmd
	enable.SQE[0], enable.SQE[1], enable.SQE[4], enable.SQE[44], enable.SQE[48], enable.SQE[50] = nvme.OpFabrics, 0x40, nvme.FabricsPropertySet, 0x14, 1, 0x46
	admin.send(enable.Append(nil, &pdu.Layout{}, 0))
	if s := admin.response(); s != nvme.Success {
		b.Fatal(s)
	}
	io := b.wire()
	io.init(pdu.IC{})
	connect := connectCapsule(31)
	connect[8+42], connect[8+46] = 1, cattr              // QID
	copy(connect[8+64+16:8+64+18], connected.CQE[:2])    // CNTLID
	binary.LittleEndian.PutUint32(connect[8+48:8+52], 0) // KATO
	io.send(connect)
	if s := io.response(); s != nvme.Success {
		b.Fatal(s)
	}
	return io
}

package iscsi

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/devtest"
	"blockd.dev/blockdev/ram"
	"blockd.dev/target/iscsi/pdu"
	"blockd.dev/target/scsi"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gate is a device whose requests wait while it is shut.
type gate struct {
	blockdev.Device
	mu     sync.Mutex
	shut   bool
	queued []*blockdev.Request
	came   chan struct{} // one token per request that waits
}

func (g *gate) Submit(batch []*blockdev.Request) {
	g.mu.Lock()
	if g.shut {
		g.queued = append(g.queued, batch...)
		g.mu.Unlock()
		for range batch {
			g.came <- struct{}{}
		}
		return
	}
	g.mu.Unlock()
	g.Device.Submit(batch)
}

// Attended implements blockdev.Attendable.
func (g *gate) Attended() blockdev.Attended { return blockdev.AttendedOf(g.Device) }

func (g *gate) close() { g.mu.Lock(); g.shut = true; g.mu.Unlock() }

func (g *gate) open() {
	g.mu.Lock()
	q := g.queued
	g.shut, g.queued = false, nil
	g.mu.Unlock()
	for _, r := range q {
		g.Device.Submit([]*blockdev.Request{r})
	}
}

// rig is a server over a RAM device behind a gate.
type rig struct {
	t      testing.TB
	arena  *arena.Arena
	target *scsi.Target
	srv    *Server
	addr   string
	gate   *gate
	served chan error
	closed bool

	mu     sync.Mutex
	events []Event
	told   chan struct{} // one token per event
}

const testDisk = 64 << 20

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, served: make(chan error, 8), told: make(chan struct{}, 1000)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	r.arena, err = arena.New(arena.Config{SizeBytes: 64 << 20, HugePages: arena.Off})
	must(err)
	disk, err := ram.New(ram.Config{SizeBytes: testDisk})
	must(err)
	r.gate = &gate{Device: &devtest.Attending{Device: disk}, came: make(chan struct{}, 1000)}
	id := scsi.UnitID{1}
	r.target, err = scsi.NewTarget(scsi.TargetConfig{Name: testTarget, AnyView: scsi.View{0: id},
		Units: []scsi.UnitConfig{{ID: id, Name: "v", Device: r.gate}}}, scsi.Deps{Arena: r.arena})
	must(err)
	cfg := Config{TargetName: testTarget, Target: r.target, Arena: r.arena, Events: r.event}
	if change != nil {
		change(&cfg)
	}
	r.srv, err = New(cfg)
	must(err)
	r.addr = r.listen("127.0.0.1:0", 1)
	t.Cleanup(func() { r.close(); must(disk.Close()) })
	return r
}

func (r *rig) listen(addr string, tpgt uint16) string {
	r.t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	started := make(chan struct{})
	go func() { close(started); r.served <- r.srv.Serve(ln, tpgt) }()
	<-started
	return ln.Addr().String()
}

func (r *rig) event(e Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	select {
	case r.told <- struct{}{}:
	default: // nobody waits for so many
	}
}

// await blocks until an event of that kind has come, and takes it.
func (r *rig) await(kind EventKind) Event {
	r.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		r.mu.Lock()
		for i, e := range r.events {
			if e.Kind == kind {
				r.events = append(r.events[:i], r.events[i+1:]...)
				r.mu.Unlock()
				return e
			}
		}
		r.mu.Unlock()
		select {
		case <-r.told:
		case <-deadline:
			r.t.Fatalf("no event %v", kind)
		}
	}
}

// close shuts down at once and proves that no buffer is left out.
func (r *rig) close() {
	if r.closed {
		return
	}
	r.closed = true
	r.gate.open()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.srv.Shutdown(ctx)
	r.target.Close()
	if err := r.arena.Close(); err != nil {
		r.t.Error(err)
	}
}

// frame is one received PDU.
type frame struct {
	pdu.Header
	raw  []byte
	data []byte
}

func (f *frame) decode(t testing.TB, c interface{ Decode([]byte) (int, error) }) {
	t.Helper()
	if _, err := c.Decode(f.raw); err != nil {
		t.Fatalf("%v: %v", f.Opcode, err)
	}
}

// initiator is a small one that does only what a test says.
type initiator struct {
	t               testing.TB
	c               net.Conn
	hdrDig, dataDig bool
	itt, cmdSN      uint32
	expStatSN       uint32
	tsih            uint16
	keys            map[string]string // what the target answered
}

func (r *rig) dial() *initiator {
	r.t.Helper()
	return dial(r.t, r.addr)
}

func dial(t testing.TB, addr string) *initiator {
	t.Helper()
	// From any loopback address, so that thousands of connections that fuzzing
	// leaves in TIME-WAIT don't use up the ports of one.
	from := net.TCPAddr{}
	if to, err := net.ResolveTCPAddr("tcp", addr); err == nil && to.IP.To4() != nil {
		from.IP = net.IPv4(127, byte(rand.IntN(250)+1), byte(rand.IntN(256)), byte(rand.IntN(250)+1))
	}
	c, err := (&net.Dialer{LocalAddr: &from}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	i := &initiator{t: t, c: c, itt: 100, cmdSN: 1000, expStatSN: 1}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { c.Close() })
	return i
}

// session logs in with the keys given beside the names.
func (r *rig) session(keys ...string) *initiator {
	r.t.Helper()
	i := r.dial()
	if status := i.login(append(append([]string(nil), ident...), keys...)...); status != pdu.LoginSuccess {
		r.t.Fatalf("login: status %04x", uint16(status))
	}
	return i
}

func (i *initiator) login(keys ...string) pdu.LoginStatus {
	i.t.Helper()
	return i.loginAs(pdu.LoginRequest{ISID: [6]byte{0x80, 1, 2, 3, 4, 5}}, keys...)
}

func (i *initiator) loginAs(q pdu.LoginRequest, keys ...string) pdu.LoginStatus {
	i.t.Helper()
	data := text(keys...)
	q.Transit, q.CSG, q.NSG = true, pdu.StageOperational, pdu.StageFullFeature
	q.ITT, q.CmdSN, q.ExpStatSN, q.DataLen = 1, i.cmdSN, i.expStatSN, len(data)
	i.send(q.Append(nil), data)
	f := i.recv()
	var resp pdu.LoginResponse
	f.decode(i.t, &resp)
	if resp.Status == pdu.LoginSuccess {
		if !resp.Transit || resp.ExpCmdSN != i.cmdSN || resp.TSIH == 0 {
			i.t.Fatalf("login response %+v", resp)
		}
		i.tsih = resp.TSIH
		i.keys = pairs(i.t, f.data)
		i.hdrDig = i.keys["HeaderDigest"] == "CRC32C"
		i.dataDig = i.keys["DataDigest"] == "CRC32C"
	}
	return resp.Status
}

// encode puts a PDU together, with its digests.
func (i *initiator) encode(hdr, data []byte) []byte {
	b := append([]byte(nil), hdr...)
	if i.hdrDig {
		b = pdu.AppendDigest(b, pdu.Digest(0, hdr))
	}
	if len(data) > 0 {
		n := len(b)
		b = append(b, data...)
		b = append(b, make([]byte, pdu.Pad(len(data)))...)
		if i.dataDig {
			b = pdu.AppendDigest(b, pdu.Digest(0, b[n:]))
		}
	}
	return b
}

func (i *initiator) send(hdr, data []byte) { i.write(i.encode(hdr, data)) }

func (i *initiator) write(b []byte) {
	i.t.Helper()
	if _, err := i.c.Write(b); err != nil {
		i.t.Fatal(err)
	}
}

// recvErr receives one PDU and checks digests and StatSN order.
func (i *initiator) recvErr() (*frame, error) {
	f := &frame{raw: make([]byte, pdu.BHSLen)}
	if _, err := io.ReadFull(i.c, f.raw); err != nil {
		return nil, err
	}
	_, _ = f.Decode(f.raw)
	more := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(i.c, b); err != nil {
			i.t.Fatal(err)
		}
		return b
	}
	if f.AHSLen != 0 {
		i.t.Fatalf("%v with AHS", f.Opcode)
	}
	if i.hdrDig && pdu.DigestAt(more(4)) != pdu.Digest(0, f.raw) {
		i.t.Fatalf("%v: header digest", f.Opcode)
	}
	if f.DataLen > 0 {
		b := more(f.DataLen + pdu.Pad(f.DataLen))
		if i.dataDig && pdu.DigestAt(more(4)) != pdu.Digest(0, b) {
			i.t.Fatalf("%v: data digest", f.Opcode)
		}
		f.data = b[:f.DataLen]
	}
	return f, nil
}

func (i *initiator) recv() *frame {
	i.t.Helper()
	f, err := i.recvErr()
	if err != nil {
		i.t.Fatal(err)
	}
	uses := f.Opcode != pdu.OpR2T && !(f.Opcode == pdu.OpDataIn && f.raw[1]&1 == 0) &&
		!(f.Opcode == pdu.OpNOPIn && f.ITT == pdu.NoTag)
	if sn := uint32(f.raw[24])<<24 | uint32(f.raw[25])<<16 | uint32(f.raw[26])<<8 | uint32(f.raw[27]); uses {
		if sn != i.expStatSN {
			i.t.Fatalf("%v has StatSN %d, want %d", f.Opcode, sn, i.expStatSN)
		}
		i.expStatSN++
	}
	return f
}

// expect receives a PDU of that kind into c.
func (i *initiator) expect(op pdu.Opcode, c interface{ Decode([]byte) (int, error) }) *frame {
	i.t.Helper()
	f := i.recv()
	if f.Opcode != op {
		i.t.Fatalf("received %v (% x), want %v", f.Opcode, f.raw, op)
	}
	f.decode(i.t, c)
	return f
}

// gone checks that the target closed the connection.
func (i *initiator) gone() {
	i.t.Helper()
	for {
		f, err := i.recvErr()
		if err == nil {
			if f.Opcode == pdu.OpAsync || f.Opcode == pdu.OpReject || f.Opcode == pdu.OpNOPIn {
				continue
			}
			i.t.Fatalf("received %v, want the end", f.Opcode)
		}
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			i.t.Fatal("the connection was not closed")
		}
		return
	}
}

// command makes a SCSI command with the next numbers.
func (i *initiator) command(cdb []byte, edtl int) *pdu.SCSICommand {
	i.itt++
	c := &pdu.SCSICommand{Final: true, Attr: 1, ITT: i.itt, Expected: uint32(edtl), CmdSN: i.cmdSN, ExpStatSN: i.expStatSN,
		CDBLen: 16}
	copy(c.CDB[:], cdb)
	i.cmdSN++
	return c
}

func rw10(op byte, lba, blocks int) []byte {
	return []byte{op, 0, byte(lba >> 24), byte(lba >> 16), byte(lba >> 8), byte(lba), 0, byte(blocks >> 8), byte(blocks), 0}
}

const opRead10, opWrite10 = 0x28, 0x2a

// read reads blocks and returns the data.
func (i *initiator) read(lba, blocks int) []byte {
	i.t.Helper()
	c := i.command(rw10(opRead10, lba, blocks), blocks*512)
	c.Read = true
	i.send(c.Append(nil), nil)
	data, status := i.result(c)
	if status != 0 {
		i.t.Fatalf("read of %d blocks at %d: status %#x", blocks, lba, status)
	}
	return data
}

// result gathers the Data-Ins and the status of a command, and checks DataSN,
// offsets and the S bit.
func (i *initiator) result(c *pdu.SCSICommand) (data []byte, status byte) {
	i.t.Helper()
	for sn := uint32(0); ; sn++ {
		f := i.recv()
		switch f.Opcode {
		case pdu.OpDataIn:
			var d pdu.DataIn
			f.decode(i.t, &d)
			if d.ITT != c.ITT || d.DataSN != sn || int(d.Offset) != len(data) {
				i.t.Fatalf("Data-In %+v after %d bytes", d, len(data))
			}
			data = append(data, f.data...)
			if d.HasStatus {
				return data, d.Status
			}
		case pdu.OpSCSIResponse:
			var r pdu.SCSIResponse
			f.decode(i.t, &r)
			if r.ITT != c.ITT || r.ExpDataSN != sn {
				i.t.Fatalf("response %+v after %d Data-Ins", r, sn)
			}
			return data, r.Status
		default:
			i.t.Fatalf("received %v within a read", f.Opcode)
		}
	}
}

// write writes data with immediate data, unsolicited data and what R2Ts ask
// for, in segments of seg bytes, as the session allows, and returns the response.
func (i *initiator) write10(lba int, data []byte, seg int) pdu.SCSIResponse {
	i.t.Helper()
	c := i.command(rw10(opWrite10, lba, len(data)/512), len(data))
	c.Write = true
	first := min(len(data), atoi(i.keys["FirstBurstLength"], 65536))
	if i.keys["ImmediateData"] != "No" {
		c.DataLen = min(seg, first)
	}
	unsolicited := i.keys["InitialR2T"] == "No" && c.DataLen < first
	c.Final = !unsolicited
	i.send(c.Append(nil), data[:c.DataLen])
	if unsolicited {
		i.dataOut(c, pdu.NoTag, data, c.DataLen, first-c.DataLen, seg)
	}
	for sn := uint32(0); ; sn++ {
		f := i.recv()
		if f.Opcode == pdu.OpSCSIResponse {
			var r pdu.SCSIResponse
			f.decode(i.t, &r)
			if r.ExpDataSN != sn {
				i.t.Fatalf("response %+v after %d R2Ts", r, sn)
			}
			return r
		}
		var r pdu.R2T
		f.decode(i.t, &r)
		if r.R2TSN != sn || r.ITT != c.ITT {
			i.t.Fatalf("R2T %+v, want number %d", r, sn)
		}
		i.dataOut(c, r.TTT, data, int(r.Offset), int(r.Length), seg)
	}
}

// dataOut sends one sequence.
func (i *initiator) dataOut(c *pdu.SCSICommand, ttt uint32, data []byte, off, n, seg int) {
	i.t.Helper()
	for sn := uint32(0); n > 0; sn++ {
		m := min(n, seg)
		d := pdu.DataOut{Final: m == n, ITT: c.ITT, TTT: ttt, DataSN: sn, Offset: uint32(off), DataLen: m}
		i.send(d.Append(nil), data[off:off+m])
		off, n = off+m, n-m
	}
}

func atoi(s string, def int) int {
	if n, ok := parseNumber(s); ok {
		return n
	}
	return def
}

// ping checks that the connection works.
func (i *initiator) ping(data string) {
	i.t.Helper()
	i.itt++
	q := pdu.NOPOut{Immediate: true, ITT: i.itt, TTT: pdu.NoTag, CmdSN: i.cmdSN, ExpStatSN: i.expStatSN, DataLen: len(data)}
	i.send(q.Append(nil), []byte(data))
	var r pdu.NOPIn
	if f := i.expect(pdu.OpNOPIn, &r); r.ITT != i.itt || r.TTT != pdu.NoTag || string(f.data) != data {
		i.t.Fatalf("ping answered %+v %q", r, f.data)
	}
}

// settle takes the unit attention that a new nexus begins with.
func (i *initiator) settle() *initiator {
	i.t.Helper()
	for range 8 {
		c := i.command(make([]byte, 6), 0) // TEST UNIT READY
		i.send(c.Append(nil), nil)
		if _, status := i.result(c); status == 0 {
			return i
		}
	}
	i.t.Fatal("the unit does not become ready")
	return nil
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>9) ^ byte(i) ^ seed
	}
	return b
}

package iscsi

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"blockd.dev/target/iscsi/pdu"
)

// ioLoop issues the same command again and again without allocating: it
// patches the numbers into an encoded PDU.
type ioLoop struct {
	i    *initiator
	req  []byte // header and immediate data
	resp []byte // as long as what comes back
	sn   uint32
}

func newLoop(i *initiator, write bool, blocks int) *ioLoop {
	op := byte(opRead10)
	if write {
		op = opWrite10
	}
	n := blocks * 512
	c := i.command(rw10(op, 64, blocks), n)
	c.Read, c.Write = !write, write
	l := &ioLoop{i: i, sn: c.CmdSN, resp: make([]byte, pdu.BHSLen)}
	if write {
		c.DataLen = n
		l.req = i.encode(c.Append(nil), pattern(n, 1))
	} else {
		l.req = i.encode(c.Append(nil), nil)
		l.resp = make([]byte, pdu.BHSLen+n)
	}
	return l
}

// run does depth commands at a time.
func (l *ioLoop) run(t testing.TB, depth int) {
	for range depth {
		binary.BigEndian.PutUint32(l.req[16:], l.sn)
		binary.BigEndian.PutUint32(l.req[24:], l.sn)
		l.sn++
		if _, err := l.i.c.Write(l.req); err != nil {
			t.Fatal(err)
		}
	}
	for range depth {
		if _, err := io.ReadFull(l.i.c, l.resp); err != nil {
			t.Fatal(err)
		}
		if l.resp[3] != 0 || (l.resp[0] != byte(pdu.OpDataIn) && l.resp[0] != byte(pdu.OpSCSIResponse)) {
			t.Fatalf("answered % x", l.resp[:pdu.BHSLen])
		}
	}
}

// In the steady state a READ and a WRITE allocate nothing, from socket to
// device and back.
func TestCommandsDoNotAllocate(t *testing.T) {
	r := newRig(t, nil)
	for _, tc := range []struct {
		name   string
		write  bool
		blocks int
	}{{"4 KiB read", false, 8}, {"4 KiB write", true, 8}, {"128 KiB read", false, 256}, {"128 KiB write", true, 256}} {
		i := r.session("ImmediateData=Yes", "FirstBurstLength=262144", "MaxRecvDataSegmentLength=262144").settle()
		l := newLoop(i, tc.write, tc.blocks)
		for range 20 {
			l.run(t, 8) // fills the pools
		}
		if n := testing.AllocsPerRun(200, func() { l.run(t, 4) }); n != 0 {
			t.Errorf("%s: %v allocations per 4 commands", tc.name, n)
		}
		i.c.Close()
	}
}

func benchmarkIO(b *testing.B, write bool, blocks, depth int) {
	r := newRig(b, nil)
	i := r.session("ImmediateData=Yes", "FirstBurstLength=262144", "MaxRecvDataSegmentLength=262144").settle()
	l := newLoop(i, write, blocks)
	l.run(b, depth)
	b.ReportAllocs()
	b.SetBytes(int64(blocks) * 512)
	for n := 0; n < b.N; n += depth {
		l.run(b, depth)
	}
}

func BenchmarkRead4KQD1(b *testing.B)    { benchmarkIO(b, false, 8, 1) }
func BenchmarkRead4KQD32(b *testing.B)   { benchmarkIO(b, false, 8, 32) }
func BenchmarkWrite4KQD32(b *testing.B)  { benchmarkIO(b, true, 8, 32) }
func BenchmarkRead128KQD8(b *testing.B)  { benchmarkIO(b, false, 256, 8) }
func BenchmarkWrite128KQD8(b *testing.B) { benchmarkIO(b, true, 256, 8) }

// FuzzConnection sends arbitrary bytes, before or after a login, with and
// without digests. The server must go on serving others, and when all is over
// no buffer and no goroutine may be left.
func FuzzConnection(f *testing.F) {
	r := newRig(f, func(c *Config) { c.Events = nil; c.Limits.BufferBytes = 8 << 20 })
	healthy := r.dial()
	if healthy.loginAs(pdu.LoginRequest{ISID: [6]byte{1}}, ident...) != 0 {
		f.Fatal("login")
	}
	healthy.settle()
	_ = healthy.c.(*net.TCPConn).SetDeadline(time.Time{})

	enc := &initiator{itt: 10, cmdSN: 1000}
	cat := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	pduOf := func(hdr []byte, data []byte) []byte { return enc.encode(hdr, data) }
	wr := enc.command(rw10(opWrite10, 0, 16), 8192)
	wr.Write, wr.DataLen, wr.Final = true, 512, false
	out := pdu.DataOut{Final: true, ITT: wr.ITT, TTT: pdu.NoTag, Offset: 512, DataLen: 7680}
	rd := enc.command(rw10(opRead10, 0, 16), 8192)
	rd.Read = true
	tmf := pdu.TMFRequest{Immediate: true, Function: 1, ITT: 5, RefITT: wr.ITT, RefCmdSN: wr.CmdSN, CmdSN: enc.cmdSN}
	txt := pdu.TextRequest{Immediate: true, Final: true, ITT: 6, TTT: pdu.NoTag, DataLen: 16}
	nop := pdu.NOPOut{Immediate: true, ITT: 7, TTT: pdu.NoTag, DataLen: 4}
	bye := pdu.LogoutRequest{Immediate: true, ITT: 8}
	hello := pdu.LoginRequest{Transit: true, CSG: 1, NSG: 3, DataLen: len(text(ident...))}
	whole := cat(pduOf(wr.Append(nil), pattern(512, 1)), pduOf(out.Append(nil), pattern(7680, 1)), pduOf(rd.Append(nil), nil),
		pduOf(tmf.Append(nil), nil), pduOf(txt.Append(nil), text("SendTargets=All")), pduOf(nop.Append(nil), []byte("ping")),
		pduOf(bye.Append(nil), nil))
	f.Add(uint8(1), whole)
	f.Add(uint8(1), pduOf(wr.Append(nil), pattern(512, 1)))
	f.Add(uint8(2), pduOf(rd.Append(nil), nil))
	f.Add(uint8(0), cat(pduOf(hello.Append(nil), text(ident...)), whole))
	f.Add(uint8(3), cat(pduOf(hello.Append(nil), text(ident...)), whole))
	f.Fuzz(func(t *testing.T, mode uint8, b []byte) {
		i := dial(t, r.addr)
		switch mode % 4 {
		case 1:
			if i.login(append([]string{"InitialR2T=No"}, ident...)...) != 0 {
				t.Fatal("login")
			}
		case 2:
			if i.login(append([]string{"HeaderDigest=CRC32C", "DataDigest=CRC32C"}, ident...)...) != 0 {
				t.Fatal("login")
			}
		case 3:
			if i.login(ident[0], "SessionType=Discovery") != 0 {
				t.Fatal("login")
			}
		}
		if _, err := i.c.Write(b); err == nil {
			_ = i.c.(*net.TCPConn).CloseWrite()
		}
		_, _ = io.Copy(io.Discard, i.c)
		healthy.t = t
		healthy.ping("alive")
	})
}

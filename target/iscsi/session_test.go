package iscsi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/target/auth"
	"blockd.dev/target/iscsi/pdu"
	"blockd.dev/target/scsi"
	"blockd.dev/target/sockio"
)

// Data goes in and comes out whole for every combination of immediate data,
// unsolicited data, digests, segment and burst lengths.
func TestDataInEveryBurstShape(t *testing.T) {
	r := newRig(t, nil)
	seed := byte(0)
	for _, r2t := range []string{"Yes", "No"} {
		for _, imm := range []string{"Yes", "No"} {
			for _, dig := range []string{"None", "CRC32C"} {
				for _, lens := range [][3]int{{512, 512, 512}, {8192, 4096, 1024}, {65536, 16384, 16384}, {262144, 65536, 5120}, {1 << 20, 262144, 262144}} {
					name := fmt.Sprintf("InitialR2T=%s ImmediateData=%s digest %s burst %d first %d segment %d", r2t, imm, dig, lens[0], lens[1], lens[2])
					i := r.session("InitialR2T="+r2t, "ImmediateData="+imm, "HeaderDigest="+dig, "DataDigest="+dig,
						fmt.Sprintf("MaxBurstLength=%d", lens[0]), fmt.Sprintf("FirstBurstLength=%d", lens[1]),
						fmt.Sprintf("MaxRecvDataSegmentLength=%d", lens[2]), "MaxOutstandingR2T=3").settle()
					for _, blocks := range []int{1, 2, 3, 17, 128, 700} {
						seed++
						want := pattern(blocks*512, seed)
						if resp := i.write10(5, want, lens[2]); resp.Status != 0 || resp.Residual != (pdu.Residual{}) {
							t.Fatalf("%s: write of %d blocks: %+v", name, blocks, resp)
						}
						if got := i.read(5, blocks); !bytes.Equal(got, want) {
							t.Fatalf("%s: %d blocks differ", name, blocks)
						}
					}
					i.c.Close()
				}
			}
		}
	}
}

func TestResidualsSayWhatMoved(t *testing.T) {
	r := newRig(t, nil)
	i := r.session("ImmediateData=Yes").settle()
	inquiry := []byte{0x12, 0, 0, 0, 255, 0}
	for name, tc := range map[string]struct {
		cdb         []byte
		edtl        int
		read        bool
		over, under bool
	}{
		"inquiry for less than was expected": {inquiry, 4096, true, false, true},
		"read of more than was expected":     {rw10(opRead10, 0, 2), 512, true, true, false},
		"read of less than was expected":     {rw10(opRead10, 0, 1), 1024, true, false, true},
		"read without the R bit":             {rw10(opRead10, 0, 1), 0, false, true, false},
		"exact":                              {rw10(opRead10, 0, 1), 512, true, false, false},
		"no data with an expectation":        {make([]byte, 6), 100, true, false, true},
	} {
		c := i.command(tc.cdb, tc.edtl)
		c.Read = tc.read
		i.send(c.Append(nil), nil)
		f := i.recv()
		var res pdu.Residual
		moved := 0
		if f.Opcode == pdu.OpDataIn {
			var d pdu.DataIn
			f.decode(t, &d)
			res, moved = d.Residual, d.DataLen
			if !d.HasStatus {
				t.Fatalf("%s: no status with the data", name)
			}
		} else {
			var s pdu.SCSIResponse
			f.decode(t, &s)
			res = s.Residual
		}
		if res.Overflow != tc.over || res.Underflow != tc.under || moved > tc.edtl {
			t.Errorf("%s: %+v with %d bytes", name, res, moved)
		}
		if tc.under && int(res.Count) != tc.edtl-moved {
			t.Errorf("%s: underflow of %d, want %d", name, res.Count, tc.edtl-moved)
		}
	}
	// More data than the CDB takes: the rest is dropped and told.
	want := pattern(1024, 9)
	c := i.command(rw10(opWrite10, 40, 1), 1024)
	c.Write, c.DataLen = true, 1024
	i.send(c.Append(nil), want)
	var s pdu.SCSIResponse
	i.expect(pdu.OpSCSIResponse, &s)
	if s.Status != 0 || s.Residual != (pdu.Residual{Underflow: true, Count: 512}) {
		t.Fatalf("write: %+v", s)
	}
	if got := i.read(40, 2); !bytes.Equal(got[:512], want[:512]) || !bytes.Equal(got[512:], make([]byte, 512)) {
		t.Fatal("the write took more or less than its CDB says")
	}
}

// §11.3: a command with both R and W has no meaning for a disk.
func TestBidirectionalCommandsAreRefused(t *testing.T) {
	r := newRig(t, nil)
	i := r.session().settle()
	c := i.command(rw10(opRead10, 0, 1), 512)
	c.Read, c.Write, c.BidiRead = true, true, 512
	i.send(c.Append(nil), nil)
	var s pdu.SCSIResponse
	f := i.expect(pdu.OpSCSIResponse, &s)
	if s.Status != 2 || len(f.data) != 20 || f.data[4] != 5 || f.data[14] != 0x24 {
		t.Fatalf("%+v % x", s, f.data)
	}
	i.ping("still here")
}

// §7.7 at error recovery level 0.
func TestDigestErrors(t *testing.T) {
	r := newRig(t, nil)
	digests := []string{"HeaderDigest=CRC32C", "DataDigest=CRC32C", "InitialR2T=No", "ImmediateData=Yes"}
	var rej pdu.Reject

	i := r.session(digests...).settle()
	q := pdu.NOPOut{Immediate: true, ITT: 7, TTT: pdu.NoTag, CmdSN: i.cmdSN}
	b := i.encode(q.Append(nil), nil)
	b[20] ^= 1
	i.write(b)
	i.gone()
	if ev := r.await(EventDropped); !strings.Contains(ev.Err.Error(), "header digest") {
		t.Errorf("dropped for %v", ev.Err)
	}

	// A command whose immediate data is damaged is as if it had not come: the
	// same number can be used again.
	i = r.session(digests...).settle()
	for _, n := range []int{512, 32768} {
		c := i.command(rw10(opWrite10, 0, n/512), n)
		c.Write, c.DataLen = true, n
		b = i.encode(c.Append(nil), pattern(n, 1))
		b[len(b)-5] ^= 1
		i.write(b)
		if f := i.expect(pdu.OpReject, &rej); rej.Reason != pdu.RejectDataDigest || !bytes.Equal(f.data, c.Append(nil)) {
			t.Fatalf("reject %+v", rej)
		}
		i.send(c.Append(nil), pattern(n, 1))
		var s pdu.SCSIResponse
		i.expect(pdu.OpSCSIResponse, &s)
		if s.Status != 0 {
			t.Fatalf("retry: %+v", s)
		}
	}

	// A damaged Data-Out ends its command, once its sequence is over.
	for _, n := range []int{1024, 65536} {
		c := i.command(rw10(opWrite10, 0, 2*n/512), 2*n)
		c.Write, c.Final = true, false
		i.send(c.Append(nil), nil)
		bad := pdu.DataOut{ITT: c.ITT, TTT: pdu.NoTag, DataLen: n}
		b = i.encode(bad.Append(nil), pattern(n, 1))
		b[60] ^= 1
		i.write(b)
		last := pdu.DataOut{Final: true, ITT: c.ITT, TTT: pdu.NoTag, DataSN: 1, Offset: uint32(n), DataLen: n}
		i.send(last.Append(nil), pattern(n, 1))
		i.expect(pdu.OpReject, &rej)
		var s pdu.SCSIResponse
		f := i.expect(pdu.OpSCSIResponse, &s)
		if s.Status != 2 || f.data[4] != 0x0b || f.data[14] != 0x47 || f.data[15] != 0x05 {
			t.Fatalf("%+v % x", s, f.data)
		}
	}
	i.ping("")
}

// §4.2.2.1: what lies outside the window is ignored, what comes early waits.
func TestCommandOrder(t *testing.T) {
	r := newRig(t, nil)
	i := r.session("InitialR2T=No").settle()
	for _, off := range []int32{-1, 128, 1 << 20} {
		c := i.command(make([]byte, 6), 0)
		i.cmdSN--
		c.CmdSN += uint32(off)
		i.send(c.Append(nil), nil)
		i.ping("nothing came of it")
	}
	// Three writes and their unsolicited data, before the command that is due.
	sn := i.cmdSN
	i.cmdSN++
	want := pattern(3*8192, 5)
	var cmds []*pdu.SCSICommand
	for k := range 3 {
		c := i.command(rw10(opWrite10, k*16, 16), 8192)
		c.Write, c.DataLen, c.Final = true, 1024, false
		cmds = append(cmds, c)
	}
	for _, k := range []int{2, 0, 1} {
		part := want[k*8192 : (k+1)*8192]
		i.send(cmds[k].Append(nil), part[:1024])
		i.dataOut(cmds[k], pdu.NoTag, part, 1024, 8192-1024, 7168)
	}
	i.ping("the gap is open")
	next := i.cmdSN
	i.cmdSN = sn
	due := i.command(make([]byte, 6), 0)
	i.cmdSN = next
	i.send(due.Append(nil), nil)
	for _, c := range append([]*pdu.SCSICommand{due}, cmds...) {
		var s pdu.SCSIResponse
		if i.expect(pdu.OpSCSIResponse, &s); s.ITT != c.ITT || s.Status != 0 {
			t.Fatalf("%+v, want that of %#x", s, c.ITT)
		}
	}
	if !bytes.Equal(i.read(0, 48), want) {
		t.Fatal("data differs")
	}
}

func TestWindowIsAsDeepAsSaid(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits.QueueDepth = 4 })
	i := r.session().settle()
	r.gate.close()
	var cmds []*pdu.SCSICommand
	for range 4 {
		c := i.command(rw10(opRead10, 0, 1), 512)
		c.Read = true
		i.send(c.Append(nil), nil)
		cmds = append(cmds, c)
		<-r.gate.came
	}
	beyond := i.command(rw10(opRead10, 0, 1), 512)
	beyond.Read = true
	i.send(beyond.Append(nil), nil)
	i.ping("ignored")
	r.gate.open()
	var last pdu.DataIn
	for range cmds {
		i.expect(pdu.OpDataIn, &last)
	}
	if last.ExpCmdSN != beyond.CmdSN || last.MaxCmdSN != beyond.CmdSN+3 {
		t.Fatalf("window %d to %d, want %d to %d", last.ExpCmdSN, last.MaxCmdSN, beyond.CmdSN, beyond.CmdSN+3)
	}
	i.send(beyond.Append(nil), nil)
	i.expect(pdu.OpDataIn, &last)
}

func (i *initiator) tmf(fn uint8, c *pdu.SCSICommand) *pdu.TMFRequest {
	i.itt++
	q := &pdu.TMFRequest{Immediate: true, Function: fn, ITT: i.itt, RefITT: pdu.NoTag, CmdSN: i.cmdSN}
	if c != nil {
		q.RefITT, q.RefCmdSN, q.LUN = c.ITT, c.CmdSN, c.LUN
	}
	i.send(q.Append(nil), nil)
	return q
}

// A response to a task management function comes after the tasks are gone, and
// they get none.
func TestTaskManagement(t *testing.T) {
	r := newRig(t, nil)
	var resp pdu.TMFResponse
	for _, fn := range []uint8{1, 2, 4, 5, 6} {
		i := r.session("InitialR2T=Yes", "ImmediateData=No").settle()
		r.gate.close()
		running := i.command(rw10(opRead10, 0, 8), 4096)
		running.Read = true
		i.send(running.Append(nil), nil)
		<-r.gate.came
		waiting := i.command(rw10(opWrite10, 0, 8), 4096)
		waiting.Write = true
		i.send(waiting.Append(nil), nil)
		var ask pdu.R2T
		i.expect(pdu.OpR2T, &ask)

		q := i.tmf(fn, running)
		i.ping("the read is still running")
		r.gate.open()
		if i.expect(pdu.OpTMFResponse, &resp); resp.ITT != q.ITT || resp.Response != 0 {
			t.Fatalf("function %d: %+v", fn, resp)
		}
		if fn == 1 { // the other one is untouched
			i.dataOut(waiting, ask.TTT, pattern(4096, 3), 0, 4096, 4096)
			var s pdu.SCSIResponse
			i.expect(pdu.OpSCSIResponse, &s)
		} else { // its data crosses the abort and is dropped
			i.dataOut(waiting, ask.TTT, pattern(4096, 3), 0, 4096, 4096)
		}
		i.ping("")
		i.settle()
		i.c.Close()
	}
}

func TestAbortTaskByPlaceInTheWindow(t *testing.T) {
	r := newRig(t, nil)
	i := r.session("ImmediateData=No").settle()
	var resp pdu.TMFResponse
	check := func(what string, want uint8) {
		t.Helper()
		if i.expect(pdu.OpTMFResponse, &resp); resp.Response != want {
			t.Fatalf("%s: response %d, want %d", what, resp.Response, want)
		}
	}
	done := i.command(make([]byte, 6), 0)
	i.send(done.Append(nil), nil)
	i.result(done)
	i.tmf(1, done)
	check("a task that has ended", 1)

	waiting := i.command(rw10(opWrite10, 0, 1), 512)
	waiting.Write = true
	i.send(waiting.Append(nil), nil)
	var ask pdu.R2T
	i.expect(pdu.OpR2T, &ask)
	i.tmf(1, waiting)
	check("a task that waits for data", 0)
	i.tmf(1, waiting)
	check("the same again", 1)

	never := i.command(make([]byte, 6), 0) // its number is used up, it is not sent
	i.tmf(1, never)
	check("a task that has not come", 0)
	i.settle() // the numbers go on behind it

	i.tmf(8, nil)
	check("task reassign", 4)
	i.tmf(3, nil)
	check("clear ACA", 5)
	i.tmf(77, nil)
	check("unknown function", 5)
	bad := i.command(nil, 0)
	i.cmdSN--
	bad.LUN = 9 << 48
	i.tmf(5, bad)
	check("reset of a LUN that isn't there", 2)
}

// §11.5.5: ABORT TASK of a command that is missing uses its number up, and what was
// held behind it goes on.
func TestAbortOfWhatIsMissing(t *testing.T) {
	r := newRig(t, nil)
	i := r.session().settle()
	missing := i.command(make([]byte, 6), 0)
	behind := i.command(rw10(opRead10, 0, 1), 512)
	behind.Read = true
	i.send(behind.Append(nil), nil)
	q := i.tmf(1, missing)
	var resp pdu.TMFResponse
	if i.expect(pdu.OpTMFResponse, &resp); resp.ITT != q.ITT || resp.Response != 0 {
		t.Fatalf("%+v", resp)
	}
	if data, status := i.result(behind); status != 0 || len(data) != 512 {
		t.Fatalf("status %#x with %d bytes", status, len(data))
	}
	i.settle()
}

// What is aborted while it is held, or comes after it was aborted, is dropped when its
// turn comes, with its data, and holds nothing up.
func TestAbortOfWhatIsHeld(t *testing.T) {
	r := newRig(t, nil)
	i := r.session("ImmediateData=No", "InitialR2T=No").settle()
	abort := func(c *pdu.SCSICommand) {
		t.Helper()
		i.tmf(1, c)
		var resp pdu.TMFResponse
		if i.expect(pdu.OpTMFResponse, &resp); resp.Response != 0 {
			t.Fatalf("response %d", resp.Response)
		}
	}
	ready := func() *pdu.SCSICommand { return i.command(make([]byte, 6), 0) }
	const burst = 64 << 10
	for round := range heldMax/burst + 1 { // more than may be held, if nothing were dropped
		missing := ready()
		held := i.command(rw10(opWrite10, 0, burst/512), burst)
		held.Write, held.Final = true, false
		i.send(held.Append(nil), nil)
		i.dataOut(held, pdu.NoTag, pattern(burst, 1), 0, burst, 8<<10)
		behind, late, last := ready(), ready(), ready()
		i.send(behind.Append(nil), nil)
		abort(held)
		abort(late)
		i.send(late.Append(nil), nil)
		i.send(last.Append(nil), nil)
		i.send(missing.Append(nil), nil)
		for _, c := range []*pdu.SCSICommand{missing, behind, last} {
			if _, status := i.result(c); status != 0 {
				t.Fatalf("round %d: status %#x", round, status)
			}
		}
	}
	if !bytes.Equal(i.read(0, 128), make([]byte, burst)) {
		t.Error("an aborted write was done")
	}
}

// §7.2.1: what is sent again while it is held is held once, with its data, however often that is.
func TestHeldPDUsAreHeldOnce(t *testing.T) {
	r := newRig(t, nil)
	i := r.session("ImmediateData=Yes", "InitialR2T=No").settle()
	const burst, part, immediate = 64 << 10, 8 << 10, 4 << 10
	missing := i.command(make([]byte, 6), 0)
	data := pattern(burst, 1)
	held := i.command(rw10(opWrite10, 0, burst/512), burst)
	held.Write, held.Final = true, false
	small := i.command(rw10(opWrite10, burst/512, immediate/512), immediate)
	small.Write, small.DataLen = true, immediate
	for n := range uint32(heldMax/burst + 1) { // more than may be held
		i.send(held.Append(nil), nil)
		for sn := range burst / part {
			d := pdu.DataOut{Final: sn == burst/part-1, ITT: held.ITT, TTT: pdu.NoTag, DataSN: uint32(sn), Offset: uint32(sn * part), DataLen: part,
				ExpStatSN: i.expStatSN + n} // which is as of when it is sent
			i.send(d.Append(nil), data[sn*part:][:part])
		}
		i.send(small.Append(nil), data[:immediate])
	}
	for range heldMax/immediate + 1 {
		i.send(small.Append(nil), data[:immediate])
	}
	i.send(missing.Append(nil), nil)
	for _, c := range []*pdu.SCSICommand{missing, held, small} {
		if _, status := i.result(c); status != 0 {
			t.Fatalf("status %#x", status)
		}
	}
	if got := i.read(0, (burst+immediate)/512); !bytes.Equal(got[:burst], data) || !bytes.Equal(got[burst:], data[:immediate]) {
		t.Error("what was held was not written as it was sent")
	}
	i.settle()
}

// What is kept still has a limit, also if it claims to be sent again.
func TestHeldPDUsHaveALimit(t *testing.T) {
	for what, step := range map[string]uint32{"more and more": 1, "another part under the same number": 0} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, nil)
			i := r.session("ImmediateData=No", "InitialR2T=No").settle()
			i.command(make([]byte, 6), 0) // is missing
			const burst, part = 64 << 10, 8 << 10
			held := i.command(rw10(opWrite10, 0, burst/512), burst)
			held.Write, held.Final = true, false
			i.send(held.Append(nil), nil)
			for n := range uint32(heldMax / part) { // and as many headers
				d := pdu.DataOut{ITT: held.ITT, TTT: pdu.NoTag, DataSN: n * step, Offset: n * part, DataLen: part}
				i.send(d.Append(nil), pattern(part, 1))
			}
			i.gone()
		})
	}
}

// A command with a lot of data that is refused uses its number up like any other: what
// is held behind it goes on.
func TestRefusedWriteHoldsNothingUp(t *testing.T) {
	r := newRig(t, nil)
	i := r.session("ImmediateData=Yes", "InitialR2T=Yes").settle()
	r.gate.close()
	busy := i.command(rw10(opRead10, 0, 1), 512)
	busy.Read = true
	i.send(busy.Append(nil), nil)
	<-r.gate.came
	data := pattern(2*sockio.InputMax, 1) // it is never there all at once
	refused := i.command(rw10(opWrite10, 0, len(data)/512), len(data))
	refused.Write, refused.DataLen, refused.ITT = true, len(data), busy.ITT
	behind := i.command(make([]byte, 6), 0)
	i.send(behind.Append(nil), nil)
	i.send(refused.Append(nil), data)
	var rej pdu.Reject
	if i.expect(pdu.OpReject, &rej); rej.Reason != pdu.RejectTaskInProgress {
		t.Fatalf("%+v", rej)
	}
	if _, status := i.result(behind); status != 0 {
		t.Fatalf("status %#x", status)
	}
	r.gate.open()
	i.result(busy)
}

// A cold reset ends every session, of an initiator that has the target for itself;
// another is not authorized (§11.5.1, §11.6.1), and nobody's session ends.
func TestColdResetEndsEverySession(t *testing.T) {
	r := newRig(t, nil)
	a, b, other := r.session(), r.dial(), r.dial()
	if b.loginAs(pdu.LoginRequest{ISID: [6]byte{0x80, 9}}, ident...) != 0 ||
		other.login("InitiatorName=iqn.2025-01.org.example:other", ident[1]) != 0 {
		t.Fatal("login")
	}
	a.tmf(7, nil)
	var resp pdu.TMFResponse
	a.expect(pdu.OpTMFResponse, &resp)
	if resp.Response != 6 {
		t.Fatalf("a cold reset beside another initiator: response %d, want 6", resp.Response)
	}
	for _, i := range []*initiator{a, b, other} {
		i.ping("")
	}
	_ = other.c.Close()
	r.await(EventDropped)
	a.tmf(7, nil)
	a.expect(pdu.OpTMFResponse, &resp)
	if resp.Response != 0 {
		t.Fatalf("a cold reset of the only initiator: response %d", resp.Response)
	}
	a.gone()
	b.gone()
	r.await(EventReset)
}

// §6.3.5: a login with the name and ISID of a session takes its place.
func TestReinstatement(t *testing.T) {
	r := newRig(t, nil)
	isid := pdu.LoginRequest{ISID: [6]byte{0x80, 1, 2, 3, 4, 5}}
	a := r.session().settle()
	r.gate.close()
	c := a.command(rw10(opRead10, 0, 1), 512)
	c.Read = true
	a.send(c.Append(nil), nil)
	<-r.gate.came
	b := r.session() // same ISID, TSIH 0
	a.gone()
	r.gate.open()
	r.await(EventReinstated)
	b.settle()
	if s := r.srv.Sessions(); len(s) != 1 || s[0].TSIH != b.tsih || b.tsih == a.tsih {
		t.Fatalf("sessions %+v", s)
	}
	// The connection of the session is replaced (§6.3.4).
	d := r.dial()
	q := isid
	q.TSIH = b.tsih
	if st := d.loginAs(q, ident...); st != 0 || d.tsih != b.tsih {
		t.Fatalf("connection reinstatement: %04x TSIH %d", uint16(st), d.tsih)
	}
	b.gone()
	d.settle()
	// A second connection is one too many; a session that isn't there is none.
	q.CID = 9
	if st := r.dial().loginAs(q, ident...); st != pdu.LoginTooManyConnections {
		t.Errorf("second connection: %04x", uint16(st))
	}
	q.TSIH += 5
	if st := r.dial().loginAs(q, ident...); st != pdu.LoginNoSession {
		t.Errorf("unknown session: %04x", uint16(st))
	}
	// Another ISID is another session.
	e := r.dial()
	if st := e.loginAs(pdu.LoginRequest{ISID: [6]byte{0x80, 9}}, ident...); st != 0 {
		t.Fatalf("%04x", uint16(st))
	}
	if n := len(r.srv.Sessions()); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
	d.ping("")
}

func TestCHAPOverTheWire(t *testing.T) {
	host, target := mustSecret(t, "secret of the host"), mustSecret(t, "secret of the target")
	dir := policies{policy: auth.Policy{Host: auth.Credentials{Name: "hu", Secret: host}, Target: auth.Credentials{Name: "tu", Secret: target}}}
	r := newRig(t, func(c *Config) { c.Auth = dir })
	step := func(i *initiator, transit bool, nsg pdu.Stage, keys ...string) (pdu.LoginResponse, map[string]string) {
		data := text(keys...)
		q := pdu.LoginRequest{Transit: transit, CSG: pdu.StageSecurity, NSG: nsg, ITT: 1, CmdSN: i.cmdSN, ExpStatSN: i.expStatSN, DataLen: len(data)}
		i.send(q.Append(nil), data)
		var resp pdu.LoginResponse
		f := i.expect(pdu.OpLoginResp, &resp)
		return resp, pairs(t, f.data)
	}
	for _, a := range auth.Algorithms() {
		for _, mode := range []string{"right", "wrong response", "wrong name", "reflected"} {
			i := r.dial()
			resp, got := step(i, true, pdu.StageOperational, append([]string{"AuthMethod=CHAP,None"}, ident...)...)
			if resp.Transit || got["AuthMethod"] != "CHAP" {
				t.Fatalf("%+v %v", resp, got)
			}
			_, got = step(i, false, 0, fmt.Sprintf("CHAP_A=%d,99", a))
			challenge, err := auth.ParseBinary(got["CHAP_C"], auth.ChallengeMax)
			if err != nil || got["CHAP_A"] != itoa(int(a)) {
				t.Fatalf("%v: %v", got, err)
			}
			id := atoi(got["CHAP_I"], -1)
			answer := a.Response(byte(id), host, challenge)
			name, mine := "hu", []byte("the initiator's own challenge")
			switch mode {
			case "wrong response":
				answer[0] ^= 1
			case "wrong name":
				name = "xu"
			case "reflected":
				mine = challenge
			}
			resp, got = step(i, true, pdu.StageFullFeature, "CHAP_N="+name, "CHAP_R="+auth.FormatHex(answer), "CHAP_I=77", "CHAP_C="+auth.FormatHex(mine))
			if mode != "right" {
				if resp.Status != pdu.LoginAuthFailed {
					t.Errorf("%v, %s: status %04x", a, mode, uint16(resp.Status))
				}
				i.gone()
				continue
			}
			if !resp.Transit || got["CHAP_N"] != "tu" || got["CHAP_R"] != auth.FormatHex(a.Response(77, target, mine)) {
				t.Fatalf("%v: %+v %v", a, resp, got)
			}
			i.settle()
			i.c.Close()
		}
	}
	// Discovery is authenticated the same way.
	if st := r.dial().login(ident[0], "SessionType=Discovery"); st != pdu.LoginAuthFailed {
		t.Errorf("discovery without proof: %04x", uint16(st))
	}
}

func (i *initiator) textReq(ttt uint32, final, cont bool, data []byte) *frame {
	i.t.Helper()
	q := pdu.TextRequest{Immediate: true, Final: final, Continue: cont, ITT: 55, TTT: ttt, CmdSN: i.cmdSN, DataLen: len(data)}
	i.send(q.Append(nil), data)
	return i.recv()
}

func TestSendTargets(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Elsewhere = []Portal{{Address: "192.0.2.1:3260", TPGT: 2}} })
	v6 := r.listen("[::1]:0", 7)
	any4 := r.listen("0.0.0.0:0", 8)
	_, port, _ := net.SplitHostPort(any4)
	d := r.dial()
	if st := d.login(ident[0], "SessionType=Discovery"); st != 0 {
		t.Fatalf("%04x", uint16(st))
	}
	f := d.textReq(pdu.NoTag, true, false, text("SendTargets=All"))
	want := strings.Join([]string{"TargetName=" + testTarget, "TargetAddress=" + r.addr + ",1", "TargetAddress=" + v6 + ",7",
		"TargetAddress=127.0.0.1:" + port + ",8", "TargetAddress=192.0.2.1:3260,2", ""}, "\x00")
	if f.Opcode != pdu.OpTextResp || string(f.data) != want {
		t.Fatalf("answered %v %q, want %q", f.Opcode, f.data, want)
	}
	for q, want := range map[string]string{
		"SendTargets=iqn.2025-01.x:y": "",
		"SendTargets=Alle":            "SendTargets=Reject\x00",
		"X-what=1":                    "X-what=NotUnderstood\x00",
		"SendTargets=" + testTarget:   want,
	} {
		if f := d.textReq(pdu.NoTag, true, false, text(q)); string(f.data) != want {
			t.Errorf("%s: %q", q, f.data)
		}
	}
	// In pieces, both ways: the request by the C bit, the answer because the
	// initiator takes 512 bytes at a time.
	if f := d.textReq(pdu.NoTag, true, false, text("MaxRecvDataSegmentLength=512")); f.Opcode != pdu.OpTextResp {
		t.Fatalf("%v", f.Opcode)
	}
	var long []byte
	for k := range 40 {
		long = append(long, text(fmt.Sprintf("X-a-key-that-nobody-knows-%d=1", k))...)
	}
	var resp pdu.TextResponse
	f = d.textReq(pdu.NoTag, false, true, long[:100])
	f.decode(t, &resp)
	if resp.Final || resp.TTT == pdu.NoTag || len(f.data) != 0 {
		t.Fatalf("%+v", resp)
	}
	got := []byte{}
	for rest := long[100:]; ; rest = nil {
		f = d.textReq(resp.TTT, true, false, rest)
		f.decode(t, &resp)
		if got = append(got, f.data...); len(f.data) > 512 {
			t.Fatalf("%d bytes at once", len(f.data))
		}
		if resp.Final {
			break
		}
	}
	if m := pairs(t, got); len(m) != 40 || m["X-a-key-that-nobody-knows-39"] != "NotUnderstood" {
		t.Fatalf("%d answers", len(m))
	}
	// A SCSI command has no place in a discovery session.
	c := d.command(make([]byte, 6), 0)
	d.send(c.Append(nil), nil)
	var rej pdu.Reject
	if d.expect(pdu.OpReject, &rej); rej.Reason != pdu.RejectNotSupported {
		t.Errorf("%+v", rej)
	}
	if f := d.textReq(0x1234, true, false, nil); f.Opcode != pdu.OpReject {
		t.Errorf("a tag that was not given out: %v", f.Opcode)
	}
	if f := d.textReq(pdu.NoTag, true, false, text("MaxBurstLength=512")); f.Opcode != pdu.OpReject {
		t.Errorf("a login key: %v", f.Opcode)
	}
}

func TestLogout(t *testing.T) {
	r := newRig(t, nil)
	var resp pdu.LogoutResponse
	for _, tc := range []struct {
		reason uint8
		cid    uint16
		want   uint8
	}{{0, 5, pdu.LogoutDone}, {1, 0, pdu.LogoutDone}, {1, 5, pdu.LogoutNoCID}, {2, 0, pdu.LogoutNoRecovery}} {
		i := r.session()
		q := pdu.LogoutRequest{Immediate: true, Reason: tc.reason, CID: tc.cid, ITT: 9, CmdSN: i.cmdSN}
		i.send(q.Append(nil), nil)
		if i.expect(pdu.OpLogoutResp, &resp); resp.Response != tc.want {
			t.Errorf("reason %d: response %d, want %d", tc.reason, resp.Response, tc.want)
		}
		if tc.want == pdu.LogoutDone {
			i.gone()
			r.await(EventLogout)
		} else {
			i.ping("still here")
		}
	}
}

func TestRejectsAndDrops(t *testing.T) {
	r := newRig(t, nil)
	i := r.session().settle()
	var rej pdu.Reject
	reject := func(hdr []byte, want pdu.RejectReason) {
		t.Helper()
		i.send(hdr, nil)
		if f := i.expect(pdu.OpReject, &rej); rej.Reason != want || !bytes.Equal(f.data, hdr[:pdu.BHSLen]) {
			t.Fatalf("%+v, want %#x", rej, want)
		}
	}
	reject((&pdu.SNACK{ITT: 1}).Append(nil), pdu.RejectSNACK)
	reject((&pdu.NOPOut{Immediate: true, ITT: 5, TTT: 6}).Append(nil), pdu.RejectInvalidField)
	unknown := (&pdu.SNACK{}).Append(nil)
	unknown[0] = 0x1d
	reject(unknown, pdu.RejectNotSupported)
	bad := i.command(nil, 0)
	hdr := bad.Append(nil)
	hdr[1] |= 7
	reject(hdr, pdu.RejectInvalidField)
	i.settle()

	for name, hdr := range map[string][]byte{
		"login after login":     (&pdu.LoginRequest{Transit: true, CSG: 1, NSG: 3}).Append(nil),
		"data segment too long": (&pdu.NOPOut{Immediate: true, ITT: 5, TTT: pdu.NoTag, DataLen: 1 << 20}).Append(nil),
	} {
		i := r.session()
		i.send(hdr, nil)
		i.gone()
		if ev := r.await(EventDropped); ev.Err == nil {
			t.Errorf("%s: dropped without a reason", name)
		}
	}
	first := r.dial()
	first.send((&pdu.NOPOut{ITT: 1, TTT: pdu.NoTag}).Append(nil), nil)
	first.gone()
	if ev := r.await(EventLoginFailed); !errors.Is(ev.Err, errNotLogin) {
		t.Errorf("%v", ev.Err)
	}
}

// A large NOP-Out and large text go around the input buffer.
func TestSegmentsLargerThanTheInputBuffer(t *testing.T) {
	r := newRig(t, nil)
	i := r.session("MaxRecvDataSegmentLength=262144")
	i.ping(strings.Repeat("x", 200000))
	i.ping("y")
}

func TestSilentPeerIsAskedThenDropped(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits.NOPSeconds, c.Limits.NOPTimeoutSeconds = 1, 1 })
	i := r.session()
	var q pdu.NOPIn
	if i.expect(pdu.OpNOPIn, &q); q.ITT != pdu.NoTag || q.TTT == pdu.NoTag {
		t.Fatalf("%+v", q)
	}
	a := pdu.NOPOut{Immediate: true, ITT: pdu.NoTag, TTT: q.TTT, CmdSN: i.cmdSN}
	i.send(a.Append(nil), nil)
	i.expect(pdu.OpNOPIn, &q) // asked again
	i.gone()
	if ev := r.await(EventDropped); !errors.Is(ev.Err, errSilent) {
		t.Errorf("%v", ev.Err)
	}
}

func TestLimits(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits.Sessions, c.Limits.Logins, c.Limits.LoginSeconds = 1, 2, 1 })
	r.session()
	i := r.dial()
	if st := i.loginAs(pdu.LoginRequest{ISID: [6]byte{0x80, 7}}, ident...); st != pdu.LoginOutOfResources {
		t.Errorf("%04x", uint16(st))
	}
	i.gone()
	r.await(EventLoginFailed)
	a, b, c := r.dial(), r.dial(), r.dial() // accepted in this order
	c.gone()
	a.gone() // the login timeout
	b.gone()
	if st := r.srv.Stats(); st.Refused == 0 || st.Sessions != 1 {
		t.Errorf("%+v", st)
	}
}

// When there are no buffers, commands end with BUSY and the session lives.
func TestOutOfBuffersIsBusy(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits.BufferBytes = 8 << 20 })
	i := r.session().settle()
	r.gate.close()
	var held []*pdu.SCSICommand
	for range 16 {
		c := i.command(rw10(opRead10, 0, 1024), 512<<10)
		c.Read = true
		i.send(c.Append(nil), nil)
		<-r.gate.came
		held = append(held, c)
	}
	c := i.command(rw10(opRead10, 0, 1024), 512<<10)
	c.Read = true
	i.send(c.Append(nil), nil)
	var s pdu.SCSIResponse
	if i.expect(pdu.OpSCSIResponse, &s); s.Status != byte(scsi.StatusBusy) || s.Residual.Count != 512<<10 {
		t.Fatalf("%+v", s)
	}
	r.gate.open()
	for _, c := range held {
		if data, status := i.result(c); status != 0 || len(data) != 512<<10 {
			t.Fatalf("status %#x with %d bytes", status, len(data))
		}
	}
	i.read(0, 1024)
}

// A peer that doesn't read holds only itself.
func TestSlowReaderHoldsOnlyItself(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits.BufferBytes = 16 << 20 })
	slow := r.session().settle()
	for range 64 {
		c := slow.command(rw10(opRead10, 0, 1024), 512<<10)
		c.Read = true
		slow.send(c.Append(nil), nil)
	}
	other := r.dial()
	if st := other.loginAs(pdu.LoginRequest{ISID: [6]byte{0x80, 7}}, ident...); st != 0 {
		t.Fatalf("%04x", uint16(st))
	}
	other.settle()
	for range 200 {
		other.read(0, 8)
	}
	for _, s := range r.srv.Sessions() {
		if s.Stats.HeldBytes > 16<<20 {
			t.Errorf("%d bytes are held", s.Stats.HeldBytes)
		}
	}
}

// What waits to be sent to a slow peer is as it was read, whatever is written
// meanwhile: the data digest, made when it was queued, is right.
func TestWritesLeaveQueuedReadsAlone(t *testing.T) {
	r := newRig(t, nil)
	slow := r.session("DataDigest=CRC32C").settle()
	old := bytes.Repeat([]byte{1}, 512<<10)
	if err := blockdev.WriteAt(r.gate.Device, old, 0); err != nil {
		t.Fatal(err)
	}
	var reads []*pdu.SCSICommand
	for range 64 {
		c := slow.command(rw10(opRead10, 0, 1024), 512<<10)
		c.Read = true
		slow.send(c.Append(nil), nil)
		reads = append(reads, c)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for held := false; !held; {
		for _, s := range r.srv.Sessions() {
			held = held || s.Socket.Stalls > 0 && s.Stats.HeldBytes > 1<<20
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("nothing waits to be sent: the test shows nothing")
		}
	}
	fresh := bytes.Repeat([]byte{2}, 512<<10)
	if err := blockdev.WriteAt(r.gate.Device, fresh, 0); err != nil {
		t.Fatal(err)
	}
	for n, c := range reads {
		data, status := slow.result(c)
		if status != 0 || len(data) != 512<<10 {
			t.Fatalf("read %d: status %#x, %d bytes", n, status, len(data))
		}
		for off := 0; off < len(data); off += 512 {
			if bytes.Count(data[off:off+512], data[off:off+1]) != 512 {
				t.Fatalf("read %d: the block at %d is mixed", n, off)
			}
		}
		if n == 0 && !bytes.Equal(data, old) {
			t.Error("the first read gave what was written after it")
		}
	}
}

func TestShutdownAsksForLogout(t *testing.T) {
	r := newRig(t, nil)
	i := r.session()
	done := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		done <- r.srv.Shutdown(ctx)
	}()
	var a pdu.Async
	if i.expect(pdu.OpAsync, &a); a.Event != pdu.AsyncLogout || a.Parameter3 == 0 {
		t.Fatalf("%+v", a)
	}
	i.ping("commands still work")
	q := pdu.LogoutRequest{Immediate: true, ITT: 9, CmdSN: i.cmdSN}
	i.send(q.Append(nil), nil)
	var resp pdu.LogoutResponse
	i.expect(pdu.OpLogoutResp, &resp)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := <-r.served; !errors.Is(err, ErrClosed) {
		t.Errorf("Serve returned %v", err)
	}
}

func TestShutdownDropsWhoDoesNotListen(t *testing.T) {
	r := newRig(t, nil)
	i := r.session()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.srv.Shutdown(ctx); err != nil {
		t.Errorf("%v, where nothing was under way", err)
	}
	i.gone()
}

// startWrite sends a write of one block that the device keeps, as the gate is shut.
func (r *rig) startWrite(i *initiator, lba int) {
	r.t.Helper()
	c := i.command(rw10(opWrite10, lba, 1), 512)
	c.Write, c.DataLen = true, 512
	i.send(c.Append(nil), pattern(512, 1))
	<-r.gate.came
}

// halts blocks until a session of the server begins no command any more.
func (r *rig) halts() {
	r.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for {
		for _, c := range r.srv.connections() {
			c.mu.Lock()
			halted := c.mu.halted
			c.mu.Unlock()
			if halted {
				return
			}
		}
		select {
		case <-tick.C:
		case <-late:
			r.t.Fatal("no session halts")
		}
	}
}

func (i *initiator) logout() {
	q := pdu.LogoutRequest{Immediate: true, ITT: 9, CmdSN: i.cmdSN}
	i.send(q.Append(nil), nil)
}

// An initiator is told that it is logged out when none of its commands is under way any more:
// it sends those without an answer by another path then. Where it was the target that asked for
// it, they have their answers.
func TestLogoutWaitsForWhatIsUnderWay(t *testing.T) {
	for name, asked := range map[string]bool{"the initiator's": false, "the target's": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			i := r.session("ImmediateData=Yes").settle()
			r.gate.close()
			r.startWrite(i, 0)
			done := make(chan error, 1)
			if asked {
				go func() { done <- r.srv.Shutdown(t.Context()) }()
				i.expect(pdu.OpAsync, &pdu.Async{})
			} else {
				done <- nil
			}
			i.logout()
			var ended atomic.Bool
			go func() {
				defer r.gate.open()
				r.halts()
				ended.Store(true)
			}()
			if asked {
				var s pdu.SCSIResponse
				if i.expect(pdu.OpSCSIResponse, &s); s.Status != 0 {
					t.Errorf("the write: status %#x", s.Status)
				}
			}
			i.expect(pdu.OpLogoutResp, &pdu.LogoutResponse{})
			if !ended.Load() {
				t.Error("logged out with a write under way")
			}
			i.gone()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// An initiator that does not log out when it is asked is disconnected when none of its commands
// is under way any more, of which none begins by then; others are not held up.
func TestShutdownWaitsForWhatIsUnderWay(t *testing.T) {
	r := newRig(t, nil)
	i := r.session("ImmediateData=Yes").settle()
	other := r.dial()
	if s := other.loginAs(pdu.LoginRequest{ISID: [6]byte{0x80, 7}}, ident...); s != pdu.LoginSuccess {
		t.Fatalf("%04x", uint16(s))
	}
	r.gate.close()
	r.startWrite(i, 0)
	down := make(chan error, 1)
	go func() { down <- r.srv.dropHalted(t.Context()) }()
	other.gone()
	later := i.command(rw10(opWrite10, 1, 1), 512)
	later.Write, later.DataLen = true, 512
	i.send(later.Append(nil), pattern(512, 2))
	i.ping("behind the write")
	select {
	case <-r.gate.came:
		t.Error("a command has begun")
	case err := <-down:
		t.Fatalf("over with a write under way: %v", err)
	default:
	}
	r.gate.open()
	var s pdu.SCSIResponse
	if i.expect(pdu.OpSCSIResponse, &s); s.Status != 0 {
		t.Errorf("the write: status %#x", s.Status)
	}
	i.gone()
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// What the device has not done when the time is over is cut off.
func TestShutdownCutsOffWhatTakesTooLong(t *testing.T) {
	r := newRig(t, nil)
	i := r.session("ImmediateData=Yes").settle()
	r.gate.close()
	r.startWrite(i, 0)
	ctx, cancel := context.WithCancel(t.Context())
	down := make(chan error, 1)
	go func() { down <- r.srv.Shutdown(ctx) }()
	i.expect(pdu.OpAsync, &pdu.Async{})
	cancel()
	i.gone()
	r.gate.open()
	if err := <-down; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestConfigureChangesLaterLogins(t *testing.T) {
	r := newRig(t, nil)
	i := r.session()
	if err := r.srv.Configure(Config{TargetName: testTarget, Auth: policies{err: auth.ErrNotAllowed}, Events: r.event}); err != nil {
		t.Fatal(err)
	}
	if st := r.dial().loginAs(pdu.LoginRequest{ISID: [6]byte{0x80, 7}}, ident...); st != pdu.LoginForbidden {
		t.Errorf("%04x", uint16(st))
	}
	i.ping("not thrown out")
	if n := r.srv.Drop(errors.New("no longer allowed"), func(s SessionInfo) bool { return s.Initiator != "" }); n != 1 {
		t.Errorf("dropped %d", n)
	}
	i.gone()
	if err := r.srv.Configure(Config{TargetName: "x"}); err == nil {
		t.Error("a bad name is taken")
	}
	if err := r.srv.Configure(Config{TargetName: testTarget, Redirect: &Redirect{Address: "10.1.1.1:3260"}}); err != nil {
		t.Fatal(err)
	}
	if st := r.dial().login(ident...); st != pdu.LoginMovedTemporarily {
		t.Errorf("%04x", uint16(st))
	}
}

// A target reset that waits for a task must not hold up the login that ends
// the task's nexus.
func TestReinstatementWhileAResetWaits(t *testing.T) {
	r := newRig(t, nil)
	for _, fn := range []uint8{6, 7} {
		a := r.session().settle()
		r.gate.close()
		c := a.command(rw10(opRead10, 0, 1), 512)
		c.Read = true
		a.send(c.Append(nil), nil)
		<-r.gate.came
		a.tmf(fn, nil)
		a.ping("the reset waits")
		b := r.session()
		r.gate.open()
		a.gone()
		r.await(EventReset)
		if fn == 7 {
			b.gone()
		} else {
			b.settle()
		}
		b.c.Close()
	}
}

// How connections waited is counted while they live and when they are gone.
func TestStatsCountWaitsOfConnectionsThatAreGone(t *testing.T) {
	r := newRig(t, nil)
	i := r.session().settle()
	i.read(0, 1)
	now := r.srv.Stats().Poll
	if now.Hits+now.Parks == 0 {
		t.Fatalf("no waits are counted: %+v", now)
	}
	i.c.Close()
	r.await(EventDropped)
	then := r.srv.Stats().Poll
	if then.Hits < now.Hits || then.Parks < now.Parks || then.Spun < now.Spun || then.Spinning != 0 || then.Budget != 0 {
		t.Fatalf("%+v with the connection, %+v without", now, then)
	}
}

package nvme

import (
	"bytes"
	"context"
	"runtime"
	"testing"

	"blockd.dev/target/reservation"
)

func keys(a, b uint64) []byte { return le.AppendUint64(le.AppendUint64(nil, a), b) }

// Entries of the reservation commands, by action and what Dword 10 has else.
func register(rrega, flags uint32) [64]byte { return sqe(OpReservationRegister, 1, rrega|flags) }
func acquire(racqa, rtype uint32) [64]byte  { return sqe(OpReservationAcquire, 1, racqa|rtype<<8) }
func release(rrela, rtype uint32) [64]byte  { return sqe(OpReservationRelease, 1, rrela|rtype<<8) }

func (h *host) report() []byte {
	h.tb.Helper()
	return h.want(Success, sqe(OpReservationReport, 1, 4096/4-1, 1), nil, 4096).data
}

// NVMe Base 2.0 §8.19: a write exclusive reservation keeps the other host from
// writing and not from reading; exclusive access from both.
func TestReservationsKeepOthersOut(t *testing.T) {
	b := newBed(t)
	h, o := b.host, b.connect(hostB)
	h.want(ReservationConflict, acquire(0, 1), keys(1, 0), 0) // not registered
	h.want(Success, register(0, 0), keys(0, 1), 0)
	h.want(ReservationConflict, acquire(0, 1), keys(2, 0), 0) // another key
	h.want(Success, acquire(0, 1), keys(1, 0), 0)
	write := rw(OpWrite, 0, 1, 0)
	o.want(Success, rw(OpRead, 0, 1, 0), nil, bedBlock)
	for _, e := range []struct {
		sqe  [64]byte
		data []byte
	}{
		{write, fill(bedBlock, 1)}, {rw(OpWriteZeroes, 0, 1, 0), nil}, {sqe(OpFlush, 1), nil},
		{sqe(OpDatasetManagement, 1, 0, dsmDeallocate), rangeList(1, 0)}, {sqe(OpCopy, 1, 9, 0, 0), copyList(0, 1)},
	} {
		o.want(ReservationConflict, e.sqe, e.data, 0)
	}
	h.want(Success, write, fill(bedBlock, 1), 0)
	h.want(InvalidField|DNR, release(0, 2), keys(1, 0)[:8], 0) // another type
	h.want(Success, release(0, 1), keys(1, 0)[:8], 0)
	o.want(Success, write, fill(bedBlock, 1), 0)
	h.want(Success, acquire(0, 2), keys(1, 0), 0)
	for _, op := range []uint8{OpRead} {
		o.want(ReservationConflict, rw(op, 0, 1, 0), nil, bedBlock)
	}
	o.want(ReservationConflict, rw(OpCompare, 0, 1, 0), fill(bedBlock, 1), 0)
	o.want(ReservationConflict, rw(OpVerify, 0, 1, 0), nil, 0)
	h.want(Success, register(1, 0), keys(1, 0), 0) // unregister: the reservation goes
	o.want(Success, rw(OpRead, 0, 1, 0), nil, bedBlock)
}

// What is refused before the table is asked (NVMe Base 2.0 §7.2 to §7.5).
func TestReservationFields(t *testing.T) {
	b := newBed(t)
	h := b.host
	h.want(InvalidField|DNR, register(3, 0), keys(0, 1), 0)
	h.want(InvalidField|DNR, register(0, 1<<30), keys(0, 1), 0) // CPTPL 01b
	h.want(InvalidField|DNR, register(0, 0), keys(0, 0), 0)     // key 0
	h.want(InvalidField|DNR, acquire(3, 1), keys(0, 1), 0)
	h.want(InvalidField|DNR, acquire(0, 0), keys(0, 1), 0)
	h.want(InvalidField|DNR, acquire(0, 7), keys(0, 1), 0)
	h.want(InvalidField|DNR, acquire(ignoreKey, 1), keys(0, 1), 0)
	h.want(InvalidField|DNR, release(2, 1), keys(0, 1)[:8], 0)
	h.want(InvalidField|DNR, release(0, 0), keys(0, 1)[:8], 0)
	h.want(InvalidSGLLength|DNR, register(0, 0), keys(0, 1)[:8], 0)
	h.want(HostIDInconsistent|DNR, sqe(OpReservationReport, 1, 1023, 0), nil, 4096) // EDS=0
	nobody := b.connect(hostB, func(r *ConnectRequest) { r.HostID = [16]byte{} })
	nobody.want(HostIDInconsistent|DNR, register(0, 0), keys(0, 1), 0)
}

// NVMe Base 2.0 §7.5 and §5.27.1.30: the report, and PTPL by Register and by
// the feature.
func TestReservationReport(t *testing.T) {
	b := newBed(t)
	h := b.host
	second := b.connect(hostA) // the same host by another controller
	h.want(Success, register(0, 3<<30), keys(0, 7), 0)
	h.want(Success, acquire(0, 3), keys(7, 0), 0)
	// One that uses the volume by iSCSI.
	iscsi := reservation.ISCSI("iqn.2025-01.dev.blockd:x", [6]byte{1}, 1)
	if _, err := b.sub.deps.Reservations.Apply(context.Background(), bedVolume,
		&reservation.Command{Op: reservation.OpRegister, From: iscsi, NewKey: 9}); err != nil {
		t.Fatal(err)
	}
	p := second.report()
	if gen, typ, n, ptpl := le.Uint32(p), p[4], le.Uint16(p[5:]), p[9]; gen != 2 || typ != 3 || n != 3 || ptpl != 1 {
		t.Fatalf("GEN %d, RTYPE %d, REGCTL %d, PTPLS %d", gen, typ, n, ptpl)
	}
	id := h.admin.Controller().HostID()
	for i, want := range []struct {
		cntlid uint16
		holds  uint8
		key    uint64
	}{{h.admin.Controller().ID(), 1, 7}, {second.admin.Controller().ID(), 1, 7}, {0xffff, 0, 9}} {
		r := p[64*(i+1):]
		if le.Uint16(r) != want.cntlid || r[2] != want.holds || le.Uint64(r[8:]) != want.key || (i < 2) != bytes.Equal(r[16:32], id[:]) {
			t.Errorf("entry %d: %x", i, r[:32])
		}
	}
	if r := h.wantAdmin(Success, sqe(OpGetFeatures, 1, uint32(featReservationPTPL)), nil, 0); r.result != 1 {
		t.Errorf("PTPL reads as %d", r.result)
	}
	h.wantAdmin(Success, sqe(OpSetFeatures, 1, uint32(featReservationPTPL), 0), nil, 0)
	if h.report()[9] != 0 {
		t.Error("PTPL is not cleared")
	}
	o := b.connect(hostB)
	o.wantAdmin(ReservationConflict, sqe(OpSetFeatures, 1, uint32(featReservationPTPL), 1), nil, 0)
}

// A host that uses the volume by NVMe sees a reservation taken by iSCSI.
func TestReservationFromTheOtherProtocol(t *testing.T) {
	b := newBed(t)
	iscsi := reservation.ISCSI("iqn.2025-01.dev.blockd:x", [6]byte{1}, 1)
	for _, c := range []reservation.Command{
		{Op: reservation.OpRegister, From: iscsi, NewKey: 9},
		{Op: reservation.OpReserve, From: iscsi, Key: 9, Type: reservation.TypeExclusiveAccess},
	} {
		if r, err := b.sub.deps.Reservations.Apply(context.Background(), bedVolume, &c); err != nil || r.Status != reservation.StatusOK {
			t.Fatal(r, err)
		}
	}
	b.host.want(ReservationConflict, rw(OpRead, 0, 1, 0), nil, bedBlock)
	b.host.want(Success, register(0, 0), keys(0, 1), 0)
	b.host.want(Success, acquire(1, 1), keys(1, 9), 0) // preempt
	b.host.want(Success, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
}

// holderAtTheDevice is another host, with key 2, that holds a reservation and has a write at the device that hangs until the fault is
// cleared; that of the bed is registered with key 1.
func (b *bed) holderAtTheDevice() (o *host, running *call) {
	o = b.connect(hostB)
	b.host.want(Success, register(0, 0), keys(0, 1), 0)
	o.want(Success, register(0, 0), keys(0, 2), 0)
	o.want(Success, acquire(0, 1), keys(2, 0), 0)
	b.fault("write hang")
	return o, b.start(o.io, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
}

// Preemption tells the preempted host, unless it masked that; Preempt and
// Abort ends its commands before it completes (NVMe Base 2.0 §8.19.6).
func TestPreemptAndAbort(t *testing.T) {
	b := newBed(t)
	h := b.host
	o, running := b.holderAtTheDevice()
	held := b.prepare(o.io, rw(OpWrite, 1, 1, 0), fill(bedBlock, 1), 0)
	x := o.aer()
	pre := b.start(h.io, acquire(2, 1), keys(1, 2), 0)
	x.wantEvent(eventReservation)
	if pre.finished() {
		t.Error("Preempt and Abort completed before the write in the device")
	}
	for !running.state.aborted.Load() { // the notice may be faster than the abort
		runtime.Gosched()
	}
	b.faults.Clear()
	b.faults.Resume()
	if s := pre.wait().status; s != Success {
		t.Errorf("preempt: %v", s)
	}
	if s := running.wait().status; s != AbortedPreempt {
		t.Errorf("write in the device: %v", s)
	}
	o.io.Execute(held.Command)
	if s := held.wait().status; s != AbortedPreempt || !bytes.Equal(b.blocksAt(1, 1), fill(bedBlock, 0)) {
		t.Errorf("write that waited for its data: %v", s)
	}
	p := o.logPage(logReservation, 64, 0, false)
	if le.Uint64(p) != 1 || p[8] != 1 || p[9] != 0 || le.Uint32(p[12:]) != 1 {
		t.Errorf("notice %x", p[:16])
	}
	if p := o.logPage(logReservation, 64, 0, false); p[8] != 0 {
		t.Errorf("second notice %x", p[:16])
	}
	// Masked: nothing is logged.
	o.want(Success, register(0, 0), keys(0, 2), 0)
	o.wantAdmin(Success, sqe(OpSetFeatures, NSIDAll, uint32(featReservationMask), 1<<3), nil, 0)
	y := o.aer()
	h.want(Success, release(1, 0), keys(1, 0)[:8], 0) // clear: type 3
	y.wantNoEvent()
	if p := o.logPage(logReservation, 64, 0, false); p[8] != 0 {
		t.Errorf("masked notice %x", p[:16])
	}
}

// What a host had at the device when its connection was lost, or closed, may yet change the volume: Preempt and Abort waits for that as well.
func TestPreemptAndAbortOfALostHost(t *testing.T) {
	for name, lose := range map[string]func(*host){
		"the I/O connection":   func(o *host) { o.io.Disconnect() },
		"the admin connection": func(o *host) { o.admin.Disconnect() },
		"a disconnect": func(o *host) {
			e := sqe(OpFabrics, 0)
			e[4] = FabricsDisconnect
			o.want(Success, e, nil, 0)
		},
		"a reset": func(o *host) { o.io.Controller().closeIO(errReset) },
	} {
		b := newBed(t)
		h := b.host
		o, running := b.holderAtTheDevice()
		lose(o)
		pre := b.start(h.io, acquire(2, 1), keys(1, 2), 0)
		waits := func() int {
			o.io.mu.Lock()
			defer o.io.mu.Unlock()
			return len(running.state.waits)
		}
		for !pre.finished() && waits() < 2 { // who ended the queue, and who preempts
			runtime.Gosched()
		}
		if pre.finished() {
			t.Errorf("%s: Preempt and Abort completed before the write in the device", name)
		}
		b.faults.Clear()
		b.faults.Resume()
		if s := pre.wait().status; s != Success {
			t.Errorf("%s: preempt: %v", name, s)
		}
		running.wait()
		if list := b.sub.ending.of(func(*Controller) bool { return true }); len(list) != 0 {
			t.Errorf("%s: %d queues are ending for ever", name, len(list))
		}
	}
}

// A command that was allowed when it was prepared is stopped by a reservation
// that came before it was executed.
func TestReservationBetweenPrepareAndExecute(t *testing.T) {
	b := newBed(t)
	o := b.connect(hostB)
	c := b.prepare(o.io, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
	x := b.prepare(o.io, fuse(rw(OpCompare, 2, 1, 0), fuseFirst), fill(bedBlock, 0), 0)
	y := b.prepare(o.io, fuse(rw(OpWrite, 2, 1, 0), fuseSecond), fill(bedBlock, 1), 0)
	b.host.want(Success, register(0, 0), keys(0, 1), 0)
	b.host.want(Success, acquire(0, 1), keys(1, 0), 0)
	for _, p := range []*call{c, x, y} {
		o.io.Execute(p.Command)
	}
	if s := c.wait().status; s != ReservationConflict {
		t.Errorf("write: %v", s)
	}
	if s1, s2 := x.wait().status, y.wait().status; s1 != AbortedFailedFused || s2 != ReservationConflict {
		t.Errorf("fused: %v, %v", s1, s2)
	}
}

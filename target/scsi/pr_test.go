package scsi

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/ram"
	"blockd.dev/target/identity"
	"blockd.dev/target/reservation"
)

// heldDevice is a device whose requests can be kept from it.
type heldDevice struct {
	blockdev.Device
	mu   sync.Mutex
	hold bool
	held []*blockdev.Request
}

func (d *heldDevice) Submit(batch []*blockdev.Request) {
	d.mu.Lock()
	if d.hold {
		d.held = append(d.held, batch...)
		d.mu.Unlock()
		return
	}
	d.mu.Unlock()
	d.Device.Submit(batch)
}

func (d *heldDevice) setHold(hold bool) {
	d.mu.Lock()
	d.hold = hold
	held := d.held
	d.held = nil
	d.mu.Unlock()
	if len(held) > 0 {
		d.Device.Submit(held)
	}
}

// prBed is a target with one unit at LUN 0 and the target ports 1 and 2.
type prBed struct {
	t      *testing.T
	target *Target
	arena  *arena.Arena
	device *heldDevice
}

var prUnit = UnitID{0xab}

func newPRBed(t *testing.T, backend ReservationBackend) *prBed {
	t.Helper()
	a, err := arena.New(arena.Config{SizeBytes: 16 << 20, HugePages: arena.Off})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := ram.New(ram.Config{SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	b := &prBed{t: t, arena: a, device: &heldDevice{Device: dev}}
	b.target, err = NewTarget(b.config(), Deps{Arena: a, Reservations: backend})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.target.Close()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *prBed) config() TargetConfig {
	return TargetConfig{
		Name:    "iqn.2025-01.dev.blockd:test",
		Units:   []UnitConfig{{ID: prUnit, Name: "vol", Device: b.device}},
		AnyView: View{0: prUnit},
		Ports:   []PortConfig{{RelativeID: 1, Group: 1}, {RelativeID: 2, Group: 2}},
	}
}

// attach logs an initiator in; its ISID follows from a number, its first unit
// attention is read away.
func (b *prBed) attach(name string, isid byte, port uint16) *Nexus {
	b.t.Helper()
	n := b.target.Attach(NexusID{InitiatorName: "iqn.2026-01.ex:" + name, ISID: [6]byte{0x80, 5: isid}, TargetPort: port})
	if got := b.tur(n); got != "6/2900" && got != "6/2907" {
		b.t.Fatalf("first command of %s: %s", name, got)
	}
	return n
}

// running is a task on its way.
type running struct {
	task *Task
	data arena.SG
	done chan struct{}
}

// prepare decodes a CDB and gives it its data.
func (b *prBed) prepare(n *Nexus, cdb, out []byte) (r *running, over bool) {
	b.t.Helper()
	r = &running{task: &Task{CDB: cdb, Attr: AttrSimple}, done: make(chan struct{})}
	r.task.Done = func(*Task) { close(r.done) }
	if !n.Prepare(r.task) {
		close(r.done)
		return r, true
	}
	if r.task.Length > 0 {
		if !b.arena.GetSG(r.task.Length, &r.data) {
			b.t.Fatal("arena is empty")
		}
		r.task.Data = &r.data
	}
	if r.task.Dir == DirOut {
		r.task.OutLen = r.data.CopyIn(0, out[:min(len(out), r.task.Length)])
	}
	return r, false
}

// result waits and writes down the status, "good", "conflict", "key/asc", and
// the data of a task.
func (r *running) result() (string, []byte) {
	<-r.done
	var in []byte
	if r.task.InLen > 0 {
		in = make([]byte, r.task.InLen)
		r.data.CopyOut(0, in)
	}
	r.data.Release()
	switch {
	case r.task.Silent:
		return "silent", nil
	case r.task.Status == StatusGood:
		return "good", in
	case r.task.Status == StatusReservationConflict:
		return "conflict", nil
	case r.task.Status == StatusCheckCondition && r.task.Sense[0] == 0x70:
		return fmt.Sprintf("%x/%02x%02x", r.task.Sense[2], r.task.Sense[12], r.task.Sense[13]), nil
	case r.task.Status == StatusCheckCondition:
		return fmt.Sprintf("%x/%02x%02x", r.task.Sense[1], r.task.Sense[2], r.task.Sense[3]), nil
	}
	return fmt.Sprintf("status %02xh", uint8(r.task.Status)), nil
}

func (b *prBed) do(n *Nexus, cdb, out []byte) (string, []byte) {
	b.t.Helper()
	r, over := b.prepare(n, cdb, out)
	if !over {
		n.Execute(r.task)
	}
	return r.result()
}

func (b *prBed) want(n *Nexus, want string, cdb, out []byte) {
	b.t.Helper()
	if got, _ := b.do(n, cdb, out); got != want {
		b.t.Fatalf("%s: % x: %s, want %s", n.ID().InitiatorName, cdb, got, want)
	}
}

var (
	cdbTUR       = []byte{0x00, 0, 0, 0, 0, 0}
	cdbInquiry   = []byte{0x12, 0, 0, 0, 36, 0}
	cdbRead      = []byte{0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}
	cdbWrite     = []byte{0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}
	cdbModeSense = []byte{0x1a, 0, 0x3f, 0, 255, 0}
	cdbReserve6  = []byte{0x16, 0, 0, 0, 0, 0}
	cdbRelease6  = []byte{0x17, 0, 0, 0, 0, 0}
	cdbReserve10 = []byte{0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	cdbRelease10 = []byte{0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	block        = make([]byte, 512)
)

func (b *prBed) tur(n *Nexus) string { b.t.Helper(); s, _ := b.do(n, cdbTUR, nil); return s }

func prOutCDB(sa prOutAction, typ reservation.Type, length int) []byte {
	cdb := []byte{0x5f, byte(sa), byte(typ), 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(cdb[5:], uint32(length))
	return cdb
}

// out runs a PERSISTENT RESERVE OUT without TransportIDs.
func (b *prBed) out(n *Nexus, want string, sa prOutAction, typ reservation.Type, key, saKey uint64, flags byte) {
	b.t.Helper()
	b.want(n, want, prOutCDB(sa, typ, prOutBasicLen), prOutBasic(key, saKey, flags))
}

// in runs a PERSISTENT RESERVE IN.
func (b *prBed) in(n *Nexus, sa prInAction, allocation uint16) []byte {
	b.t.Helper()
	cdb := []byte{0x5e, byte(sa), 0, 0, 0, 0, 0, byte(allocation >> 8), byte(allocation), 0}
	s, data := b.do(n, cdb, nil)
	if s != "good" {
		b.t.Fatalf("PERSISTENT RESERVE IN %d: %s", sa, s)
	}
	return data
}

func (b *prBed) keys(n *Nexus) []uint64 {
	b.t.Helper()
	data := b.in(n, prInReadKeys, 4096)
	if int(binary.BigEndian.Uint32(data[4:])) != len(data)-8 {
		b.t.Fatalf("READ KEYS: % x", data)
	}
	var keys []uint64
	for p := data[8:]; len(p) > 0; p = p[8:] {
		keys = append(keys, binary.BigEndian.Uint64(p))
	}
	return keys
}

func (b *prBed) wantKeys(n *Nexus, want ...uint64) {
	b.t.Helper()
	if got := b.keys(n); !slices.Equal(got, want) {
		b.t.Fatalf("registered keys %x, want %x", got, want)
	}
}

var sixTypes = []reservation.Type{1, 3, 5, 6, 7, 8}

// TestPRAccess runs commands of every access class from the holder, another
// registrant, and a stranger, under every type (SPC-5 "SPC commands that are
// allowed in the presence of various reservations"; SBC-4 has the like). A
// stranger never writes, under all-registrants types neither.
func TestPRAccess(t *testing.T) {
	for _, typ := range sixTypes {
		t.Run(typ.String(), func(t *testing.T) {
			b := newPRBed(t, nil)
			holder, registrant, stranger := b.attach("a", 1, 1), b.attach("b", 1, 1), b.attach("c", 1, 1)
			b.out(holder, "good", prOutRegister, 0, 0, 1, 0)
			b.out(registrant, "good", prOutRegister, 0, 0, 2, 0)
			b.out(holder, "good", prOutReserve, typ, 1, 0, 0)

			shared := typ.RegistrantsOnly() || typ.AllRegistrants()
			readable := typ == 1 || typ == 5 || typ == 7
			verdict := func(ok bool) string {
				if ok {
					return "good"
				}
				return "conflict"
			}
			for _, n := range []*Nexus{holder, registrant, stranger} {
				b.want(n, "good", cdbTUR, nil)
				b.want(n, "good", cdbInquiry, nil)
			}
			b.want(holder, "good", cdbRead, nil)
			b.want(holder, "good", cdbWrite, block)
			b.want(registrant, verdict(shared || readable), cdbRead, nil)
			b.want(registrant, verdict(shared), cdbWrite, block)
			b.want(stranger, verdict(readable), cdbRead, nil)
			b.want(stranger, "conflict", cdbWrite, block)

			want := uint64(1)
			if typ.AllRegistrants() {
				want = 0
			}
			r := b.in(stranger, prInReadReservation, 255)
			if len(r) != 24 || binary.BigEndian.Uint64(r[8:]) != want || r[21] != byte(typ) {
				t.Fatalf("READ RESERVATION: % x", r)
			}
			b.out(holder, "good", prOutRelease, typ, 1, 0, 0)
			if got, want := b.tur(registrant), map[bool]string{true: "6/2a04", false: "good"}[shared]; got != want {
				t.Fatalf("the other registrant after the release: %s, want %s", got, want)
			}
			b.want(stranger, "good", cdbWrite, block)
			if r := b.in(stranger, prInReadReservation, 255); len(r) != 8 {
				t.Fatalf("READ RESERVATION without one: % x", r)
			}
		})
	}
}

// TestPRInTruncation: ADDITIONAL LENGTH is not altered by the allocation
// length (SPC-5 "READ KEYS parameter data"), and zero is no error.
func TestPRInTruncation(t *testing.T) {
	b := newPRBed(t, nil)
	n := b.attach("a", 1, 1)
	b.out(n, "good", prOutRegister, 0, 0, 1, 0)
	if data := b.in(n, prInReadKeys, 8); len(data) != 8 || data[7] != 8 {
		t.Fatalf("% x", data)
	}
	if data := b.in(n, prInReadFullStatus, 0); data != nil {
		t.Fatalf("% x", data)
	}
	for sa := byte(4); sa < 0x20; sa++ {
		b.want(n, "5/2400", []byte{0x5e, sa, 0, 0, 0, 0, 0, 1, 0, 0}, nil)
	}
	for sa := byte(8); sa < 0x20; sa++ {
		b.want(n, "5/2400", prOutCDB(prOutAction(sa), 0, prOutBasicLen), prOutBasic(1, 0, 0))
	}
}

// TestPROutErrors walks the refusals of PERSISTENT RESERVE OUT.
func TestPROutErrors(t *testing.T) {
	b := newPRBed(t, nil)
	n, other := b.attach("a", 1, 1), b.attach("b", 1, 1)
	b.out(n, "conflict", prOutReserve, 1, 0, 0, 0)
	b.out(n, "conflict", prOutRegister, 0, 9, 1, 0)
	b.out(n, "good", prOutRegister, 0, 0, 1, 0)
	b.out(n, "conflict", prOutRegister, 0, 0, 2, 0)
	b.out(n, "5/2400", prOutReserve, 2, 1, 0, 0)    // TYPE
	b.out(n, "5/2400", prOutReserve, 0x21, 1, 0, 0) // SCOPE
	b.out(n, "5/2400", prOutPreempt, 0x11, 1, 1, 0)
	b.out(n, "5/2600", prOutPreempt, 1, 1, 0, 0) // SERVICE ACTION RESERVATION KEY
	b.out(n, "conflict", prOutPreempt, 1, 1, 7, 0)
	b.out(n, "good", prOutReserve, 1, 1, 0, 0)
	b.out(n, "5/2604", prOutRelease, 3, 1, 0, 0)
	b.out(n, "5/2400", prOutPreempt, 2, 1, 1, 0) // TYPE matters when it is taken
	b.out(n, "5/2600", prOutReserve, 1, 1, 0, 0x08)
	b.want(n, "5/1a00", prOutCDB(prOutRegister, 0, 23), make([]byte, 23))
	b.want(n, "5/1a00", prOutCDB(prOutRegister, 0, 25), make([]byte, 25))
	b.want(n, "5/1a00", prOutCDB(prOutRegister, 0, 0), nil)
	b.want(n, "5/1a00", prOutCDB(prOutRegister, 0, prOutMaxLen+1), nil)
	b.want(n, "5/1a00", prOutCDB(prOutRegister, 0, prOutBasicLen), make([]byte, 8)) // the initiator sent less
	b.wantKeys(other, 1)
}

// TestPRUnitAttentions: who hears of what (SPC-5 "Preempting", "Clearing").
func TestPRUnitAttentions(t *testing.T) {
	b := newPRBed(t, nil)
	a, c, d := b.attach("a", 1, 1), b.attach("c", 1, 1), b.attach("d", 1, 1)
	b.out(a, "good", prOutRegister, 0, 0, 1, 0)
	b.out(c, "good", prOutRegister, 0, 0, 2, 0)
	b.out(d, "good", prOutRegister, 0, 0, 3, 0)
	b.out(a, "good", prOutReserve, 5, 1, 0, 0)
	b.out(c, "good", prOutPreempt, 6, 2, 1, 0)
	for _, tc := range []struct {
		n    *Nexus
		want string
	}{{a, "6/2a05"}, {a, "good"}, {c, "good"}, {d, "6/2a04"}, {d, "good"}} {
		if got := b.tur(tc.n); got != tc.want {
			t.Fatalf("after PREEMPT %s: %s, want %s", tc.n.ID().InitiatorName, got, tc.want)
		}
	}
	b.out(d, "good", prOutClear, 0, 3, 0, 0)
	if got := b.tur(c); got != "6/2a03" {
		t.Fatalf("after CLEAR: %s", got)
	}
	if got := b.tur(a) + b.tur(d); got != "goodgood" {
		t.Fatalf("after CLEAR: %s", got)
	}
	b.wantKeys(a)
}

// TestPreemptAndAbortEndsTasks: the command answers after the tasks of the
// preempted nexus have ended, and none of them, whatever step it was at, has
// an effect afterwards.
func TestPreemptAndAbortEndsTasks(t *testing.T) {
	b := newPRBed(t, nil)
	a, c := b.attach("a", 1, 1), b.attach("c", 1, 1)
	b.out(a, "good", prOutRegister, 0, 0, 1, 0)
	b.out(c, "good", prOutRegister, 0, 0, 2, 0)
	b.out(a, "good", prOutReserve, 5, 1, 0, 0)

	bad := make([]byte, 512)
	for i := range bad {
		bad[i] = 0xee
	}
	waiting, _ := b.prepare(a, cdbWrite, bad) // its data is still on the way
	b.device.setHold(true)
	atDevice, _ := b.prepare(a, cdbRead, nil)
	a.Execute(atDevice.task)

	preempt, _ := b.prepare(c, prOutCDB(prOutPreemptAndAbort, 5, prOutBasicLen), prOutBasic(2, 1, 0))
	c.Execute(preempt.task)
	for !atDevice.task.state.aborted.Load() {
		runtime.Gosched()
	}
	b.device.setHold(false)
	if got, _ := preempt.result(); got != "good" {
		t.Fatalf("PREEMPT AND ABORT: %s", got)
	}
	select {
	case <-atDevice.done:
	default:
		t.Fatal("answered before the task at the device ended")
	}
	if got, _ := atDevice.result(); got != "silent" {
		t.Fatalf("the task at the device: %s", got)
	}
	a.Execute(waiting.task)
	if got, _ := waiting.result(); got != "silent" {
		t.Fatalf("the task that had been prepared: %s", got)
	}
	b.want(a, "conflict", cdbWrite, bad)
	_, data := b.do(c, cdbRead, nil)
	if slices.Contains(data, 0xee) {
		t.Fatal("an aborted write reached the device")
	}
}

// TestTasksOfALostNexus: a write that a nexus had at the device when it was lost has ended when a preemption, or
// a reset, by another nexus is answered: after that it changes nothing.
func TestTasksOfALostNexus(t *testing.T) {
	for name, end := range map[string]func(b *prBed, c *Nexus) (over chan struct{}){
		"PREEMPT AND ABORT": func(b *prBed, c *Nexus) chan struct{} {
			preempt, _ := b.prepare(c, prOutCDB(prOutPreemptAndAbort, 5, prOutBasicLen), prOutBasic(2, 1, 0))
			b.t.Cleanup(preempt.data.Release)
			c.Execute(preempt.task)
			return preempt.done
		},
		"LOGICAL UNIT RESET": func(_ *prBed, c *Nexus) chan struct{} {
			over := make(chan struct{})
			c.TaskManagement(TMFLUNReset, 0, nil, func(TMFResult) { close(over) })
			return over
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newPRBed(t, nil)
			a, c := b.attach("a", 1, 1), b.attach("c", 1, 1)
			b.out(a, "good", prOutRegister, 0, 0, 1, 0)
			b.out(c, "good", prOutRegister, 0, 0, 2, 0)
			b.out(a, "good", prOutReserve, 5, 1, 0, 0)
			b.device.setHold(true)
			write, _ := b.prepare(a, cdbWrite, make([]byte, 512))
			a.Execute(write.task)
			lu, set := write.task.state.itl.lu, &write.task.state.itl.set
			a.Detach()
			over := end(b, c)
			for waits := 0; waits < 2; { // the end of the nexus, and c
				select {
				case <-over:
					t.Error("answered while the write was at the device")
					waits = 2
				default:
					runtime.Gosched()
					set.mu.Lock()
					waits = len(write.task.state.waits)
					set.mu.Unlock()
				}
			}
			b.device.setHold(false)
			<-over
			write.result()
			if n := len(lu.each()); n != 1 {
				t.Errorf("the unit knows %d nexuses", n)
			}
		})
	}
}

// gatedReserve is a backend in which RESERVE waits for the test, as it may for other nodes.
type gatedReserve struct {
	reservation.Memory
	came, gate chan struct{}
}

func (g *gatedReserve) Apply(ctx context.Context, id reservation.VolumeID, c *reservation.Command) (reservation.Result, error) {
	if c.Op == reservation.OpLegacyReserve {
		close(g.came)
		<-g.gate
	}
	return g.Memory.Apply(ctx, id, c)
}

// TestPreemptAndAbortWaitsForNoReservationCommand: those of the preempted nexus may wait for the
// preemption itself, and meet the new table.
func TestPreemptAndAbortWaitsForNoReservationCommand(t *testing.T) {
	g := &gatedReserve{came: make(chan struct{}), gate: make(chan struct{})}
	b := newPRBed(t, g)
	a, c := b.attach("a", 1, 1), b.attach("c", 1, 1)
	b.out(a, "good", prOutRegister, 0, 0, 1, 0)
	b.out(c, "good", prOutRegister, 0, 0, 2, 0)
	reserve, _ := b.prepare(a, []byte{0x16, 0, 0, 0, 0, 0}, nil)
	a.Execute(reserve.task)
	<-g.came
	b.out(c, "good", prOutPreemptAndAbort, 5, 2, 1, 0)
	close(g.gate)
	if got, _ := reserve.result(); got != "conflict" {
		t.Errorf("RESERVE of the preempted: %s", got)
	}
}

// TestReservationBetweenPrepareAndExecute: a task that was prepared before a
// reservation and starts after it meets the conflict.
func TestReservationBetweenPrepareAndExecute(t *testing.T) {
	b := newPRBed(t, nil)
	a, c := b.attach("a", 1, 1), b.attach("c", 1, 1)
	w, _ := b.prepare(a, cdbWrite, block)
	b.out(c, "good", prOutRegister, 0, 0, 2, 0)
	b.out(c, "good", prOutReserve, 3, 2, 0, 0)
	a.Execute(w.task)
	if got, _ := w.result(); got != "conflict" {
		t.Fatal(got)
	}
}

// TestReservationStopsExtendedCopy: a copy between two units that is under way
// writes no more once its host is fenced from the destination, which is not
// the unit that the command was sent to.
func TestReservationStopsExtendedCopy(t *testing.T) {
	b := newPRBed(t, nil)
	dest, err := ram.New(ram.Config{SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	cfg := b.config()
	destID := UnitID{0xcd}
	cfg.Units = append(cfg.Units, UnitConfig{ID: destID, Name: "dest", Device: dest})
	if err := b.target.Configure(cfg); err != nil {
		t.Fatal(err)
	}
	// c sees the destination at LUN 0.
	cfg.Views = map[string]View{"iqn.2026-01.ex:a": {0: prUnit, 1: destID}, "iqn.2026-01.ex:c": {0: destID}}
	if err := b.target.Configure(cfg); err != nil {
		t.Fatal(err)
	}
	a, c := b.attach("a", 1, 1), b.attach("c", 1, 1)
	full := make([]byte, 512)
	for i := range full {
		full[i] = 0xee
	}
	b.want(a, "good", cdbWrite, full)

	p := make([]byte, 16+2*32+28)
	p[1], p[3], p[11] = 3<<3, 2*32, 28
	for i, id := range []UnitID{prUnit, destID} {
		d := p[16+32*i:]
		naa := identity.NAA(id)
		d[0], d[4], d[5], d[7] = 0xe4, codeBinary, designatorNAA, byte(copy(d[8:], naa[:]))
		d[30] = 2 // 512-byte blocks
	}
	seg := p[16+64:]
	seg[0], seg[3], seg[7], seg[11] = 0x02, 24, 1, 1
	cdb := make([]byte, 16)
	cdb[0], cdb[13] = 0x83, byte(len(p))

	for _, fenced := range []bool{true, false} {
		b.device.setHold(true)
		copying, over := b.prepare(a, cdb, p)
		if over {
			got, _ := copying.result()
			t.Fatal(got)
		}
		a.Execute(copying.task)
		want := "good"
		if fenced {
			want = "a/0d01"
			b.out(c, "good", prOutRegister, 0, 0, 1, 0)
			b.out(c, "good", prOutReserve, 1, 1, 0, 0)
		}
		b.device.setHold(false)
		if got, _ := copying.result(); got != want {
			t.Fatalf("fenced %v: the copy ends with %s", fenced, got)
		}
		if _, data := b.do(c, cdbRead, nil); slices.Contains(data, 0xee) == fenced {
			t.Fatalf("fenced %v: the destination has %x...", fenced, data[:4])
		}
		if fenced {
			b.out(c, "good", prOutClear, 0, 1, 0, 0)
		}
	}
}

// TestPRSurvivesRelogin: the nexus is the name, the ISID and the port, not the
// session (SPC-5 "Persistent reservations").
func TestPRSurvivesRelogin(t *testing.T) {
	b := newPRBed(t, nil)
	a := b.attach("a", 1, 1)
	b.out(a, "good", prOutRegister, 0, 0, 1, 0)
	b.out(a, "good", prOutReserve, 3, 1, 0, 0)
	a.Detach()
	b.want(b.attach("a", 2, 1), "conflict", cdbWrite, block) // another ISID
	b.want(b.attach("a", 1, 2), "conflict", cdbWrite, block) // another port
	back := b.attach("a", 1, 1)
	b.want(back, "good", cdbWrite, block)
	b.out(back, "good", prOutRelease, 3, 1, 0, 0)
}

// TestPRPersists: with APTPL a restart finds the reservation in force.
func TestPRPersists(t *testing.T) {
	dir := t.TempDir()
	for _, aptpl := range []byte{0, 1} {
		local, err := reservation.OpenLocal(dir)
		if err != nil {
			t.Fatal(err)
		}
		b := newPRBed(t, local)
		a := b.attach("a", 1, 1)
		b.out(a, "good", prOutRegisterIgnore, 0, 0, 1, aptpl)
		b.out(a, "good", prOutReserve, 3, 1, 0, 0)

		if local, err = reservation.OpenLocal(dir); err != nil {
			t.Fatal(err)
		}
		b = newPRBed(t, local)
		want := map[byte]string{0: "good", 1: "conflict"}[aptpl]
		b.want(b.attach("c", 1, 1), want, cdbWrite, block)
		b.want(b.attach("a", 1, 1), "good", cdbWrite, block)
		if caps := b.in(b.attach("d", 1, 1), prInReportCapabilities, 8); caps[3]&1 != aptpl {
			t.Fatalf("PTPL_A: % x", caps)
		}
	}
}

// TestPRManyPorts: ALL_TG_PT, SPEC_I_PT with both TransportID formats, and
// REGISTER AND MOVE through commands.
func TestPRManyPorts(t *testing.T) {
	b := newPRBed(t, nil)
	a1, a2 := b.attach("a", 1, 1), b.attach("a", 1, 2)
	b.out(a1, "good", prOutRegister, 0, 0, 1, 0x04)
	b.wantKeys(a2, 1, 1)
	b.out(a2, "good", prOutReserve, 3, 1, 0, 0)
	b.want(a2, "good", cdbWrite, block)
	b.want(a1, "conflict", cdbWrite, block)
	b.out(a1, "good", prOutClear, 0, 1, 0, 0)
	if got := b.tur(a2); got != "6/2a03" {
		t.Fatal(got)
	}

	list := func(ids ...[]byte) []byte {
		p := append(prOutBasic(0, 5, 0x08), 0, 0, 0, 0)
		for _, id := range ids {
			p = append(p, id...)
		}
		p[27] = byte(len(p) - prOutSpecLen)
		return p
	}
	port := func(n *Nexus) []byte { id := n.id; return appendTransportID(nil, id.identity()) }
	device := append([]byte{5, 0, 0, 20}, "iqn.2026-01.ex:e\x00\x00\x00\x00"...)
	c, e1, e2 := b.attach("c", 1, 1), b.attach("e", 1, 1), b.attach("e", 2, 1)
	p := list(device, port(c))
	b.want(a1, "good", prOutCDB(prOutRegister, 0, len(p)), p)
	b.wantKeys(a1, 5, 5, 5, 5)
	for _, n := range []*Nexus{c, e1, e2} {
		b.out(n, "good", prOutRegister, 0, 5, 6, 0)
	}
	p = list(append([]byte{5, 0, 0, 20}, "iqn.2026-01.ex:x\x00\x00\x00\x00"...))
	b.want(a2, "5/2600", prOutCDB(prOutRegister, 0, len(p)), p) // nobody knows x
	p = list(port(c))
	b.want(b.attach("g", 1, 1), "5/2400", prOutCDB(prOutRegister, 0, len(p)), p) // registered already
	b.want(a1, "conflict", prOutCDB(prOutRegister, 0, len(p)), p)

	move := func(n *Nexus, want string, to []byte, port uint16, flags byte) {
		t.Helper()
		p := append(prOutBasic(5, 7, 0), to...)
		p[17], p[23] = flags, byte(len(to))
		binary.BigEndian.PutUint16(p[18:], port)
		b.want(n, want, prOutCDB(prOutRegisterAndMove, 0, len(p)), p)
	}
	move(a1, "5/2400", port(c), 1, 0) // nothing to move
	b.out(a1, "good", prOutReserve, 3, 5, 0, 0)
	move(a1, "5/2600", port(c), 9, 0)  // no such port
	move(a1, "5/2600", device, 1, 0)   // two ports
	move(a1, "5/2600", port(a1), 1, 0) // to itself
	move(a1, "good", port(c), 2, 0x02)
	b.want(a1, "conflict", cdbWrite, block)
	b.want(c, "conflict", cdbWrite, block)
	b.want(b.attach("c", 1, 2), "good", cdbWrite, block)
	b.wantKeys(e1, 6, 6, 6, 7)

	// The holder's descriptor is the last: c through port 2.
	full := b.in(e1, prInReadFullStatus, 4096)
	id := port(c)
	last := full[len(full)-24-len(id):]
	if binary.BigEndian.Uint64(last) != 7 || last[12] != 1 || last[13] != 3 || binary.BigEndian.Uint16(last[18:]) != 2 || !slices.Equal(last[24:], id) {
		t.Fatalf("READ FULL STATUS: % x", last)
	}
}

// TestLegacyReserve walks RESERVE and RELEASE (SPC-2 5.5.1).
func TestLegacyReserve(t *testing.T) {
	b := newPRBed(t, nil)
	a, c := b.attach("a", 1, 1), b.attach("c", 1, 1)
	for _, cdbs := range [][2][]byte{{cdbReserve6, cdbRelease6}, {cdbReserve10, cdbRelease10}} {
		reserve, release := cdbs[0], cdbs[1]
		b.want(a, "good", reserve, nil)
		b.want(a, "good", reserve, nil)
		b.want(c, "conflict", reserve, nil)
		b.want(c, "good", release, nil)
		b.want(a, "good", cdbModeSense, nil)
		b.want(c, "conflict", cdbModeSense, nil)
		b.want(c, "conflict", cdbTUR, nil)
		b.want(c, "good", cdbInquiry, nil)
		b.want(a, "good", cdbWrite, block)
		b.want(c, "conflict", cdbRead, nil)
		for _, n := range []*Nexus{a, c} {
			b.out(n, "conflict", prOutRegister, 0, 0, 1, 0)
			b.want(n, "conflict", []byte{0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0}, nil)
		}
		b.want(a, "good", release, nil)
		b.want(c, "good", reserve, nil)
		b.want(c, "good", release, nil)
	}
	// Third-party and extent reservations are long obsolete.
	for _, bits := range []byte{0x10, 0x01, 0x02} {
		b.want(a, "5/2400", []byte{0x16, bits, 0, 0, 0, 0}, nil)
		b.want(a, "5/2400", []byte{0x56, bits, 0, 0, 0, 0, 0, 0, 0, 0}, nil)
	}
}

// TestLegacyReserveEnds with the nexus, by reset of the unit and of the
// target; persistent reservations don't.
func TestLegacyReserveEnds(t *testing.T) {
	for name, end := range map[string]func(*prBed, *Nexus){
		"nexus loss": func(b *prBed, n *Nexus) { n.Detach() },
		"reinstatement": func(b *prBed, n *Nexus) {
			b.target.Attach(n.ID())
		},
		"unmapping": func(b *prBed, n *Nexus) {
			cfg := b.config()
			cfg.AnyView = nil
			cfg.Views = map[string]View{}
			for _, other := range []string{"a", "c", "d"} {
				if name := "iqn.2026-01.ex:" + other; name != n.ID().InitiatorName {
					cfg.Views[name] = View{0: prUnit}
				}
			}
			if err := b.target.Configure(cfg); err != nil {
				b.t.Fatal(err)
			}
		},
		"LUN reset": func(b *prBed, n *Nexus) { b.tmf(n, TMFLUNReset) },
		"warm":      func(b *prBed, n *Nexus) { b.tmf(n, TMFTargetWarmReset) },
		"cold":      func(b *prBed, n *Nexus) { b.tmf(n, TMFTargetColdReset) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newPRBed(t, nil)
			a, c := b.attach("a", 1, 1), b.attach("c", 1, 1)
			b.want(a, "good", cdbReserve6, nil)
			b.want(c, "conflict", cdbReserve6, nil)
			end(b, a)
			b.tur(c) // takes the unit attention of a reset
			b.want(c, "good", cdbReserve6, nil)
			b.want(c, "good", cdbRelease6, nil)

			b.out(c, "good", prOutRegister, 0, 0, 1, 0)
			b.out(c, "good", prOutReserve, 3, 1, 0, 0)
			end(b, c)
			b.want(b.attach("d", 1, 1), "conflict", cdbWrite, block)
		})
	}
}

func (b *prBed) tmf(n *Nexus, fn TMF) {
	b.t.Helper()
	done := make(chan TMFResult, 1)
	n.TaskManagement(fn, 0, nil, func(r TMFResult) { done <- r })
	if r := <-done; r != TMFComplete {
		b.t.Fatalf("task management %d: %d", fn, r)
	}
}

// TestCompatibleReservationHandling: CRH=1 (SPC-5 "Exceptions to SPC-2
// RESERVE and RELEASE behavior").
func TestCompatibleReservationHandling(t *testing.T) {
	b := newPRBed(t, nil)
	a, c, d := b.attach("a", 1, 1), b.attach("c", 1, 1), b.attach("d", 1, 1)
	b.out(a, "good", prOutRegister, 0, 0, 1, 0)
	b.want(a, "conflict", cdbReserve6, nil)
	b.out(c, "good", prOutRegister, 0, 0, 2, 0)
	b.out(a, "good", prOutReserve, 5, 1, 0, 0)
	for _, n := range []*Nexus{a, c} {
		b.want(n, "good", cdbReserve6, nil)
		b.want(n, "good", cdbRelease10, nil)
	}
	b.want(d, "conflict", cdbReserve10, nil)
	b.want(d, "conflict", cdbRelease6, nil)
	b.want(c, "good", cdbWrite, block)
	b.want(d, "conflict", cdbWrite, block)
}

// TestConflictDoesNotAllocate: the check before each command is free.
func TestConflictDoesNotAllocate(t *testing.T) {
	b := newPRBed(t, nil)
	a, c := b.attach("a", 1, 1), b.attach("c", 1, 1)
	lu := a.itls()[0].lu
	check := func() {
		if n := testing.AllocsPerRun(100, func() { lu.conflict(c, accessWrite) }); n != 0 {
			t.Fatalf("%v allocations", n)
		}
	}
	check()
	b.out(a, "good", prOutRegister, 0, 0, 1, 0)
	b.out(a, "good", prOutReserve, 5, 1, 0, 0)
	check()
	if !lu.conflict(c, accessWrite) || lu.conflict(a, accessWrite) {
		t.Fatal("wrong verdict")
	}
}

// TestPRConcurrently lets nexuses fight with every kind of command; whatever
// happens, everything is answered.
func TestPRConcurrently(t *testing.T) {
	b := newPRBed(t, nil)
	var wg sync.WaitGroup
	for i := range byte(4) {
		n := b.attach("a", i, 1)
		key := uint64(i) + 1
		wg.Go(func() {
			for range 100 {
				for _, r := range []struct {
					sa    prOutAction
					saKey uint64
				}{{prOutRegisterIgnore, key}, {prOutReserve, 0}, {prOutPreemptAndAbort, key%4 + 1}} {
					b.do(n, prOutCDB(r.sa, 7, prOutBasicLen), prOutBasic(key, r.saKey, 0))
				}
				b.do(n, cdbWrite, block)
				b.do(n, cdbReserve6, nil)
				b.do(n, cdbRelease6, nil)
			}
		})
	}
	wg.Wait()
}

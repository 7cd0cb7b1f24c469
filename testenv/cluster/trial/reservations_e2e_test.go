//go:build e2e

package trial

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/testenv/cluster"
	"blockd.dev/tools/blockbench/iscsihost"
)

// TestReservationsOutliveTheOwner: a reservation of several hosts, registrants only, holds by the paths of all nodes and over
// both protocols, before the owner of the volume is killed, when another has taken over, and when the dead one is
// back. A host that is preempted after the takeover, first over NVMe/TCP and then, after another one, over iSCSI, is fenced on
// all paths when the command is answered.
func TestReservationsOutliveTheOwner(t *testing.T) {
	c := cluster.New(t, Cluster)
	tr, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	f := &fenced{t: t, tr: tr, up: tr.names(), hosts: map[string]*reserver{
		"a": {speaks: overISCSI, id: 1, key: 0xa}, "b": {speaks: overNVMe, id: 2, key: 0xb},
		"c": {speaks: overISCSI, id: 3, key: 0xc}, "d": {speaks: overNVMe, id: 4, key: 0xd},
	}}
	f.register("a")
	f.register("b")
	f.reserve("a")
	f.only("two hosts are registered", "a", "b")

	f.killOwner()
	f.only("the owner is dead", "a", "b")
	f.preempt("b", "a")
	f.only("a is preempted over NVMe/TCP", "b")
	f.restart()
	f.only("the node is back", "b")

	f.register("c")
	f.killOwner()
	f.only("the next owner is dead", "b", "c")
	f.preempt("c", "b")
	f.only("b is preempted over iSCSI", "c")
	f.restart()
	f.only("that node is back too", "c")
}

// fenced is hosts that share a volume by reservations.
type fenced struct {
	t     *testing.T
	tr    *Trial
	hosts map[string]*reserver
	up    []string // nodes
	dead  string   // the other one
	wrote int      // writes so far
	last  []byte   // what the block holds
}

// reserver is a host, with the key that it registers.
type reserver struct {
	speaks protocol
	id     byte
	key    uint64
}

// Reservation types: write exclusive, registrants only (SPC-5 §6.13.4; NVMe Base 2.0, Reservation Acquire).
const (
	scsiRegistrantsOnly = 5
	nvmeRegistrantsOnly = 3
)

// PERSISTENT RESERVE OUT (SPC-5 §6.16) and the commands of NVMe Base 2.0, "Reservations".
const (
	opPersistentReserveOut    = 0x5f
	actionRegister            = 0x00
	actionReserve             = 0x01
	actionPreempt             = 0x04
	opReservationRegister     = 0x0d
	opReservationAcquire      = 0x11
	acquirePreempt            = 1
	reservationConflict       = 0x83 // of NVMe
	statusCheckCondition      = 0x02
	senseUnitAttention        = 0x06
	persistentReserveOutBytes = 24
)

// session is a host's path to a node.
type session struct {
	blockdev.Device
	scsi  *iscsihost.Session
	nvme  *nvmehost.Host
	close func()
}

// open connects a host to a node.
func (f *fenced) open(host, node string) (s *session, err error) {
	h, n := f.hosts[host], f.tr.nodes[slices.Index(f.tr.names(), node)]
	name := "2026-01.dev.blockd:fenced-" + host
	err = f.tr.c.Do(cluster.HostName, func() (err error) {
		if h.speaks == overISCSI {
			u, err := iscsihost.Dial(f.t.Context(), iscsihost.Config{Address: n.ISCSI[0], Target: f.tr.iqn, LUN: f.tr.lun,
				Initiator: "iqn." + name, ISID: [6]byte{0x80, 4: h.id}, Timeout: silence})
			if err == nil {
				s = &session{Device: u, scsi: u, close: func() { _ = u.Close() }}
			}
			return err
		}
		u, err := nvmehost.Dial(nvmehost.Config{Addr: n.NVMe[0], SubNQN: f.tr.nqn, HostNQN: "nqn." + name, HostID: [16]byte{0: h.id, 15: 3}, Timeout: silence})
		if err != nil {
			return err
		}
		ns, err := u.Namespace(f.tr.nsid)
		if err != nil {
			u.Close()
			return err
		}
		s = &session{Device: ns, nvme: u, close: u.Close}
		return nil
	})
	return s, err
}

// at does something by the path of a host to a node, again for as long as it fails for another reason than a reservation: while
// nobody owns the volume hosts are told to try again.
func (f *fenced) at(host, node string, do func(*session) error) error {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), readyPatience)
	defer cancel()
	for {
		s, err := f.open(host, node)
		if err == nil {
			err = do(s)
			s.close()
		}
		if err == nil || errors.Is(err, blockdev.ErrFenced) {
			return err
		}
		pass(ctx, pollEvery)
		if ctx.Err() != nil {
			f.t.Fatalf("host %s at %s: %v", host, node, err)
		}
	}
}

func (f *fenced) must(host, node string, do func(*session) error) {
	f.t.Helper()
	if err := f.at(host, node, do); err != nil {
		f.t.Fatalf("host %s at %s: %v", host, node, err)
	}
}

// register has a host register its key, over iSCSI by each path.
func (f *fenced) register(host string) {
	f.t.Helper()
	h := f.hosts[host]
	for _, node := range f.up {
		f.must(host, node, func(s *session) error {
			if s.scsi != nil {
				return reserveOut(s.scsi, actionRegister, 0, 0, h.key)
			}
			const ignoreKey = 1 << 3 // registered by another path already
			return f.reservation(s.nvme, opReservationRegister, ignoreKey, 0, h.key)
		})
	}
}

// reserve has a host take the reservation over iSCSI.
func (f *fenced) reserve(host string) {
	f.t.Helper()
	f.must(host, f.up[0], func(s *session) error {
		return reserveOut(s.scsi, actionReserve, scsiRegistrantsOnly, f.hosts[host].key, 0)
	})
}

// preempt has a host remove another.
func (f *fenced) preempt(host, other string) {
	f.t.Helper()
	own, key := f.hosts[host].key, f.hosts[other].key
	f.must(host, f.up[0], func(s *session) error {
		if s.scsi != nil {
			return reserveOut(s.scsi, actionPreempt, scsiRegistrantsOnly, own, key)
		}
		return f.reservation(s.nvme, opReservationAcquire, acquirePreempt|nvmeRegistrantsOnly<<8, own, key)
	})
}

// reserveOut sends PERSISTENT RESERVE OUT, again after a unit attention.
func reserveOut(s *iscsihost.Session, action, kind byte, key, other uint64) error {
	const conflict = 0x18 // of SCSI
	p := make([]byte, persistentReserveOutBytes)
	binary.BigEndian.PutUint64(p, key)
	binary.BigEndian.PutUint64(p[8:], other)
	for {
		r, err := s.Command([]byte{opPersistentReserveOut, action, kind, 8: byte(len(p)), 9: 0}, p, true)
		switch {
		case r.Status == conflict:
			return blockdev.ErrFenced
		case err != nil || r.Status != statusCheckCondition || r.Sense.Key != senseUnitAttention:
			return errors.Join(err, r.Err())
		}
	}
}

// reservation sends an NVMe command of two keys; what it does is in Dword 10.
func (f *fenced) reservation(h *nvmehost.Host, op byte, what uint32, key, other uint64) error {
	data := binary.LittleEndian.AppendUint64(nil, key)
	call := &nvmehost.Call{Data: [][]byte{binary.LittleEndian.AppendUint64(data, other)}, Out: true}
	call.SQE[0] = op
	binary.LittleEndian.PutUint32(call.SQE[4:], f.tr.nsid)
	binary.LittleEndian.PutUint32(call.SQE[40:], what)
	err := h.IO(0, call)
	if status := new(nvmehost.StatusError); errors.As(err, &status) && status.Status&0x7ff == reservationConflict {
		err = errors.Join(blockdev.ErrFenced, err)
	}
	return err
}

// only checks that these hosts can write by all paths, that the others are refused, and that all read what was written last.
func (f *fenced) only(when string, allowed ...string) {
	f.t.Helper()
	for _, node := range f.up {
		for _, host := range []string{"a", "b", "c", "d"} {
			f.wrote++
			block := bytes.Repeat([]byte(fmt.Sprintf("%s %05d ", host, f.wrote)), blockBytes/8)[:blockBytes]
			err := f.at(host, node, func(s *session) error { return blockdev.WriteAt(s, block, 0) })
			switch may := slices.Contains(allowed, host); {
			case may != (err == nil):
				f.t.Fatalf("%s: host %s writes at %s: %v; these may: %v", when, host, node, err, allowed)
			case may:
				f.last = block
			}
			got := make([]byte, blockBytes)
			f.must(host, node, func(s *session) error { return blockdev.ReadAt(s, got, 0) })
			if !bytes.Equal(got, f.last) {
				f.t.Fatalf("%s: host %s reads %q at %s, and %q was written last", when, host, got[:8], node, f.last[:8])
			}
		}
	}
}

// killOwner kills the node that owns the volume, and waits until another does.
func (f *fenced) killOwner() {
	f.t.Helper()
	owner, err := f.tr.Owner(f.t.Context())
	if err == nil {
		err = f.tr.c.Kill(owner)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	began := time.Now()
	f.dead, f.up = owner, f.tr.others(owner)
	if err := f.tr.AwaitOwner(f.t.Context(), "another owner", func(name string) bool { return name != owner }); err != nil {
		f.t.Fatal(err)
	}
	f.t.Logf("%s is dead, and another node owns the volume after %v", owner, time.Since(began).Round(time.Millisecond))
}

// restart starts the node that was killed.
func (f *fenced) restart() {
	f.t.Helper()
	err := f.tr.c.Restart(f.t.Context(), f.dead)
	if err == nil {
		_, err = f.tr.AwaitSync(f.t.Context())
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.up = f.tr.names()
}

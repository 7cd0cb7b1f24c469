package nvme

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"blockd.dev/target/reservation"
)

// reservationTimeout bounds the wait for a backend that needs other nodes. It
// is below the 30 s after which hosts give a command up.
const reservationTimeout = 20 * time.Second

// ignoreKey is IEKEY in Dword 10.
const ignoreKey = 1 << 3

// hostKnown refuses reservations to hosts without a Host Identifier (NVMe Base
// 2.0 §8.19).
func (c *Command) hostKnown() Status {
	if c.state.queue.ctrl.hostID == [16]byte{} {
		return HostIDInconsistent | DNR
	}
	return Success
}

// prepareRegister checks RREGA and CPTPL (NVMe Base 2.0 §7.3).
func prepareRegister(c *Command) Status {
	if c.cdw(10)&7 > 2 || c.cdw(10)>>30 == 1 {
		return InvalidField | DNR
	}
	if s := c.hostKnown(); s != Success {
		return s
	}
	return c.paramOut(16)
}

// prepareAcquire checks RACQA and RTYPE; IEKEY is for hosts before NVMe 1.3
// (NVMe Base 2.0 §7.2).
func prepareAcquire(c *Command) Status {
	if c.cdw(10)&7 > 2 || c.cdw(10)&ignoreKey != 0 {
		return InvalidField | DNR
	}
	if _, ok := reservation.TypeFromNVMe(c.SQE[41]); !ok {
		return InvalidField | DNR
	}
	if s := c.hostKnown(); s != Success {
		return s
	}
	return c.paramOut(16)
}

// prepareRelease checks RRELA (NVMe Base 2.0 §7.4).
func prepareRelease(c *Command) Status {
	if c.cdw(10)&7 > 1 || c.cdw(10)&ignoreKey != 0 {
		return InvalidField | DNR
	}
	if c.cdw(10)&7 == 0 {
		if _, ok := reservation.TypeFromNVMe(c.SQE[41]); !ok {
			return InvalidField | DNR
		}
	}
	if s := c.hostKnown(); s != Success {
		return s
	}
	return c.paramOut(8)
}

// reservationCommand runs Register, Acquire or Release.
func reservationCommand(c *Command) {
	var p [16]byte
	n := c.Data.CopyOut(0, p[:])
	key := binary.LittleEndian.Uint64(p[:])
	var second uint64
	if n == len(p) {
		second = binary.LittleEndian.Uint64(p[8:])
	}
	cmd := &reservation.Command{From: c.state.queue.ctrl.party, Key: key}
	action := c.cdw(10) & 7
	switch c.Opcode() {
	case OpReservationRegister:
		cmd.Op = [...]reservation.Op{reservation.OpHostRegister, reservation.OpHostUnregister, reservation.OpHostReplace}[action]
		cmd.NewKey = second
		cmd.IgnoreKey = c.cdw(10)&ignoreKey != 0
		switch c.cdw(10) >> 30 {
		case 2:
			cmd.Persist = reservation.PersistOff
		case 3:
			cmd.Persist = reservation.PersistOn
		}
	case OpReservationAcquire:
		cmd.Op = [...]reservation.Op{reservation.OpReserve, reservation.OpPreempt, reservation.OpPreemptAndAbort}[action]
		cmd.NewKey = second
		cmd.Type, _ = reservation.TypeFromNVMe(c.SQE[41])
	case OpReservationRelease:
		cmd.Op = [...]reservation.Op{reservation.OpRelease, reservation.OpClear}[action]
		cmd.Type, _ = reservation.TypeFromNVMe(c.SQE[41])
	}
	go applyReservation(c, cmd) // it may wait for storage or for other nodes
}

// applyReservation runs cmd on the table of c's namespace and completes c.
func applyReservation(c *Command, cmd *reservation.Command) {
	ns := c.state.att.ns
	ctx, cancel := context.WithTimeout(context.Background(), reservationTimeout)
	res, err := ns.sub.deps.Reservations.Apply(ctx, ns.id, cmd)
	cancel()
	if err != nil {
		ns.sub.event(Event{Kind: EventDeviceError, Volume: ns.id, HostNQN: c.state.queue.ctrl.hostNQN,
			Text: fmt.Sprintf("reservation command %q of %v failed: %v", cmd.Op, cmd.From, err)})
		c.complete(c.later())
		return
	}
	switch res.Status {
	case reservation.StatusOK:
		c.good()
	case reservation.StatusConflict:
		c.complete(ReservationConflict)
	case reservation.StatusNoResources:
		c.complete(InternalError)
	default:
		c.complete(InvalidField | DNR)
	}
}

// noticeBits are the notices as feature 82h masks them.
func masked(mask uint32, n reservation.Notice) bool { return mask>>n.NVMe()&1 != 0 }

// reservationsChanged is the watch callback: it tells hosts and aborts the
// commands of preempted ones. Those end on a goroutine, since the transports'
// Done must not run under the backend's locks.
func (ns *namespace) reservationsChanged(ch *reservation.Change) {
	attached := ns.each()
	for _, e := range ch.Events {
		for _, a := range attached {
			if a.ctrl.party == e.To && !masked(a.mask.Load(), e.Notice) {
				a := a
				release := ch.Hold()
				go func() {
					a.ctrl.noticeReservation(e.Notice.NVMe(), a.nsid)
					release()
				}()
			}
		}
	}
	preempted := func(c *Controller) bool { return slices.Contains(ch.Aborts, c.party) }
	var queues []*Queue
	for _, a := range attached {
		if preempted(a.ctrl) {
			queues = append(queues, a.ctrl.allQueues()...)
		}
	}
	queues = append(queues, ns.sub.ending.of(preempted)...)
	if len(queues) == 0 {
		return
	}
	release := ch.Hold()
	go func() {
		w := newAbortWait(release)
		for _, q := range queues {
			// Reservation commands wait in Apply; see reservation.Change.
			q.abortAll(func(c *Command) bool {
				return c.state.att != nil && c.state.att.ns == ns && c.state.entry.access != reservation.AccessAny
			}, AbortedPreempt, w)
		}
		w.release()
	}()
}

// prepareReport takes the length from NUMD, 0's based dwords.
func prepareReport(c *Command) Status {
	bytes := (uint64(c.cdw(10)) + 1) * 4
	if bytes > MaxTransferBytes {
		return InvalidField | DNR
	}
	if c.cdw(11)&1 == 0 {
		// Fabrics hosts have 128-bit identifiers (NVMe Base 2.0 §7.5).
		return HostIDInconsistent | DNR
	}
	return c.paramIn(int(bytes))
}

// Sizes of the extended Reservation Status data structure.
const (
	reportHeader     = 64
	reportRegistrant = 64
)

// reservationReport gives the extended Reservation Status data structure. A
// registrant has an entry for each controller of its host, or one with the
// controller id FFFFh when it has none here, as the hosts that use the volume
// by iSCSI.
func reservationReport(c *Command) {
	le := binary.LittleEndian
	ns := c.state.att.ns
	st := ns.rsv.State()
	attached := ns.each()
	p := make([]byte, reportHeader, reportHeader+reportRegistrant*len(st.Registrants))
	le.PutUint32(p, st.Generation)
	p[4] = st.Type.NVMe()
	entries := 0
	for _, r := range st.Registrants {
		var ids []uint16
		for _, a := range attached {
			if a.ctrl.party == r.ID {
				ids = append(ids, a.ctrl.id)
			}
		}
		if len(ids) == 0 {
			ids = []uint16{0xffff}
		}
		slices.Sort(ids)
		for _, id := range slices.Compact(ids) {
			b := make([]byte, reportRegistrant)
			le.PutUint16(b, id)
			if st.Holds(r.ID) {
				b[2] = 1
			}
			le.PutUint64(b[8:], r.Key)
			host := hostIDOf(r.ID)
			copy(b[16:], host[:])
			p = append(p, b...)
			entries++
		}
	}
	le.PutUint16(p[5:], uint16(entries))
	if st.Persist {
		p[9] = 1
	}
	c.reply(p)
}

// hostIDOf is the Host Identifier of a registrant; one that speaks iSCSI gets
// one made of its name and port, always the same.
func hostIDOf(id reservation.Identity) [16]byte {
	if id.Protocol == reservation.ProtocolNVMe {
		return id.HostID
	}
	h := sha256.Sum256([]byte(id.String()))
	return [16]byte(h[:16])
}

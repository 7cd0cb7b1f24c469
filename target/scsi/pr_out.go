package scsi

import (
	"slices"

	"blockd.dev/target/reservation"
)

// prOutOps maps the service actions to operations.
var prOutOps = map[prOutAction]reservation.Op{
	prOutRegister:        reservation.OpRegister,
	prOutReserve:         reservation.OpReserve,
	prOutRelease:         reservation.OpRelease,
	prOutClear:           reservation.OpClear,
	prOutPreempt:         reservation.OpPreempt,
	prOutPreemptAndAbort: reservation.OpPreemptAndAbort,
	prOutRegisterIgnore:  reservation.OpRegisterIgnore,
	prOutRegisterAndMove: reservation.OpMove,
}

func preparePROut(t *Task) sense {
	length := be32(t.state.cdb[5:])
	if length < prOutBasicLen {
		return illegal(ascParameterListLength)
	}
	return t.wantOut(length, prOutMaxLen)
}

// persistentReserveOut is PERSISTENT RESERVE OUT (SPC-5 of that name). The
// change may wait for storage, or for preempted tasks to end, so it has a
// goroutine; there are no more of them than commands in the session's window.
func persistentReserveOut(t *Task) { go t.reserveOut() }

func (t *Task) reserveOut() {
	st := &t.state
	lu := st.itl.lu
	if st.aborted.Load() {
		t.finish()
		return
	}
	c, s := t.reserveOutCommand()
	if !s.ok() {
		t.fail(s)
		return
	}
	res, err := lu.applyReservation(c)
	if err != nil {
		t.fail(sense{key: keyHardwareError, asc: ascInternalFailure})
		return
	}
	switch res.Status {
	case reservation.StatusOK:
		t.good()
	case reservation.StatusConflict:
		t.failStatus(StatusReservationConflict)
	case reservation.StatusInvalidRelease:
		t.fail(illegal(ascInvalidRelease))
	case reservation.StatusNoResources:
		t.fail(illegal(ascNoRegistrationResources))
	case reservation.StatusInvalidParameter:
		if c.NewKey == 0 {
			t.fail(badParam(8)) // SERVICE ACTION RESERVATION KEY
		} else {
			t.fail(badParam(prOutBasicLen)) // the TransportID
		}
	default: // reservation.StatusInvalidCommand
		if c.Op == reservation.OpPreempt || c.Op == reservation.OpPreemptAndAbort {
			t.fail(badCDB(2, 3)) // TYPE
		} else {
			t.fail(badCDB(1, 4)) // SERVICE ACTION: not in this state
		}
	}
}

// The additional sense codes of reservations.
const (
	ascInvalidRelease          additional = 0x2604
	ascNoRegistrationResources additional = 0x5504
)

// reserveOutCommand decodes the CDB and the parameter list.
func (t *Task) reserveOutCommand() (*reservation.Command, sense) {
	st := &t.state
	lu, n := st.itl.lu, st.nexus
	sa := prOutAction(st.cdb[1] & 0x1f)
	p, s := decodePROut(sa, t.parameters())
	if !s.ok() {
		return nil, s
	}
	c := &reservation.Command{
		Op:      prOutOps[sa],
		From:    n.id.identity(),
		Key:     p.key,
		NewKey:  p.saKey,
		Type:    reservation.Type(st.cdb[2] & 0x0f),
		Persist: reservation.PersistOff,
	}
	if p.aptpl {
		c.Persist = reservation.PersistOn
	}
	switch sa {
	case prOutReserve, prOutRelease, prOutPreempt, prOutPreemptAndAbort:
		if st.cdb[2]>>4 != 0 { // SCOPE: logical unit is the only one
			return nil, badCDB(2, 7)
		}
		if sa == prOutReserve && !c.Type.Valid() {
			return nil, badCDB(2, 3)
		}
	case prOutRegister, prOutRegisterIgnore:
		if p.allTGPT {
			c.Ports = lu.target.conf.Load().relativePorts(n.id.TargetPort)
		}
		if c.SpecifyInitiators = p.specIPT; p.specIPT {
			for i, id := range p.transportIDs {
				found := lu.initiatorPorts(id)
				if len(found) == 0 {
					return nil, badParam(int(p.at[i]))
				}
				c.Initiators = append(c.Initiators, found...)
			}
		}
	case prOutRegisterAndMove:
		if !slices.Contains(lu.target.conf.Load().relativePorts(n.id.TargetPort), p.port) {
			return nil, badParam(18)
		}
		found := lu.initiatorPorts(p.transportIDs[0])
		if len(found) != 1 { // must be one port
			return nil, badParam(prOutBasicLen)
		}
		c.To = found[0]
		c.To.Port = p.port
		c.Unregister = p.unreg
	}
	return c, sense{}
}

// relativePorts are the target ports of the device. own is among them also
// when it was taken out of the configuration while its sessions last.
func (s *snapshot) relativePorts(own uint16) []uint16 {
	ports := make([]uint16, 0, len(s.Ports)+1)
	for _, p := range s.Ports {
		ports = append(ports, p.RelativeID)
	}
	if !slices.Contains(ports, own) {
		ports = append(ports, own)
	}
	return ports
}

// initiatorPorts are the initiator ports that a TransportID names, with target
// port zero. One with an ISID names that port, known or not; one without names
// all ports of the initiator that the unit knows: those with a session and
// those that are registered (SPC-5 "TransportIDs for initiator ports using SCSI
// over iSCSI").
func (lu *LU) initiatorPorts(id transportID) []reservation.Identity {
	if id.hasISID {
		return []reservation.Identity{reservation.ISCSI(id.name, id.isid, 0)}
	}
	var found []reservation.Identity
	add := func(known reservation.Identity) {
		known.Port = 0
		if known.Protocol == reservation.ProtocolISCSI && known.Name == id.name && !slices.Contains(found, known) {
			found = append(found, known)
		}
	}
	for _, i := range lu.each() {
		add(i.nexus.id.identity())
	}
	for _, r := range lu.rsv.volume.State().Registrants {
		add(r.ID)
	}
	return found
}

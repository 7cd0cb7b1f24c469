package nvme

import (
	"time"

	"blockd.dev/target/access"
	"blockd.dev/target/reservation"
)

// Feature identifiers (NVMe Base 2.0 figure "Feature Identifiers", NVM Command
// Set 1.0 §4.1.3).
const (
	featArbitration      uint8 = 0x01
	featPower            uint8 = 0x02
	featTemperature      uint8 = 0x04
	featErrorRecovery    uint8 = 0x05
	featWriteCache       uint8 = 0x06
	featQueues           uint8 = 0x07
	featWriteAtomicity   uint8 = 0x0a
	featAsyncEvents      uint8 = 0x0b
	featKeepAlive        uint8 = 0x0f
	featHostBehavior     uint8 = 0x16
	featCommandSet       uint8 = 0x19
	featHostID           uint8 = 0x81
	featReservationMask  uint8 = 0x82
	featReservationPTPL  uint8 = 0x83
	featWriteProtect     uint8 = 0x84
	hostBehaviorBytes          = 512
	hostIDBytes                = 16
	selectCurrent              = 0
	selectDefault              = 1
	selectSaved                = 2
	selectCapabilities         = 3
	capabilityNamespace        = 1 << 1
	capabilityChangeable       = 1 << 2
)

// features are the values that a host has set.
type features struct {
	asyncEvents  uint32
	arbitration  uint32
	temperature  [2]uint32 // over, under
	atomicity    uint32
	writeThrough bool
	acre         bool
}

func (f *features) reset(discovery bool) {
	*f = features{asyncEvents: eventConfig(discovery), temperature: [2]uint32{0xffff, 0}}
}

// feature is a row of the table of features.
type feature struct {
	id        uint8
	discovery bool // a discovery controller has it too
	namespace bool // each namespace has its own value
	dataBytes int  // of the values that don't fit into a Dword
	// get gives the present value; byDefault, the one after a reset. It runs
	// with the controller's mu. att is nil for features of the controller.
	get func(c *Command, ctrl *Controller, att *attachment, byDefault bool) (uint32, Status)
	// set takes Dword 11 and completes c; nil means that it can't be changed.
	set func(c *Command, ctrl *Controller, att *attachment)
	// offered tells whether the subsystem has it; nil means always.
	offered func(s *Subsystem) bool
}

var featureTable [256]*feature

var featureList = []feature{
	{id: featArbitration,
		get: plain(func(f *features) uint32 { return f.arbitration }),
		set: store(func(f *features, v uint32) { f.arbitration = v })},
	{id: featPower,
		get: plain(func(*features) uint32 { return 0 }),
		set: func(c *Command, _ *Controller, _ *attachment) {
			if c.cdw(11)&0x1f != 0 { // there is one power state
				c.complete(InvalidField | DNR)
				return
			}
			c.good()
		}},
	{id: featTemperature, get: getTemperature, set: setTemperature},
	{id: featErrorRecovery, namespace: true, get: plain(func(*features) uint32 { return 0 })},
	{id: featWriteCache, get: getWriteCache, set: setWriteCache},
	{id: featQueues, get: getQueues, set: setQueues},
	{id: featWriteAtomicity,
		get: plain(func(f *features) uint32 { return f.atomicity }),
		set: store(func(f *features, v uint32) { f.atomicity = v & 1 })},
	{id: featAsyncEvents, discovery: true, get: plain(func(f *features) uint32 { return f.asyncEvents }), set: setAsyncEvents},
	{id: featKeepAlive, discovery: true, get: getKeepAlive, set: setKeepAlive},
	{id: featHostBehavior, dataBytes: hostBehaviorBytes, get: plain(func(*features) uint32 { return 0 }), set: setHostBehavior},
	{id: featCommandSet,
		get: plain(func(*features) uint32 { return 0 }),
		set: func(c *Command, _ *Controller, _ *attachment) {
			if c.cdw(11)&0x1ff != 0 { // there is one combination of command sets
				c.complete(IOCommandSetRejected | DNR)
				return
			}
			c.good()
		}},
	{id: featHostID, discovery: true, dataBytes: hostIDBytes, get: getHostID,
		// Fabrics hosts state it at Connect (NVMe Base 2.0 §5.27.1.28).
		set: func(c *Command, _ *Controller, _ *attachment) { c.complete(CommandSequenceError | DNR) }},
	{id: featReservationMask, namespace: true, get: getReservationMask, set: setReservationMask},
	{id: featReservationPTPL, namespace: true, get: getPTPL, set: setPTPL},
	{id: featWriteProtect, namespace: true, get: getWriteProtect, set: setWriteProtect,
		offered: func(s *Subsystem) bool { return s.deps.Protect != nil }},
}

func init() {
	for i := range featureList {
		featureTable[featureList[i].id] = &featureList[i]
	}
}

// plain reads a value of the controller.
func plain(read func(*features) uint32) func(*Command, *Controller, *attachment, bool) (uint32, Status) {
	return func(_ *Command, ctrl *Controller, _ *attachment, byDefault bool) (uint32, Status) {
		f := &ctrl.mu.features
		if byDefault {
			f = &features{}
			f.reset(ctrl.discovery)
		}
		return read(f), Success
	}
}

// store takes any value.
func store(write func(*features, uint32)) func(*Command, *Controller, *attachment) {
	return func(c *Command, ctrl *Controller, _ *attachment) {
		ctrl.mu.Lock()
		write(&ctrl.mu.features, c.cdw(11))
		ctrl.mu.Unlock()
		c.good()
	}
}

// featureOf finds the row for c, or the status that refuses it.
func (c *Command) featureOf() (*feature, Status) {
	ctrl := c.state.queue.ctrl
	f := featureTable[c.SQE[40]]
	if f == nil || ctrl.discovery && !f.discovery || f.offered != nil && !f.offered(ctrl.sub) {
		return nil, InvalidField | DNR
	}
	if f.namespace {
		nsid := c.NSID()
		if c.state.att = ctrl.view.Load().at(nsid); c.state.att == nil && nsid != NSIDAll {
			return nil, InvalidNamespace | DNR
		}
	} else if nsid := c.NSID(); nsid != 0 && nsid != NSIDAll && ctrl.view.Load().at(nsid) == nil {
		return nil, InvalidNamespace | DNR
	}
	return f, Success
}

func prepareGetFeatures(c *Command) Status {
	f, s := c.featureOf()
	if s != Success {
		return s
	}
	sel := c.SQE[41] & 7
	if sel > selectCapabilities {
		return InvalidField | DNR
	}
	if f.namespace && c.state.att == nil && sel != selectCapabilities {
		return InvalidNamespace | DNR // there is no one value for all
	}
	if f.dataBytes > 0 && sel != selectCapabilities {
		if f.id == featHostID && c.cdw(11)&1 == 0 {
			return InvalidField | DNR // Fabrics has 128-bit identifiers only
		}
		return c.paramIn(f.dataBytes)
	}
	return Success
}

// getFeatures reads a feature (NVMe Base 2.0 §5.15).
func getFeatures(c *Command) {
	ctrl := c.state.queue.ctrl
	f := featureTable[c.SQE[40]]
	sel := c.SQE[41] & 7
	if sel == selectCapabilities {
		if f.namespace {
			c.Result |= capabilityNamespace
		}
		if f.set != nil && f.id != featHostID {
			c.Result |= capabilityChangeable
		}
		c.good()
		return
	}
	ctrl.mu.Lock()
	v, s := f.get(c, ctrl, c.state.att, sel != selectCurrent)
	acre := ctrl.mu.features.acre && sel == selectCurrent
	ctrl.mu.Unlock()
	if s != Success {
		c.complete(s)
		return
	}
	c.Result = uint64(v)
	switch f.id {
	case featHostBehavior:
		p := make([]byte, hostBehaviorBytes)
		if acre {
			p[0] = 1
		}
		c.reply(p)
	case featHostID:
		c.reply(ctrl.hostID[:])
	default:
		c.good()
	}
}

func prepareSetFeatures(c *Command) Status {
	f, s := c.featureOf()
	switch {
	case s != Success:
		return s
	case c.cdw(10)&(1<<31) != 0:
		return FeatureNotSaveable | DNR
	case f.set == nil:
		return FeatureNotChangeable | DNR
	case !f.namespace && c.NSID() != 0 && c.NSID() != NSIDAll:
		return FeatureNotNamespace | DNR
	case f.id == featHostBehavior:
		return c.paramOut(hostBehaviorBytes)
	}
	return Success
}

// setFeatures changes a feature (NVMe Base 2.0 §5.27).
func setFeatures(c *Command) {
	featureTable[c.SQE[40]].set(c, c.state.queue.ctrl, c.state.att)
}

// Temperature Threshold: TMPSEL 0 is the composite temperature, the only one.
// It is kept; blockd measures none, so that no threshold is ever crossed.
func getTemperature(c *Command, ctrl *Controller, _ *attachment, byDefault bool) (uint32, Status) {
	v := c.cdw(11)
	under := v >> 20 & 3
	if v>>16&0xf != 0 || under > 1 {
		return 0, InvalidField | DNR
	}
	f := ctrl.mu.features
	if byDefault {
		f.reset(ctrl.discovery)
	}
	return f.temperature[under], Success
}

func setTemperature(c *Command, ctrl *Controller, _ *attachment) {
	v := c.cdw(11)
	under := v >> 20 & 3
	if sel := v >> 16 & 0xf; sel != 0 && sel != 0xf || under > 1 {
		c.complete(InvalidField | DNR)
		return
	}
	ctrl.mu.Lock()
	ctrl.mu.features.temperature[under] = v & 0xffff
	ctrl.mu.Unlock()
	c.good()
}

// writeCache reports whether any namespace has a volatile write cache.
func (s *snapshot) writeCache() bool {
	for i := range s.Namespaces {
		if s.Namespaces[i].WriteCache {
			return true
		}
	}
	return false
}

func getWriteCache(_ *Command, ctrl *Controller, _ *attachment, byDefault bool) (uint32, Status) {
	if !ctrl.sub.conf.Load().writeCache() {
		return 0, InvalidField | DNR
	}
	if ctrl.mu.features.writeThrough && !byDefault {
		return 0, Success
	}
	return 1, Success
}

// setWriteCache with WCE=0 makes every write of this controller durable.
func setWriteCache(c *Command, ctrl *Controller, _ *attachment) {
	if !ctrl.sub.conf.Load().writeCache() {
		c.complete(InvalidField | DNR)
		return
	}
	off := c.cdw(11)&1 == 0
	ctrl.mu.Lock()
	ctrl.mu.features.writeThrough = off
	ctrl.mu.Unlock()
	ctrl.writeThrough.Store(off)
	if !off {
		c.good()
		return
	}
	// What earlier writes left in the caches must be durable too.
	flushAll(c)
}

func getQueues(_ *Command, ctrl *Controller, _ *attachment, byDefault bool) (uint32, Status) {
	n := uint32(ctrl.mu.queuesGranted)
	if byDefault {
		n = uint32(ctrl.sub.conf.Load().MaxIOQueues)
	}
	return (n - 1) | (n-1)<<16, Success
}

// setQueues grants I/O queues, before the first is connected.
func setQueues(c *Command, ctrl *Controller, _ *attachment) {
	sq, cq := c.cdw(11)&0xffff, c.cdw(11)>>16
	if sq == 0xffff || cq == 0xffff {
		c.complete(InvalidField | DNR)
		return
	}
	ctrl.mu.Lock()
	if len(ctrl.mu.queues) > 0 {
		ctrl.mu.Unlock()
		c.complete(CommandSequenceError | DNR)
		return
	}
	n := min(int(min(sq, cq))+1, ctrl.sub.conf.Load().MaxIOQueues)
	ctrl.mu.queuesGranted = n
	ctrl.mu.Unlock()
	c.Result = uint64(n-1) | uint64(n-1)<<16
	c.good()
}

func setAsyncEvents(c *Command, ctrl *Controller, _ *attachment) {
	v := c.cdw(11)
	// Bits 7:0 are for SMART warnings, of which blockd gives that of bit 0.
	if v&^(eventConfig(ctrl.discovery)|0xff) != 0 {
		c.complete(InvalidField | DNR)
		return
	}
	ctrl.mu.Lock()
	ctrl.mu.features.asyncEvents = v
	ctrl.mu.Unlock()
	c.good()
}

func getKeepAlive(_ *Command, ctrl *Controller, _ *attachment, _ bool) (uint32, Status) {
	return uint32(ctrl.mu.kato / time.Millisecond), Success
}

func setKeepAlive(c *Command, ctrl *Controller, _ *attachment) {
	kato := keepAlive(c.cdw(11))
	if ctrl.discovery && kato == 0 {
		kato = discoveryIdle
	}
	ctrl.mu.Lock()
	ctrl.mu.kato = kato
	ctrl.mu.deadline = time.Time{}
	if kato != 0 {
		ctrl.mu.deadline = ctrl.sub.deps.Now().Add(kato)
	}
	ctrl.mu.Unlock()
	c.good()
}

// keepAliveCommand does nothing: Prepare has noted that the host is alive.
func keepAliveCommand(c *Command) {
	ctrl := c.state.queue.ctrl
	ctrl.mu.Lock()
	none := ctrl.mu.kato == 0
	ctrl.mu.Unlock()
	if none {
		c.complete(KeepAliveInvalid | DNR)
		return
	}
	c.good()
}

func setHostBehavior(c *Command, ctrl *Controller, _ *attachment) {
	var p [1]byte
	c.Data.CopyOut(0, p[:])
	if p[0] > 1 {
		c.complete(InvalidField | DNR)
		return
	}
	ctrl.mu.Lock()
	ctrl.mu.features.acre = p[0] == 1
	ctrl.mu.Unlock()
	ctrl.acre.Store(p[0] == 1)
	c.good()
}

func getHostID(*Command, *Controller, *attachment, bool) (uint32, Status) { return 0, Success }

// reservationMaskBits are the notices that feature 82h can mask: bit n stands
// for Reservation Notification Log Page Type n.
const reservationMaskBits = 0x0e

func getReservationMask(_ *Command, _ *Controller, att *attachment, byDefault bool) (uint32, Status) {
	if byDefault {
		return 0, Success
	}
	return att.mask.Load(), Success
}

func setReservationMask(c *Command, ctrl *Controller, att *attachment) {
	list := []*attachment{att}
	if att == nil {
		list = ctrl.view.Load().list
	}
	for _, a := range list {
		a.mask.Store(c.cdw(11) & reservationMaskBits)
	}
	c.good()
}

func getPTPL(_ *Command, _ *Controller, att *attachment, byDefault bool) (uint32, Status) {
	if !byDefault && att.ns.rsv.State().Persist {
		return 1, Success
	}
	return 0, Success
}

func setPTPL(c *Command, ctrl *Controller, att *attachment) {
	if att == nil {
		c.complete(InvalidNamespace | DNR)
		return
	}
	// Only a registrant may say how registrations end: it replaces its key by
	// the same.
	key, ok := att.ns.rsv.State().Key(ctrl.party)
	if !ok {
		c.complete(ReservationConflict)
		return
	}
	cmd := &reservation.Command{Op: reservation.OpHostReplace, From: ctrl.party, Key: key, NewKey: key, Persist: reservation.PersistOff}
	if c.cdw(11)&1 != 0 {
		cmd.Persist = reservation.PersistOn
	}
	go applyReservation(c, cmd)
}

// Namespace Write Protection Config holds an access.Protection.
func getWriteProtect(_ *Command, _ *Controller, att *attachment, byDefault bool) (uint32, Status) {
	if byDefault {
		return uint32(access.Unprotected), Success
	}
	return uint32(att.ns.protection()), Success
}

// setWriteProtect lets a host set and end Write Protect (NVMe Base 2.0 §8.12).
// Write Protect Until Power Cycle and Permanent Write Protect can't be left, and
// only administrators enter them.
func setWriteProtect(c *Command, ctrl *Controller, att *attachment) {
	p := access.Protection(c.cdw(11) & 7)
	if att == nil || !p.Valid() {
		c.complete(InvalidField | DNR)
		return
	}
	ns := att.ns
	if ns.conflict(ctrl, reservation.AccessWrite) {
		c.complete(ReservationConflict)
		return
	}
	if p > access.Protected || ns.protection() > access.Protected {
		c.complete(FeatureNotChangeable | DNR)
		return
	}
	go func() {
		if err := ctrl.sub.deps.Protect(ns.id, ctrl.hostNQN, p); err != nil {
			ctrl.sub.event(Event{Kind: EventDeviceError, Volume: ns.id, HostNQN: ctrl.hostNQN, Text: "write protection could not be kept: " + err.Error()})
			c.complete(InternalError)
			return
		}
		ns.protect(p, ctrl)
		if p.On() {
			flushAll(c) // what was written stays written
			return
		}
		c.good()
	}()
}

package nvme

import (
	"encoding/binary"
	"errors"
)

// Controller properties by offset (NVMe Base 2.0 §3.1.3).
const (
	propCAP  = 0x00
	propVS   = 0x08
	propCC   = 0x14
	propCSTS = 0x1c
	propNSSR = 0x20
	propCRTO = 0x68
)

// version is VS: NVMe Base 2.0.
const version uint32 = 2 << 16

// readyTimeout is CAP.TO and CRTO.CRWMT, in 500 ms: enabling takes no time,
// and hosts want a number above 0.
const readyTimeout = 10

// Fields of CC.
const (
	ccEnable   uint32 = 1 << 0
	ccShutdown uint32 = 3 << 14
	ccCSSShift        = 4
	ccCSSAll   uint32 = 6 // all I/O command sets
)

// Fields of CSTS.
const (
	cstsReady    uint32 = 1 << 0
	cstsFatal    uint32 = 1 << 1
	cstsShutdown uint32 = 2 << 2 // SHST: shutdown processing complete
)

// errReset ends the I/O queues of a controller that its host resets or shuts
// down.
var errReset = errors.New("nvme: the host reset the controller")

// capabilities is CAP.
func (c *Controller) capabilities() uint64 {
	entries := uint64(c.sub.conf.Load().MaxQueueEntries)
	return entries - 1 | // MQES
		1<<16 | // CQR: fabrics queues are contiguous
		readyTimeout<<24 |
		(1|1<<6)<<37 | // CSS: NVM command set, and CC.CSS=110b
		1<<59 // CRMS.CRWMS
}

func preparePropertyGet(c *Command) Status {
	if c.SQE[40]&7 > 1 {
		return InvalidField | DNR
	}
	return Success
}

// propertyGet reads a property of the size that it has (NVMe Base 2.0 §6.4).
func propertyGet(c *Command) {
	ctrl := c.state.queue.ctrl
	eight := c.SQE[40]&7 == 1
	offset := c.cdw(11)
	ctrl.mu.Lock()
	var v uint64
	wide, ok := false, true
	switch offset {
	case propCAP:
		v, wide = ctrl.capabilities(), true
	case propVS:
		v = uint64(version)
	case propCC:
		v = uint64(ctrl.mu.cc)
	case propCSTS:
		v = uint64(ctrl.mu.csts)
	case propCRTO:
		v = readyTimeout
	default:
		ok = false
	}
	ctrl.mu.Unlock()
	if !ok || wide != eight {
		c.complete(InvalidField | DNR)
		return
	}
	c.Result = v
	c.good()
}

func preparePropertySet(c *Command) Status {
	if c.SQE[40]&7 != 0 || c.cdw(11) != propCC {
		return InvalidField | DNR // CC is the only one that can be written
	}
	return Success
}

// propertySet writes CC and moves the controller through its states.
func propertySet(c *Command) {
	cc := binary.LittleEndian.Uint32(c.SQE[48:])
	ctrl := c.state.queue.ctrl
	ctrl.mu.Lock()
	reset := ctrl.configureLocked(cc)
	ctrl.mu.Unlock()
	if reset {
		ctrl.closeIO(errReset)
		ctrl.dropEventRequests()
	}
	c.good()
}

// configureLocked takes a new CC. It reports whether the I/O queues must go:
//
//	EN 0 -> 1  the controller becomes ready, or fails when it can't do what CC asks
//	EN 1 -> 0  controller level reset: as after Connect, but for the admin queue
//	SHN != 0   shutdown: complete at once, since nothing is cached here
func (c *Controller) configureLocked(cc uint32) (reset bool) {
	was := c.mu.cc
	c.mu.cc = cc
	switch {
	case cc&ccEnable != 0 && was&ccEnable == 0:
		c.mu.csts = cstsReady
		if !c.configurable(cc) {
			c.mu.csts = cstsFatal
		}
	case cc&ccEnable == 0 && was&ccEnable != 0:
		c.mu.csts &^= cstsReady | cstsFatal
		c.mu.features.reset(c.discovery)
		c.acre.Store(false)
		c.writeThrough.Store(false)
		c.mu.events.reset()
		c.mu.queuesGranted = c.sub.conf.Load().MaxIOQueues
		reset = true
	}
	if cc&ccShutdown != 0 && was&ccShutdown == 0 {
		c.mu.csts |= cstsShutdown
		reset = true
	} else if cc&ccShutdown == 0 {
		c.mu.csts &^= cstsShutdown
	}
	c.mu.ready = c.mu.csts&cstsReady != 0 && c.mu.csts&(cstsFatal|cstsShutdown) == 0
	c.enabled.Store(c.mu.ready)
	return reset
}

// configurable checks the fields of CC that matter when EN is set. A
// discovery controller's host may leave the entry sizes zero, it has no I/O
// queues.
func (c *Controller) configurable(cc uint32) bool {
	css := cc >> ccCSSShift & 7
	sizes := cc >> 16 & 0xff
	return (css == 0 || css == ccCSSAll) &&
		cc>>7&0xf == 0 && // MPS: 4 KiB
		cc>>11&7 == 0 && // AMS: round robin
		(sizes == 0x46 || c.discovery && sizes == 0) &&
		cc>>24&1 == 0 // CRIME: ready with media only
}

func prepareDisconnect(c *Command) Status {
	if c.SQE[40] != 0 || c.SQE[41] != 0 {
		return ConnectIncompatible | DNR // record format
	}
	return Success
}

// disconnect deletes an I/O queue (NVMe Base 2.0 §6.5): its other commands
// end, then this one, and the host drops the connection.
func disconnect(c *Command) {
	q := c.state.queue
	q.gone.Store(true)
	w := q.ends()
	q.ctrl.forget(q)
	q.abortAll(func(o *Command) bool { return o != c }, AbortedSQDeletion, w)
	w.release()
	c.good()
}

package scsi

import (
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev"
)

// LU is a logical unit: one device, with what SCSI adds to it. It lives as
// long as its unit is configured with the same device.
type LU struct {
	target *Target
	id     UnitID
	device blockdev.Device
	shape  blockdev.Shape // of device
	conf   atomic.Pointer[UnitConfig]
	shift  uint8 // log2 of the logical block size

	mode    modeState
	stopped atomic.Bool // START STOP UNIT with START=0
	access  atomic.Pointer[hostAccess]
	moved   atomic.Bool // UnitConfig.Access has changed
	low     atomic.Bool // hosts were told that space is low
	rsv     unitReservations
	unwatch func()

	mu struct {
		sync.Mutex
		itls []*itl
	}
}

// itl is an I_T_L nexus: a nexus and a unit that it sees under a LUN.
type itl struct {
	lu     *LU
	nexus  *Nexus
	lun    uint16
	ua     attentions
	set    taskSet
	locked atomic.Bool // PREVENT ALLOW MEDIUM REMOVAL
	copies copyResults

	lookedAt  atomic.Int64 // clock.Mono at which the initiator last looked after the path; 0 for never
	withdrawn atomic.Bool  // the unit is unavailable to the initiator, see Withdraw
	diverted  atomic.Bool  // the initiator has to use other paths, see Divert
	refusedAt atomic.Int64 // clock.Mono at which it was last told so by a command; 0 for never
}

// openUnit makes the LU of u. Called with t.mu.
func (t *Target) openUnit(u UnitConfig) (*LU, error) {
	g := u.Device.Geometry()
	lu := &LU{target: t, id: u.ID, device: u.Device, shift: uint8(bits.TrailingZeros(uint(g.BlockSize)))}
	lu.conf.Store(&u)
	lu.shape.Refresh(u.Device) // changed may be called from the watch on
	lu.mode.reset(lu)
	if err := lu.rsv.open(lu); err != nil {
		return nil, err
	}
	lu.unwatch = u.Device.Watch(lu.changed)
	lu.shape.Refresh(u.Device) // what changed before the watch
	return lu, nil
}

// close ends the watch; tasks in flight still finish.
func (lu *LU) close() {
	lu.unwatch()
	lu.rsv.close()
}

// ID is the volume id of the unit.
func (lu *LU) ID() UnitID { return lu.id }

// changed is the device's Watch callback.
func (lu *LU) changed(c blockdev.Change) {
	lu.shape.Refresh(lu.device)
	switch c {
	case blockdev.ChangeSize:
		lu.raise(uaCapacityChanged, nil)
	case blockdev.ChangeReadOnly:
		lu.raise(uaModeChanged, nil)
	case blockdev.ChangeGone:
		lu.target.event(Event{Kind: EventDeviceError, Unit: lu.id, Text: "the device of the unit is gone; every command fails from now on"})
	}
}

// raise establishes a unit attention for every nexus of the unit that match
// accepts; nil accepts all.
func (lu *LU) raise(u attention, match func(*Nexus) bool) {
	lu.mu.Lock()
	defer lu.mu.Unlock()
	for _, i := range lu.mu.itls {
		if match == nil || match(i.nexus) {
			i.ua.raise(u)
		}
	}
}

// each gives the I_T_L nexuses of the unit at this moment.
func (lu *LU) each() []*itl {
	lu.mu.Lock()
	defer lu.mu.Unlock()
	return slices.Clone(lu.mu.itls)
}

// blocks is the unit's capacity in logical blocks.
func (lu *LU) blocks() uint64 { return uint64(lu.shape.Get().SizeBytes) >> lu.shift }

func (lu *LU) blockSize() int { return 1 << lu.shift }

// abortTasks ends the tasks of every nexus that match accepts, nil for all.
// by is the nexus that asks: its own tasks end silently, those of others as
// TAS says. w waits for the ones that the device works on.
func (lu *LU) abortTasks(by *Nexus, match func(*Nexus) bool, w *abortWait) {
	kind := abortSilent
	if lu.mode.taskAbortedStatus() {
		kind = abortStatus
	}
	for _, i := range lu.each() {
		switch {
		case match != nil && !match(i.nexus):
		case i.nexus == by:
			i.set.abort(nil, abortSilent, w)
		default:
			i.set.abort(nil, kind, w)
		}
	}
}

// reset is a logical unit reset (SAM-5 §6.3.3): tasks end, mode parameters go
// back to the saved ones, SPC-2 reservations end, every nexus gets ua.
func (lu *LU) reset(by *Nexus, ua attention, w *abortWait) {
	lu.abortTasks(by, nil, w)
	lu.mode.reset(lu)
	lu.stopped.Store(false)
	lu.reservationsReset()
	for _, i := range lu.each() {
		i.locked.Store(false)
		i.ua.raise(ua)
	}
	e := Event{Kind: EventReset, Unit: lu.id, Text: "logical unit reset"}
	if by != nil {
		e.Nexus = by.id
	}
	lu.target.event(e)
}

// join and leave keep mu.itls.
func (lu *LU) join(i *itl) {
	lu.mu.Lock()
	defer lu.mu.Unlock()
	lu.mu.itls = append(lu.mu.itls, i)
}

func (lu *LU) leave(i *itl) {
	lu.mu.Lock()
	defer lu.mu.Unlock()
	lu.mu.itls = slices.DeleteFunc(lu.mu.itls, func(o *itl) bool { return o == i })
}

package nvme

import (
	"errors"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/target/access"
	"blockd.dev/target/reservation"
)

// namespace is one volume with what NVMe adds to it. It lives as long as the
// volume is configured with the same device.
type namespace struct {
	sub    *Subsystem
	id     VolumeID
	device blockdev.Device
	shape  blockdev.Shape // of device
	conf   atomic.Pointer[NamespaceConfig]
	shift  uint8 // log2 of the logical block size

	protected atomic.Uint32 // access.Protection
	rsv       *reservation.Volume
	unwatch   []func()

	mu struct {
		sync.Mutex
		attached []*attachment
	}
}

// attachment is a namespace as one controller sees it.
type attachment struct {
	ns   *namespace
	ctrl *Controller
	nsid uint32
	ana  atomic.Uint32 // ANAState
	// diverted says that the namespace is inaccessible to the host; see Subsystem.Divert.
	diverted atomic.Bool
	mask     atomic.Uint32 // Reservation Notification Mask (feature 82h)
}

// nsView is the immutable set of namespaces of a controller.
type nsView struct {
	dense  []*attachment // by NSID-1, for NSIDs up to denseNSIDs
	sparse map[uint32]*attachment
	list   []*attachment // by NSID
}

const denseNSIDs = 256

// at gives the namespace of an NSID, or nil.
func (v *nsView) at(nsid uint32) *attachment {
	if i := nsid - 1; uint64(i) < uint64(len(v.dense)) {
		return v.dense[i]
	}
	return v.sparse[nsid] // nil map for nearly everyone
}

// newView takes attachments in order of NSID.
func newView(list []*attachment) *nsView {
	v := &nsView{list: list}
	for _, a := range list {
		if a.nsid > denseNSIDs {
			if v.sparse == nil {
				v.sparse = make(map[uint32]*attachment)
			}
			v.sparse[a.nsid] = a
			continue
		}
		for uint32(len(v.dense)) < a.nsid {
			v.dense = append(v.dense, nil)
		}
		v.dense[a.nsid-1] = a
	}
	return v
}

// openNamespace makes the namespace of n.
func (s *Subsystem) openNamespace(n *NamespaceConfig) (*namespace, error) {
	g := n.Device.Geometry()
	ns := &namespace{sub: s, id: n.ID, device: n.Device, shift: uint8(bits.TrailingZeros(uint(g.BlockSize)))}
	ns.conf.Store(n)
	v, err := s.deps.Reservations.Volume(n.ID)
	if err != nil {
		return nil, err
	}
	ns.protected.Store(uint32(n.Protect))
	ns.rsv = v
	ns.shape.Refresh(n.Device) // changed may be called from now on
	ns.unwatch = []func(){v.Watch(ns.reservationsChanged), n.Device.Watch(ns.changed)}
	ns.shape.Refresh(n.Device) // what changed before the watch
	return ns, nil
}

// close ends the watches; commands in flight still finish.
func (ns *namespace) close() {
	for _, stop := range ns.unwatch {
		stop()
	}
}

// changed is the device's Watch callback.
func (ns *namespace) changed(c blockdev.Change) {
	ns.shape.Refresh(ns.device)
	switch c {
	case blockdev.ChangeSize, blockdev.ChangeReadOnly:
		ns.attributesChanged(nil)
	case blockdev.ChangeGone:
		ns.sub.event(Event{Kind: EventDeviceError, Volume: ns.id, Text: "the device of the namespace is gone; every command fails from now on"})
	}
}

// attributesChanged raises a namespace attribute notice on every controller
// but one.
func (ns *namespace) attributesChanged(but *Controller) {
	for _, a := range ns.each() {
		if a.ctrl != but {
			a.ctrl.namespaceChanged(a.nsid)
		}
	}
}

// protection is the namespace's write protection.
func (ns *namespace) protection() access.Protection { return access.Protection(ns.protected.Load()) }

// protect changes the write protection and tells every controller but one.
func (ns *namespace) protect(p access.Protection, but *Controller) {
	if ns.protected.Swap(uint32(p)) != uint32(p) {
		ns.attributesChanged(but)
	}
}

// each gives the attachments of this moment.
func (ns *namespace) each() []*attachment {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return slices.Clone(ns.mu.attached)
}

func (ns *namespace) join(a *attachment) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.mu.attached = append(ns.mu.attached, a)
}

func (ns *namespace) leave(a *attachment) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.mu.attached = slices.DeleteFunc(ns.mu.attached, func(o *attachment) bool { return o == a })
}

func (ns *namespace) blocks() uint64 { return uint64(ns.shape.Get().SizeBytes) >> ns.shift }

// readOnly reports whether writes are refused.
func (ns *namespace) readOnly() bool {
	return ns.protection().On() || ns.shape.Get().ReadOnly
}

// conflict reports whether a reservation keeps the controller's host from a
// command of class a.
func (ns *namespace) conflict(c *Controller, a reservation.Access) bool {
	return a != reservation.AccessAny && ns.rsv.Restricted() && !ns.rsv.Allows(&c.party, a)
}

// group is the ANA group that the namespace is in for the host.
func (a *attachment) group() uint32 {
	if a.diverted.Load() {
		return groupOfAccess(access.Inaccessible)
	}
	return a.ns.conf.Load().ANAGroup
}

// accessible says why the namespace can't be used through its controller now.
// All of it may pass, so none carries DNR: the host tries another path.
func (a *attachment) accessible() Status {
	switch ANAState(a.ana.Load()) {
	case ANAInaccessible:
		return ANAInaccessibleStatus
	case ANAPersistent:
		return ANAPersistentLoss
	case ANAChange:
		return ANATransition
	default:
		return Success
	}
}

// remap makes the view of c what conf says, keeping what did not change. It
// returns the NSIDs that are new, gone or other volumes than before, and
// whether an ANA state or group changed.
func (c *Controller) remap(conf *snapshot, namespaces map[VolumeID]*namespace) (changed []uint32, lost []*attachment, ana bool) {
	want := make(map[uint32]*namespace)
	for nsid, id := range conf.AnyView {
		want[nsid] = namespaces[id]
	}
	for nsid, id := range conf.Views[c.hostNQN] {
		want[nsid] = namespaces[id]
	}
	old := c.view.Load()
	var list []*attachment
	kept := make(map[*attachment]bool, len(old.list))
	for nsid, ns := range want {
		a := old.at(nsid)
		if a == nil || a.ns != ns {
			a = &attachment{ns: ns, ctrl: c, nsid: nsid}
			ns.join(a)
			changed = append(changed, nsid)
		}
		kept[a] = true
		state := uint32(conf.anaState(a.group(), c.port))
		if was := a.ana.Swap(state); was != state && was != 0 {
			ana = true
		}
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b *attachment) int { return int(a.nsid) - int(b.nsid) })
	c.view.Store(newView(list))
	for _, a := range old.list {
		if !kept[a] {
			lost = append(lost, a)
			changed = append(changed, a.nsid)
		}
	}
	slices.Sort(changed)
	return slices.Compact(changed), lost, ana
}

// reconfigure makes c follow a new configuration and tells its host.
func (c *Controller) reconfigure(old, next *snapshot, namespaces map[VolumeID]*namespace) {
	if c.discovery {
		if old == nil || old.visible(c.hostNQN) != next.visible(c.hostNQN) || portsDiffer(old, next) {
			c.raise(eventDiscovery)
		}
		return
	}
	if !next.allowed(c.hostNQN) {
		c.end(errHostRemoved)
		return
	}
	c.mu.Lock()
	if c.mu.ended {
		c.mu.Unlock()
		return
	}
	changed, lost, ana := c.remap(next, namespaces)
	c.mu.Unlock()
	for _, a := range lost {
		a.ns.leave(a)
	}
	for _, nsid := range changed {
		c.namespaceChanged(nsid)
	}
	for _, a := range c.view.Load().list {
		if old != nil && anaGroupOf(old, a.ns.id) != anaGroupOf(next, a.ns.id) {
			ana = true
			c.namespaceChanged(a.nsid)
		}
	}
	if ana {
		c.raise(eventANA)
	}
}

func anaGroupOf(s *snapshot, id VolumeID) uint32 {
	for i := range s.Namespaces {
		if s.Namespaces[i].ID == id {
			return s.Namespaces[i].ANAGroup
		}
	}
	return 0
}

// anaDiffers reports whether any group's state or members differ.
func anaDiffers(a, b *snapshot) bool {
	if len(a.Namespaces) != len(b.Namespaces) || len(a.ANAGroups) != len(b.ANAGroups) {
		return true
	}
	for i := range a.Namespaces {
		if a.Namespaces[i].ID != b.Namespaces[i].ID || a.Namespaces[i].ANAGroup != b.Namespaces[i].ANAGroup {
			return true
		}
	}
	for i := range a.ANAGroups {
		x, y := &a.ANAGroups[i], &b.ANAGroups[i]
		if x.ID != y.ID || x.State != y.State || len(x.Ports) != len(y.Ports) {
			return true
		}
		for p, s := range x.Ports {
			if y.Ports[p] != s {
				return true
			}
		}
	}
	return false
}

// statusOf says what a failed device request means to a host. Only what can't
// pass by itself carries DNR.
func (c *Command) statusOf(err error) Status {
	switch {
	case errors.Is(err, blockdev.ErrBusy):
		if a := c.state.att; a != nil && a.ns.conf.Load().Shared {
			return c.delayed(ANATransition)
		}
		return c.later()
	case errors.Is(err, blockdev.ErrPoisoned):
		return UnrecoveredReadError | DNR // until it is written again
	case errors.Is(err, blockdev.ErrMedium):
		if c.state.req.Op == blockdev.OpRead {
			return UnrecoveredReadError
		}
		return WriteFault
	case errors.Is(err, blockdev.ErrNoSpace):
		return CapacityExceeded
	case errors.Is(err, blockdev.ErrReadOnly):
		return NamespaceWriteProtected
	case errors.Is(err, blockdev.ErrOutOfRange):
		return LBAOutOfRange | DNR // the device shrank under the command
	case errors.Is(err, blockdev.ErrMiscompare):
		return CompareFailure | DNR
	case errors.Is(err, blockdev.ErrFenced):
		return ANAInaccessibleStatus // another node owns the volume: use that path
	case errors.Is(err, blockdev.ErrGone):
		return NamespaceNotReady
	default:
		return InternalError
	}
}

// later asks the host to send the command again after a while. Linux does so five times, by the
// same path, and then fails what it was for. Of a status that tells of the path it goes by another one, or waits
// until there is one, as long as it takes.
func (c *Command) later() Status { return c.delayed(CommandInterrupted) }

// delayed is s with the delay that the host is to keep, if it knows of delays.
func (c *Command) delayed(s Status) Status {
	if c.state.queue.ctrl.acre.Load() {
		return s | crd1
	}
	return s
}

// failIO ends c with what err of its device means.
func (c *Command) failIO(err error) {
	s := c.statusOf(err)
	switch code := s.Code(); {
	case errors.Is(err, blockdev.ErrPoisoned): // a host asked for that
	case code == UnrecoveredReadError, code == WriteFault, code == InternalError:
		ns := c.state.att.ns
		ns.sub.event(Event{Kind: EventDeviceError, Volume: ns.id, HostNQN: c.state.queue.ctrl.hostNQN, CNTLID: c.state.queue.ctrl.id, Text: err.Error()})
	}
	c.complete(s)
}

package nvme

import (
	"encoding/binary"
	"slices"
)

// eventKind is a kind of asynchronous event that controllers report.
type eventKind uint8

const (
	eventNamespace   eventKind = iota // Namespace Attribute Changed
	eventANA                          // Asymmetric Namespace Access Change
	eventDiscovery                    // Discovery Log Page Change
	eventReservation                  // Reservation Log Page Available
	eventSpare                        // Spare Below Threshold
	eventKinds
)

// eventDescs are the kinds (NVMe Base 2.0 §5.2.1): type in bits 2:0 of Dword
// 0, information in 15:8, log page in 23:16; and the bit of Asynchronous Event
// Configuration that lets it through, 0 where another feature does.
var eventDescs = [eventKinds]struct {
	name   string
	dword  uint64
	config uint32
}{
	eventNamespace:   {name: "namespace", dword: 0x2 | 0x00<<8 | uint64(logChangedNamespaces)<<16, config: 1 << 8},
	eventANA:         {name: "ana", dword: 0x2 | 0x03<<8 | uint64(logANA)<<16, config: 1 << 11},
	eventDiscovery:   {name: "discovery", dword: 0x2 | 0xf0<<8 | uint64(logDiscovery)<<16, config: 1 << 31},
	eventSpare:       {name: "spare", dword: 0x1 | 0x02<<8 | uint64(logSMART)<<16, config: 1 << 0},
	eventReservation: {name: "reservation", dword: 0x6 | 0x00<<8 | uint64(logReservation)<<16},
}

// eventConfig are the bits of OAES and of Asynchronous Event Configuration
// that a controller has.
func eventConfig(discovery bool) uint32 {
	if discovery {
		return eventDescs[eventDiscovery].config
	}
	return eventDescs[eventNamespace].config | eventDescs[eventANA].config
}

// eventSlots is how many Asynchronous Event Requests may wait: AERL + 1.
const eventSlots = 8

// events is what a controller has to report.
type events struct {
	waiting  []*Command // Asynchronous Event Requests
	pending  [eventKinds]bool
	reported [eventKinds]bool // and not read yet: the same is not reported again

	changed    []uint32 // NSIDs for the Changed Namespace List log page
	changedAll bool     // more than it can hold

	reservations []reservationNotice
	noticeCount  uint64 // of all there ever were: the Log Page Count
}

// changedMax is what the Changed Namespace List holds.
const changedMax = 1024

// noticesMax bounds the reservation notices that wait to be read: what the
// Number of Available Log Pages field can say.
const noticesMax = 255

// reset forgets everything but the requests, which end elsewhere.
func (e *events) reset() { *e = events{waiting: e.waiting} }

// raise reports an event, or keeps it until the host asks.
func (c *Controller) raise(k eventKind) {
	c.mu.Lock()
	if bit := eventDescs[k].config; bit != 0 && c.mu.features.asyncEvents&bit == 0 || c.mu.ended {
		c.mu.Unlock()
		return
	}
	c.mu.events.pending[k] = true
	done := c.deliverLocked(nil)
	c.mu.Unlock()
	completeAll(done)
}

// deliverLocked matches requests with events and returns the requests to
// complete.
func (c *Controller) deliverLocked(done []*Command) []*Command {
	e := &c.mu.events
	for k := range e.pending {
		if len(e.waiting) == 0 {
			break
		}
		if !e.pending[k] || e.reported[k] {
			continue
		}
		r := e.waiting[0]
		e.waiting = slices.Delete(e.waiting, 0, 1)
		if !r.state.queue.unparkLocked(r) {
			continue // aborted at this moment
		}
		r.Result = eventDescs[k].dword
		e.pending[k], e.reported[k] = false, true
		c.sub.told[k].Add(1)
		done = append(done, r)
	}
	return done
}

func completeAll(list []*Command) {
	for _, c := range list {
		c.good()
	}
}

// readLocked notes that the host read the log page of an event, so that the
// next change is reported. It returns requests to complete.
func (c *Controller) readLocked(k eventKind) []*Command {
	c.mu.events.reported[k] = false
	return c.deliverLocked(nil)
}

// namespaceChanged puts nsid into the Changed Namespace List and raises the
// event.
func (c *Controller) namespaceChanged(nsid uint32) {
	c.mu.Lock()
	e := &c.mu.events
	if i, found := slices.BinarySearch(e.changed, nsid); !found && !e.changedAll {
		if len(e.changed) == changedMax {
			e.changed, e.changedAll = nil, true
		} else {
			e.changed = slices.Insert(e.changed, i, nsid)
		}
	}
	c.mu.Unlock()
	c.raise(eventNamespace)
}

// reservationNotice is an entry of the Reservation Notification log page.
type reservationNotice struct {
	count uint64
	kind  uint8
	nsid  uint32
}

// noticeReservation keeps a notice and raises the event.
func (c *Controller) noticeReservation(kind uint8, nsid uint32) {
	c.mu.Lock()
	e := &c.mu.events
	e.noticeCount++
	if len(e.reservations) == noticesMax {
		e.reservations = slices.Delete(e.reservations, 0, 1) // the count tells of the gap
	}
	e.reservations = append(e.reservations, reservationNotice{e.noticeCount, kind, nsid})
	c.mu.Unlock()
	c.raise(eventReservation)
}

func prepareAER(c *Command) Status {
	ctrl := c.state.queue.ctrl
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	if len(ctrl.mu.events.waiting) >= eventSlots {
		return AsyncEventLimitExceeded | DNR
	}
	return Success
}

// asyncEventRequest waits for an event (NVMe Base 2.0 §5.2).
func asyncEventRequest(c *Command) {
	q := c.state.queue
	ctrl := q.ctrl
	ctrl.mu.Lock()
	if len(ctrl.mu.events.waiting) >= eventSlots {
		ctrl.mu.Unlock()
		c.complete(AsyncEventLimitExceeded | DNR)
		return
	}
	if ctrl.mu.ended || !q.park(c) {
		ctrl.mu.Unlock()
		c.complete(AbortedSQDeletion)
		return
	}
	ctrl.mu.events.waiting = append(ctrl.mu.events.waiting, c)
	done := ctrl.deliverLocked(nil)
	ctrl.mu.Unlock()
	completeAll(done)
}

// park has c wait for an event; false when it was aborted meanwhile.
func (q *Queue) park(c *Command) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c.state.abort != 0 {
		return false
	}
	c.state.phase = phaseParked
	return true
}

// unparkLocked takes c back to complete it; false when somebody else does.
// Called with the controller's mu.
func (q *Queue) unparkLocked(c *Command) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c.state.phase != phaseParked {
		return false
	}
	c.state.phase = phaseRunning
	return true
}

// unpark forgets c, which ends without an event.
func (c *Controller) unpark(r *Command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.events.waiting = slices.DeleteFunc(c.mu.events.waiting, func(o *Command) bool { return o == r })
}

// dropEventRequests ends the waiting requests: a controller level reset
// forgets them.
func (c *Controller) dropEventRequests() {
	c.mu.Lock()
	admin := c.mu.admin
	c.mu.Unlock()
	admin.abortAll(func(r *Command) bool {
		return r.Opcode() == OpAsyncEventRequest && r.state.entry != nil && r.state.phase == phaseParked
	},
		AbortedSQDeletion, nil)
}

// changedList is the Changed Namespace List log page (NVMe Base 2.0
// §5.16.1.5).
func (e *events) changedList() []byte {
	p := make([]byte, 4*changedMax)
	if e.changedAll {
		binary.LittleEndian.PutUint32(p, NSIDAll)
		return p
	}
	for i, nsid := range e.changed {
		binary.LittleEndian.PutUint32(p[4*i:], nsid)
	}
	return p
}

func (e *events) clearChanged() { e.changed, e.changedAll = nil, false }

// reservationPage is the oldest notice as a Reservation Notification log page
// (NVMe Base 2.0 §5.16.1.25).
func (e *events) reservationPage() []byte {
	p := make([]byte, 64)
	if len(e.reservations) == 0 {
		return p
	}
	n := e.reservations[0]
	binary.LittleEndian.PutUint64(p, n.count)
	p[8] = n.kind
	p[9] = uint8(min(len(e.reservations)-1, 255))
	binary.LittleEndian.PutUint32(p[12:], n.nsid)
	return p
}

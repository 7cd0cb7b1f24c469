package nvme

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/target/reservation"
)

// Controller is one association of a host: an admin queue and, but for
// discovery, I/O queues. It begins with Subsystem.Connect for queue 0 and ends
// with that queue.
type Controller struct {
	sub       *Subsystem
	id        uint16
	hostNQN   string
	hostID    [16]byte
	party     reservation.Identity
	port      uint16
	discovery bool

	view    atomic.Pointer[nsView]
	traffic atomic.Bool   // a command came since the last tick
	aborts  atomic.Int32  // Abort commands under way
	enabled atomic.Bool   // mirrors mu.ready
	acre    atomic.Bool   // Host Behavior Support: it knows Command Retry Delay
	moves   atomic.Uint64 // of its namespaces to another ANA group by Subsystem.Divert and Readmit
	// writeThrough makes every write durable: the host switched the cache off.
	writeThrough atomic.Bool

	mu struct {
		sync.Mutex
		ended  bool
		admin  *Queue
		queues map[uint16]*Queue // I/O queues by QID

		cc    uint32 // Controller Configuration
		csts  uint32 // Controller Status
		ready bool

		kato     time.Duration
		deadline time.Time // zero: none

		queuesGranted int // I/O queues; MaxIOQueues until Number of Queues is set
		features      features
		events        events
		errors        errorLog
		past          counters // of I/O queues that are gone
	}
}

// newControllerLocked makes a controller. Called with s.mu.
func (s *Subsystem) newControllerLocked(r *ConnectRequest, id uint16, discovery bool) *Controller {
	conf := s.conf.Load()
	c := &Controller{sub: s, id: id, hostNQN: r.HostNQN, hostID: r.HostID, port: r.Port, discovery: discovery,
		party: reservation.NVMe(r.HostNQN, r.HostID)}
	c.mu.queues = make(map[uint16]*Queue)
	c.mu.queuesGranted = conf.MaxIOQueues
	c.mu.features.reset(discovery)
	c.view.Store(&nsView{})
	if !discovery {
		c.remap(conf, s.mu.namespaces)
	}
	c.mu.kato = keepAlive(r.KATO)
	if discovery && c.mu.kato == 0 {
		c.mu.kato = discoveryIdle
	}
	if c.mu.kato != 0 {
		c.mu.deadline = s.deps.Now().Add(c.mu.kato)
	}
	return c
}

// discoveryIdle is how long a discovery controller without keep-alive lives
// after its last command (NVMe Base 2.0 §3.1.2.3).
const discoveryIdle = 2 * time.Minute

// ID is the controller id, CNTLID.
func (c *Controller) ID() uint16 { return c.id }

// HostNQN names the host.
func (c *Controller) HostNQN() string { return c.hostNQN }

// HostID is the Host Identifier.
func (c *Controller) HostID() [16]byte { return c.hostID }

// Discovery reports whether it is a discovery controller.
func (c *Controller) Discovery() bool { return c.discovery }

// touch notes that the host is alive: with traffic-based keep-alive every
// command counts.
func (c *Controller) touch() {
	if !c.traffic.Load() {
		c.traffic.Store(true)
	}
}

// tick moves the keep-alive deadline, or gives the reason to end.
func (c *Controller) tick(now time.Time) (due time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.ended || c.mu.kato == 0 {
		return time.Time{}, nil
	}
	if c.traffic.Swap(false) {
		c.mu.deadline = now.Add(c.mu.kato)
	}
	if now.Before(c.mu.deadline) {
		// A quarter of the timeout: a host that falls silent is found at most
		// that much too late.
		next := now.Add(c.mu.kato / 4)
		if c.mu.deadline.Before(next) {
			next = c.mu.deadline
		}
		return next, nil
	}
	return time.Time{}, keepAliveError{c.mu.kato}
}

// end ends the association: every queue is closed, with the reason, and the
// controller's id is free.
func (c *Controller) end(reason error) {
	s := c.sub
	s.mu.Lock()
	c.mu.Lock()
	if c.mu.ended {
		c.mu.Unlock()
		s.mu.Unlock()
		return
	}
	c.mu.ended = true
	c.mu.ready = false
	c.enabled.Store(false)
	queues := slices.Collect(maps.Values(c.mu.queues))
	if c.mu.admin != nil {
		queues = append(queues, c.mu.admin)
	}
	if s.mu.controllers[c.id] == c {
		delete(s.mu.controllers, c.id)
	}
	for _, q := range queues {
		s.mu.past.add(&q.counts)
	}
	s.mu.past.add(&c.mu.past)
	lost := c.view.Swap(&nsView{})
	c.mu.Unlock()
	s.mu.Unlock()
	for _, q := range queues { // while namespaces know it
		q.close(reason)
	}
	for _, a := range lost.list {
		a.ns.leave(a)
	}
	if errors.As(reason, new(keepAliveError)) {
		s.keepAliveTimeouts.Add(1)
	}
	s.event(Event{Kind: EventEnded, HostNQN: c.hostNQN, CNTLID: c.id, Text: reason.Error()})
}

// ended reports whether the association has ended.
func (c *Controller) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.ended
}

// forget removes an I/O queue whose connection is gone.
func (c *Controller) forget(q *Queue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.queues[q.id] == q {
		delete(c.mu.queues, q.id)
		c.mu.past.add(&q.counts)
	}
}

// closeIO ends all I/O queues: a controller level reset deletes them.
func (c *Controller) closeIO(reason error) {
	c.mu.Lock()
	queues := slices.Collect(maps.Values(c.mu.queues))
	c.mu.Unlock()
	for _, q := range queues {
		q.close(reason)
		c.forget(q)
	}
}

// allQueues gives the queues at this moment, the admin queue first.
func (c *Controller) allQueues() []*Queue {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Queue{c.mu.admin}, slices.Collect(maps.Values(c.mu.queues))...)
}

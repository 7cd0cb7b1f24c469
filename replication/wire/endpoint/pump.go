package endpoint

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/link"
	"blockd.dev/internal/adaptive"
	"blockd.dev/internal/clock"
	"blockd.dev/internal/turn"
)

const (
	rxBatch = 64
	txBatch = 64

	outboxMax = 256 // datagrams that other pumps may leave at a time

	// looks is how often a polling pump looks at its link per turn.
	looks = 4

	// sleepMin is the shortest sleep worth its wake-up, for a pump that may
	// poll instead.
	sleepMin = 30 * time.Microsecond
	// goschedEvery is how long a pump goes on without a sleep before it offers its
	// processor to other goroutines: the offer is answered by a thread that has
	// to be woken, whether there are others or not.
	goschedEvery = 100 * time.Microsecond
	// yieldEvery is how long a busy pump polls in vain before it offers its
	// processor to other threads, among them the kernel's own that bring what it
	// waits for (ksoftirqd). Where others want it, sched_yield gives up a whole
	// time slice, some 3 ms: offered with every few turns it starved pumps for
	// half a second. An adaptive pump sleeps soon anyway.
	yieldEvery = time.Millisecond
	// preempted is how long a turn takes at least if somebody else has used the
	// processor in the middle of it.
	preempted = 50 * time.Microsecond
	// restMin and restMax bound for how many waits a busy pump sleeps, instead of
	// polling, after it was preempted. On a processor that others want polling
	// only uses up time slices, of milliseconds, that the sender waits for.
	restMin, restMax = 16, 4096
	// fullWait is how long to wait for a ring to have room, at most.
	fullWait = time.Millisecond
	// answersMax is how many datagrams a second a pump sends to strangers: retries,
	// refusals, resets.
	answersMax = 2000
)

// pump is the goroutine of one Link.
type pump struct {
	e      *Endpoint
	link   link.Link
	local  netip.AddrPort
	poller adaptive.Poller
	wake   func() // link.Wake

	mu struct {
		sync.Mutex
		ready   []*conn
		outbox  []parcel
		tasks   []turn.Task // to be done after sending
		stopErr error       // why to stop
		drainAt clock.Mono  // when to stop at the latest; 0 for not at all
		ended   bool
	}
	called atomic.Bool // there is something in mu
	asleep atomic.Bool
	// current is under way while messages are handed over, and the disks looked at.
	current turn.Turn

	// The goroutine's own.
	now       clock.Mono
	conns     []*conn // at home here
	running   []*conn // to be processed in this turn
	spare     []*conn // memory for mu.ready
	nextTimer clock.Mono
	draining  clock.Mono
	offered   clock.Mono // when the processor was last offered to other goroutines
	yielded   clock.Mono // when polling last offered the processor to other threads
	busy      contest    // mode busy only
	full      bool       // the link had no room
	flushed   bool       // this turn has sent something
	sources   sources
	rx        [rxBatch]link.RxBuf
	tx        [txBatch]link.TxBuf
	txHave    int // reserved
	txUsed    int // of these, filled
	txSent    int // of these, the link's again
	scratch   []byte
	parcels   []parcel    // memory for mu.outbox
	tasks     []turn.Task // to be done in this turn
	answers   int         // to strangers, in the second that began at answersAt
	answersAt clock.Mono

	count pumpCounters
}

// parcel is a datagram that another pump has produced for this one's link.
type parcel struct {
	data []byte
	to   netip.AddrPort
}

func newPump(e *Endpoint, l link.Link) *pump {
	p := &pump{e: e, link: l, local: l.LocalAddr(), nextTimer: clock.Never, scratch: make([]byte, datagramMax)}
	p.wake = l.Wake
	p.sources = newSources(l, e.cfg.Sources)
	p.busy.next = restMin
	p.poller.Init(e.cfg.Poll)
	return p
}

func (p *pump) name() string { return fmt.Sprintf("%v %v", p.link.Kind(), p.local) }

// run is the goroutine.
func (p *pump) run() {
	defer p.e.pumps.Done()
	err := p.loop()
	p.sources.leave()
	p.mu.Lock()
	p.mu.ended = true
	p.mu.Unlock()
	p.lastTasks()
	p.e.pumpEnded(p, err)
	p.link.ReleaseTx(p.tx[p.txSent:p.txHave])
	_ = p.link.Close() // nothing can be done about it, and nothing follows from it
}

// loop takes turns until the link ends or the pump is stopped.
func (p *pump) loop() error {
	var (
		idle, polling bool
		began         clock.Mono
		budget        time.Duration
	)
	for {
		last := p.now
		worked, err := p.turn(polling)
		if err != nil {
			return err
		}
		if worked {
			switch {
			case polling:
				p.poller.Hit(p.now.Sub(began))
				p.busy.hit()
			case idle:
				p.poller.Parked(p.now.Sub(began))
				p.offered = p.now
			}
			idle, polling = false, false
			continue
		}
		if p.flushed { // a timer's, such as the pacer's: what follows is another wait
			if polling {
				p.poller.Stop(p.now.Sub(began))
			}
			idle, polling = false, false
			continue
		}
		if !idle {
			idle, began, last = true, p.now, p.now
			p.yielded = p.now
			if polling = !p.busy.resting(); polling {
				budget = p.poller.Begin()
				polling = budget > 0
			}
		}
		if polling {
			if p.now.Sub(began) < budget && p.yield(last) {
				continue
			}
			p.poller.Miss(p.now.Sub(began))
			polling = false
		}
		if err := p.sleep(); err != nil {
			return err
		}
	}
}

// yield lets others have the processor between two looks at the link, of which
// the last one began at the given time. It reports false when polling is at
// the expense of somebody who has work.
func (p *pump) yield(last clock.Mono) bool {
	if p.now.Sub(p.offered) > goschedEvery {
		p.offered = p.now
		runtime.Gosched()
	}
	alone := p.now.Sub(last) < preempted
	if p.e.cfg.Poll.Mode != adaptive.Busy {
		return alone
	}
	if !alone {
		p.busy.lost()
		return false
	}
	if p.now.Sub(p.yielded) > yieldEvery {
		p.yielded = p.now
		_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // it can't fail
	}
	return true
}

// contest is what a busy pump knows of others who want its processor. A poller
// that learns rests by itself.
type contest struct {
	rest int // waits to sleep
	next int // how many when the processor is lost again
	hits int // polls in a row that were not in vain
}

// resting tells whether to sleep this time.
func (c *contest) resting() bool {
	if c.rest == 0 {
		return false
	}
	c.rest--
	return true
}

// lost begins a rest, twice as long as the last if that one did not help.
func (c *contest) lost() {
	c.rest, c.hits = c.next, 0
	c.next = min(2*c.next, restMax)
}

// hit notes a poll that was not disturbed. After as many as the rest would be
// long, the processor is taken to be the pump's own again.
func (c *contest) hit() {
	if c.hits++; c.hits >= c.next {
		c.next, c.hits = restMin, 0
	}
}

// sleep waits for the link, for a call, or for the next timer.
func (p *pump) sleep() error {
	timeout := time.Duration(-1)
	if next := min(p.nextTimer, p.e.nextDialFor(p), p.drainEnd()); next != clock.Never {
		timeout = max(0, next.Sub(p.e.cfg.Clock.Now()))
	}
	if p.full {
		p.full = false
		timeout = fullWait
	} else {
		if timeout == 0 || timeout > 0 && timeout < sleepMin && p.e.cfg.Poll.Mode != adaptive.Interrupt {
			return nil
		}
		p.asleep.Store(true)
		defer p.asleep.Store(false)
		if p.called.Load() {
			return nil
		}
	}
	p.sources.rest()
	return p.link.Wait(timeout)
}

func (p *pump) drainEnd() clock.Mono {
	if p.draining != 0 {
		return p.draining
	}
	return clock.Never
}

// turn is one batch of everything. worked tells whether there was anything
// that polling is for; timers are not.
func (p *pump) turn(polling bool) (worked bool, err error) {
	p.full, p.flushed = false, false
	n, err := p.look(polling)
	if err != nil {
		return false, err
	}
	p.now = p.e.cfg.Clock.Now()
	p.count.turns.Add(1)
	if n > 0 {
		p.receive(p.rx[:n])
	}
	called := p.called.Load()
	if n > 0 || called {
		p.sources.attend(p.wake)
	}
	if n > 0 || called || p.sources.count > 0 {
		p.current.Begin()
	}
	if called {
		if err := p.takeCalls(); err != nil {
			return false, err
		}
	}
	if p.nextTimer <= p.now {
		p.timers()
	}
	if p.e.nextDialFor(p) <= p.now {
		p.e.dialDue(p.now)
	}
	done := p.process(0)
	p.current.Run()
	// The disks come after the messages, so that what follows the I/O that is done has these
	// in it, and its answers go with what is sent now.
	looked := p.sources.look()
	p.current.End()
	if looked && p.called.Load() {
		if err := p.takeCalls(); err != nil {
			return false, err
		}
		p.process(done)
	}
	if err := p.flush(); err != nil {
		return false, err
	}
	// The peers have got what they wait for; now to what they don't.
	p.doTasks()
	if n > 0 {
		p.link.ReleaseRx(p.rx[:n])
	}
	for i, c := range p.running {
		// One that stands there twice may have moved to another pump since the first time, or be over.
		if c != nil && c.home.Load() == p && !c.over {
			c.settle(p)
		}
		p.running[i] = nil
	}
	p.running = p.running[:0]
	if p.draining != 0 && (len(p.conns) == 0 || p.draining <= p.now) {
		return false, fmt.Errorf("%w: %w", link.ErrClosed, ErrStopped)
	}
	return (n > 0 || called || looked) && !p.full, nil
}

// process deals with the connections of this turn from the one with that number on, and
// returns how many there are.
func (p *pump) process(from int) int {
	for i := from; i < len(p.running); i++ {
		c := p.running[i]
		if home := c.home.Load(); home != p {
			home.enqueue(c)
			p.running[i] = nil
			continue
		}
		if !c.listed && !c.over {
			c.listed = true
			p.conns = append(p.conns, c)
		}
		if !c.process(p, p.now) {
			p.running[i] = nil
		}
	}
	return len(p.running)
}

// look takes what has arrived. While polling it looks several times, since
// the rest of an empty turn takes longer than a look.
func (p *pump) look(polling bool) (n int, err error) {
	n, err = p.link.Recv(p.rx[:])
	for i := 1; polling && i < looks && n == 0 && err == nil && !p.called.Load(); i++ {
		n, err = p.link.Recv(p.rx[:])
	}
	return n, err
}

// takeCalls takes what others have left in mu.
func (p *pump) takeCalls() error {
	p.called.Store(false) // before looking: what comes later sets it again
	p.mu.Lock()
	ready, parcels := p.mu.ready, p.mu.outbox
	p.mu.ready, p.mu.outbox = p.spare[:0], p.parcels[:0]
	p.tasks = append(p.tasks, p.mu.tasks...)
	clear(p.mu.tasks)
	p.mu.tasks = p.mu.tasks[:0]
	p.draining = p.mu.drainAt
	err := p.mu.stopErr
	p.mu.Unlock()
	p.running = append(p.running, ready...)
	clear(ready)
	p.spare = ready
	for i := range parcels {
		if buf := p.txBuf(); buf != nil && len(parcels[i].data) <= cap(buf.Data) {
			buf.Data = append(buf.Data[:0], parcels[i].data...)
			buf.Peer = parcels[i].to
			p.txUsed++
		}
	}
	clear(parcels)
	p.parcels = parcels
	return err
}

// timers finds connections whose deadline has come.
func (p *pump) timers() {
	p.nextTimer = clock.Never
	for _, c := range p.conns {
		if c.deadline > p.now {
			p.nextTimer = min(p.nextTimer, c.deadline)
		} else if !c.ready.Swap(true) {
			p.running = append(p.running, c)
		}
	}
}

// disown takes c off this pump's connections.
func (p *pump) disown(c *conn) {
	if c.listed {
		c.listed = false
		p.conns = slices.DeleteFunc(p.conns, func(o *conn) bool { return o == c })
	}
}

// enqueue has c processed. Any goroutine may call it.
func (p *pump) enqueue(c *conn) {
	p.mu.Lock()
	if p.mu.ended {
		p.mu.Unlock()
		if home := c.home.Load(); home != p {
			home.enqueue(c)
		}
		return // pumpEnded finds c and moves it
	}
	p.mu.ready = append(p.mu.ready, c)
	p.mu.Unlock()
	p.call()
}

// call makes the pump look into mu.
func (p *pump) call() {
	p.called.Store(true)
	if p.asleep.Load() {
		p.link.Wake()
	}
}

// sendFor leaves a datagram for the pump to send, or drops it, as a wire does.
func (p *pump) sendFor(datagram []byte, to netip.AddrPort) {
	p.mu.Lock()
	if !p.mu.ended && len(p.mu.outbox) < outboxMax {
		p.mu.outbox = append(p.mu.outbox, parcel{slices.Clone(datagram), to})
	}
	p.mu.Unlock()
	p.call()
}

// stop ends the pump with err.
func (p *pump) stop(err error) {
	p.mu.Lock()
	p.mu.stopErr = err
	p.mu.Unlock()
	p.call()
}

// drain ends the pump when it has no connections any more, or at the latest
// at the given time.
func (p *pump) drain(at clock.Mono) {
	p.mu.Lock()
	p.mu.drainAt = at
	p.mu.Unlock()
	p.call()
}

// txBuf returns the next send buffer, of length zero; nil when the link has
// none, and then the pump waits until it may have. The caller uses it by
// txUsed++.
func (p *pump) txBuf() *link.TxBuf {
	if p.txUsed == p.txHave {
		if p.txHave == len(p.tx) && p.flush() != nil {
			return nil // the next Recv tells, too
		}
		p.txHave += p.link.Reserve(p.tx[p.txHave:])
		if p.txUsed == p.txHave {
			p.full = true
			return nil
		}
	}
	return &p.tx[p.txUsed]
}

// flush sends what is ready.
func (p *pump) flush() error {
	if p.txUsed == p.txSent {
		return nil
	}
	p.flushed = true
	err := p.link.Send(p.tx[p.txSent:p.txUsed])
	if p.txSent = p.txUsed; p.txSent == p.txHave {
		p.txHave, p.txUsed, p.txSent = 0, 0, 0
	}
	return err
}

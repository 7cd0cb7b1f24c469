package neigh

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// PeersMax is how many peers a Table looks after.
const PeersMax = 4096

// Times of a Table.
const (
	// settleTime passes after a notification before the kernel is asked, so
	// that a burst of them is one question.
	settleTime = 2 * time.Millisecond
	// checkTime is how long a Table goes without looking when nothing is
	// notified; restlessTime, while a peer has no hop. The kernel's entries go
	// stale after about 30 s and are collected after 60 s more.
	checkTime    = 5 * time.Second
	restlessTime = time.Second
	// touchTime is the least time between two touches of one neighbour.
	touchTime = time.Second
)

// Config is what a Table may be told. The zero value is good.
type Config struct {
	// OnChange, if not nil, is called after a hop has appeared, changed or
	// vanished, from the Table's goroutine: it must not block, nor call Close.
	OnChange func()
}

// Table holds the ways to the tracked peers. Lookup, Track, Untrack and Status
// may be called from any goroutine.
type Table struct {
	config Config
	kernel *kernel
	now    atomic.Pointer[snapshot]
	wake   chan struct{} // something to do; holds one
	stop   chan struct{}
	ended  sync.WaitGroup
	closed sync.Once

	mu      sync.Mutex
	tracked map[netip.Addr]bool

	touched map[neighKey]time.Time // only the goroutine's
}

// snapshot is never changed once it is published.
type snapshot struct {
	hops  map[netip.Addr]Hop // what Lookup finds
	peers map[netip.Addr]peer
	err   error // of the last look
}

// Open starts a Table for the network namespace of the calling thread. Close
// must be called in the end.
func Open(c Config) (*Table, error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	t := &Table{
		config:  c,
		kernel:  k,
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		tracked: map[netip.Addr]bool{},
		touched: map[neighKey]time.Time{},
	}
	t.now.Store(&snapshot{})
	t.ended.Go(t.listen)
	t.ended.Go(t.run)
	return t, nil
}

// Close ends the goroutines and waits for them. Lookup goes on to answer what
// was known last.
func (t *Table) Close() {
	t.closed.Do(func() {
		close(t.stop)
		t.kernel.changes.Close()
		t.ended.Wait()
		t.kernel.requests.Close()
	})
}

// Track has the Table look after the way to dst; Lookup knows it soon after,
// mostly within milliseconds. It does not block. IPv4 addresses may come as
// IPv4-mapped IPv6; a zone is needed with link-local ones. Errors: dst is not
// a host's address, or there are PeersMax peers already.
func (t *Table) Track(dst netip.Addr) error {
	dst = dst.Unmap()
	if !dst.IsValid() || dst.IsMulticast() || dst.IsUnspecified() {
		return fmt.Errorf("neigh: track %v: want a unicast address", dst)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tracked[dst] {
		return nil
	}
	if len(t.tracked) >= PeersMax {
		return fmt.Errorf("neigh: track %v: %d peers are tracked already, the most there may be", dst, PeersMax)
	}
	t.tracked[dst] = true
	t.rouse()
	return nil
}

// Untrack ends what Track began.
func (t *Table) Untrack(dst netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tracked, dst.Unmap())
	t.rouse()
}

// Lookup returns the way to dst, as known now. It is false when dst is not
// tracked, or there is no way, or none yet; Status says which. It takes some
// tens of nanoseconds, and neither locks nor allocates.
func (t *Table) Lookup(dst netip.Addr) (Hop, bool) {
	h, ok := t.now.Load().hops[dst.Unmap()]
	return h, ok
}

// PeerStatus says what a Table knows of a peer.
type PeerStatus struct {
	Peer netip.Addr
	Hop  Hop   // when Err is nil
	Err  error // why there is no hop, and what may help
}

// Status returns what is known of each tracked peer, in order of address.
func (t *Table) Status() []PeerStatus {
	s := t.now.Load()
	all := make([]PeerStatus, 0, len(s.peers))
	for addr, p := range s.peers {
		status := PeerStatus{Peer: addr, Hop: p.hop, Err: p.why}
		if !p.ok && s.err != nil {
			status.Err = s.err
		}
		all = append(all, status)
	}
	slices.SortFunc(all, func(a, b PeerStatus) int { return a.Peer.Compare(b.Peer) })
	return all
}

// rouse has run look again soon.
func (t *Table) rouse() {
	select {
	case t.wake <- struct{}{}:
	default: // it will already
	}
}

// listen passes the kernel's notifications on.
func (t *Table) listen() {
	for t.kernel.wait() == nil {
		t.rouse()
	}
	// Closed. If it should ever be for another reason, run's own clock still
	// finds every change, only later.
}

// run looks, publishes and touches, whenever something may have changed.
func (t *Table) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-t.wake:
			timer.Reset(settleTime)
			select {
			case <-t.stop:
				return
			case <-timer.C:
			}
			select { // what came while it settled is answered by this look
			case <-t.wake:
			default:
			}
		case <-timer.C:
		}
		timer.Reset(t.update(time.Now()))
	}
}

// update publishes what the kernel says now, has it check what it should, and
// returns when to look again.
func (t *Table) update(now time.Time) time.Duration {
	t.mu.Lock()
	tracked := slices.Collect(maps.Keys(t.tracked))
	t.mu.Unlock()
	before := t.now.Load()
	if len(tracked) == 0 && len(before.peers) == 0 {
		return checkTime
	}
	after := &snapshot{
		hops:  make(map[netip.Addr]Hop, len(tracked)),
		peers: make(map[netip.Addr]peer, len(tracked)),
	}
	again := checkTime
	v, err := t.kernel.look(tracked)
	if err != nil { // what was known stays
		v, after.err = &view{}, err
		again = restlessTime
	}
	for _, dst := range tracked {
		p, touch := resolve(v, dst, before.peers[dst], now)
		after.peers[dst] = p
		if p.ok {
			after.hops[dst] = p.hop
		}
		if !p.ok || !p.unsure.IsZero() {
			again = restlessTime
		}
		if !touch.addr.IsValid() {
			continue
		}
		if err := t.touch(touch, now); err != nil && !p.ok {
			p.why = err
			after.peers[dst] = p
		}
	}
	maps.DeleteFunc(t.touched, func(_ neighKey, last time.Time) bool { return now.Sub(last) >= touchTime })
	t.now.Store(after)
	if t.config.OnChange != nil && !maps.Equal(before.hops, after.hops) {
		t.config.OnChange()
	}
	return again
}

// touch touches the neighbour, unless that was done just now.
func (t *Table) touch(key neighKey, now time.Time) error {
	if last, ok := t.touched[key]; ok && now.Sub(last) < touchTime {
		return nil
	}
	t.touched[key] = now
	return t.kernel.touch(key)
}

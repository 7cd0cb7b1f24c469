package pulse

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/lease"
	"blockd.dev/raftmeta/membership"
)

// Node sends the pulses of one start of a node's process. Its methods may be
// called from any goroutine.
type Node struct {
	cfg  Config
	kick chan struct{} // Run has something to do

	mu      sync.Mutex
	h       *holding
	sending int
	views   []NodeView
}

// sendingMax is how many pulses may be without an answer. A Holder remembers
// eight; fewer than that, so that none which is answered was forgotten.
const sendingMax = 6

// retryAfter is how soon a pulse is sent again that failed: the leader may
// just be taking office.
const retryAfter = 25 * time.Millisecond

// New returns a Node; Run makes it work.
func New(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	return &Node{cfg: cfg, h: newHolding(&cfg), kick: make(chan struct{}, 1)}, nil
}

// GaveBack says that the node has stopped to serve a volume for good, in the
// epoch that it has: nothing of it is on its way any more. Another node may
// have it at once.
func (n *Node) GaveBack(volume catalog.ID) {
	n.change(func(h *holding) { h.gaveBack(lease.VolumeID(volume)) })
}

// Saw notes what this node last saw of another: that it hears it, does not, or
// that the process of an incarnation has ended (its connection was reset or
// refused). incarnation 0 is for one that is not known. An opinion that is not repeated
// is forgotten after two seconds.
func (n *Node) Saw(node string, incarnation uint64, what membership.Opinion) {
	n.change(func(h *holding) { h.saw(n.cfg.Clock.Now(), node, incarnation, what) })
}

// Leave says that the node is being stopped: it is granted nothing any more, and
// what it has is recalled. Held is empty when all was given back.
func (n *Node) Leave() {
	n.change(func(h *holding) { h.leaving, h.next = true, 0 })
}

// Held returns how many leases the node has, with those that it gives back
// and that the catalog still shows as its own.
func (n *Node) Held() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.h.mine) + len(n.h.back)
}

// Members returns how the leader saw the nodes when it last answered, by node.
// It is empty before its first answer.
func (n *Node) Members() []NodeView {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.views)
}

// change lets do change what the node has, and wakes Run.
func (n *Node) change(do func(*holding)) {
	n.mu.Lock()
	do(n.h)
	n.mu.Unlock()
	n.wake()
}

func (n *Node) wake() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// Run sends pulses until ctx ends; then it returns nil. What is held then ends
// by the clock, so a node that stops calls Leave first, and Run's ctx ends last.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { n.follow(ctx) })
	for ctx.Err() == nil {
		leader, changed := n.cfg.Leader()
		n.change(func(h *holding) { h.next = 0 })
		n.serveUnder(ctx, leader, changed, &wg)
	}
	return nil
}

// serveUnder sends pulses to one leader, until another may lead. Those that
// are under way then are given up: the old one may never answer.
func (n *Node) serveUnder(ctx context.Context, leader group.Leader, changed <-chan struct{}, wg *sync.WaitGroup) {
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			return
		case <-n.kick:
		case <-timer.C:
		}
		timer.Reset(n.turn(ctx, leader, wg))
	}
}

// follow learns of each state of the catalog.
func (n *Node) follow(ctx context.Context) {
	s, known := n.cfg.Catalog.State(), [32]byte{}
	for first := true; ; first = false {
		if hash := s.LeaseTable().Hash(); first || hash != known {
			known = hash
			now := n.cfg.Clock.Now() // before which all of s was committed
			n.change(func(h *holding) { h.learn(now, s.LeaseTable()) })
		}
		var err error
		if s, err = n.cfg.Catalog.Wait(ctx, s.Revision); err != nil {
			return
		}
	}
}

// turn does what is due and returns how long there is nothing else.
func (n *Node) turn(ctx context.Context, leader group.Leader, wg *sync.WaitGroup) time.Duration {
	now := n.cfg.Clock.Now()
	n.mu.Lock()
	n.h.lapse(now)
	if n.h.next <= now && leader.ID != "" && n.sending < sendingMax {
		req := n.h.pulse(now)
		n.sending++
		wg.Go(func() { n.send(ctx, leader, req, now) })
	}
	at := n.h.wake()
	if at <= now { // it waits for a leader, or for an answer; both wake Run
		at = now.Add(n.cfg.Times.Every)
	}
	news := n.h.news
	n.h.news = nil
	n.mu.Unlock()
	for _, tell := range news {
		tell(n.cfg.Events)
	}
	return at.Sub(now)
}

// send sends a pulse that was made at a reading, and takes its answer. After
// the time of a lease no answer extends anything.
func (n *Node) send(ctx context.Context, leader group.Leader, req *blockdv1.PulseRequest, made clock.Mono) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Times.Lease.Duration)
	defer cancel()
	res, err := n.cfg.Call(ctx, leader, req)
	if err == nil && len(res.GetVerdicts()) != len(req.GetClaims()) {
		err = fmt.Errorf("pulse: node %s answers %d claims of %d", leader.ID, len(res.GetVerdicts()), len(req.GetClaims()))
	}
	now := n.cfg.Clock.Now()
	n.mu.Lock()
	n.sending--
	if err == nil {
		n.h.rtt = now.Sub(made)
		n.h.answered(res)
		n.sees(res.GetNodes())
	} else {
		n.h.next = min(n.h.next, now.Add(retryAfter))
	}
	n.mu.Unlock()
	n.wake()
}

// sees takes how the leader sees the nodes, which not every answer says.
func (n *Node) sees(nodes []*blockdv1.NodeLife) {
	if len(nodes) == 0 {
		return
	}
	n.views = make([]NodeView, 0, len(nodes))
	for _, m := range nodes {
		n.views = append(n.views, viewFrom(m))
	}
}

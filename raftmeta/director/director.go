package director

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/lease"
	"blockd.dev/raftmeta/membership"
	"blockd.dev/raftmeta/pulse"
)

// Config says which node this is and whom it works with.
type Config struct {
	Node    string      // this node's id, as catalog.ID.String spells it
	Clock   clock.Clock // nil: clock.Boot
	Times   pulse.Times // zero: pulse.Defaults
	Catalog Catalog
	Group   Group
	// Events are told what happens while this node leads; nil is deaf. They return soon.
	Events func(Event)
	// RebuildAfter is for how long a node that is down may be silent before its copies are made anew
	// on other disks; 0: RebuildAfter.
	RebuildAfter time.Duration
}

// Event is something that an operator may want to know.
type Event struct {
	// Node has changed its state, for the leader; zero when it is not about that.
	Node membership.Transition
	// Err is a command that was refused or failed, which What names; the
	// director tries again when there is something to be gained by it.
	Err  error
	What string
}

// Catalog is the part of *catalog.Catalog that is needed.
type Catalog interface {
	// State returns what this member has; it never blocks.
	State() *catalog.State
	// Wait returns a state of a revision above after, or the context's error.
	Wait(ctx context.Context, after uint64) (*catalog.State, error)
	// Barrier returns when State has all that was acknowledged before the call.
	Barrier(context.Context) error
	// DoContext applies a command; see known for what its errors mean.
	DoContext(context.Context, *catalogpb.Command) (catalog.Result, error)
}

// Group is the part of *group.Group that is needed.
type Group interface {
	// Leads reports whether this node leads and has taken office, and in which term.
	Leads() (term uint64, ok bool)
	// Verify proves that it led in term at some moment after the call began.
	Verify(context.Context) (term uint64, err error)
	// Quiet returns for how long at least no leader of an earlier term was
	// confirmed, as of its return; 0 is always right.
	Quiet(context.Context) (time.Duration, error)
	// WatchLeader returns who leads, and a channel that is closed when that changes.
	WatchLeader() (group.Leader, <-chan struct{})
	// TransferLeadership hands it over; to any other voter when to is empty.
	TransferLeadership(ctx context.Context, to string) error
}

var (
	_ Catalog      = (*catalog.Catalog)(nil)
	_ Group        = (*group.Group)(nil)
	_ pulse.Server = (*Director)(nil)
)

// Director directs while this node leads the group. Its methods may be called
// from any goroutine.
type Director struct {
	cfg  Config
	kick chan struct{} // Run should look again

	mu      sync.Mutex
	term    *term      // nil while this node does not direct
	decided []proposal // by pulses, for Run to carry out
	lost    bool       // the outcome of a command is not known: the term is over for the director
}

// New returns a Director; Run makes it work.
func New(cfg Config) (*Director, error) {
	_, id := catalog.ParseID(cfg.Node)
	switch {
	case !id:
		return nil, fmt.Errorf("director: Node is %q; it is 32 hexadecimal digits", cfg.Node)
	case cfg.Catalog == nil || cfg.Group == nil:
		return nil, errors.New("director: Catalog and Group are needed")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Boot{}
	}
	if cfg.Times == (pulse.Times{}) {
		cfg.Times = pulse.Defaults
	}
	if cfg.Events == nil {
		cfg.Events = func(Event) {}
	}
	if cfg.RebuildAfter == 0 {
		cfg.RebuildAfter = RebuildAfter
	}
	return &Director{cfg: cfg, kick: make(chan struct{}, 1)}, cfg.Times.Lease.Validate()
}

// Run directs whenever this node leads, until ctx ends; then it returns nil.
func (d *Director) Run(ctx context.Context) error {
	over := uint64(0) // the last term that this node has directed in
	for ctx.Err() == nil {
		leader, changed := d.cfg.Group.WatchLeader()
		if leader.ID == d.cfg.Node {
			over = d.directTerm(ctx, changed, over)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return nil
}

// directTerm directs in the term that has begun, until changed is closed. It returns
// the term; one that is not after over is not directed again, since commands of it may
// still take effect that nobody remembers.
func (d *Director) directTerm(ctx context.Context, changed <-chan struct{}, over uint64) uint64 {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	})
	if d.cfg.Catalog.Barrier(ctx) != nil {
		return over // ctx has ended, or this member
	}
	number, leads := d.cfg.Group.Leads()
	if !leads || number <= over {
		return over
	}
	d.mu.Lock()
	d.term, d.decided, d.lost = newTerm(number, d.cfg.Node, d.cfg.Times, d.cfg.Clock.Now()), nil, false
	d.term.rebuildAfter = d.cfg.RebuildAfter
	d.mu.Unlock()
	wg.Go(func() { d.follow(ctx) })
	wg.Go(func() { d.learnOfEarlier(ctx, number) })
	d.direct(ctx, &wg)
	d.mu.Lock()
	lost := d.lost
	d.term = nil
	d.mu.Unlock()
	if lost && ctx.Err() == nil {
		d.cfg.Events(Event{What: "director", Err: errors.New("the outcome of a command is not known, so another node is to lead")})
		_ = d.cfg.Group.TransferLeadership(ctx, "") // if it can't be, this node waits for another term
	}
	return number
}

// learnOfEarlier asks the voters since when the leaders before have promised
// nothing: a renewal was answered only if it was sent before a majority confirmed its
// leader. The clocks of the voters may run faster than this one.
func (d *Director) learnOfEarlier(ctx context.Context, number uint64) {
	quiet, err := d.cfg.Group.Quiet(ctx)
	if err != nil {
		return // then what they have promised lasts as long as it can
	}
	now := d.cfg.Clock.Now()
	quiet -= quiet * time.Duration(d.cfg.Times.Lease.DriftPPM) / 1_000_000
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.term != nil && d.term.number == number {
		d.term.leases.EarlierEnded(now.Add(-quiet))
		d.wake()
	}
}

// follow wakes Run at each state of the catalog.
func (d *Director) follow(ctx context.Context) {
	s := d.cfg.Catalog.State()
	for {
		d.wake()
		var err error
		if s, err = d.cfg.Catalog.Wait(ctx, s.Revision); err != nil {
			return
		}
	}
}

func (d *Director) wake() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// direct looks and proposes until ctx ends or the term is lost.
func (d *Director) direct(ctx context.Context, wg *sync.WaitGroup) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		began := d.cfg.Clock.Now()
		out, lost := d.look(ctx, wg)
		if lost {
			return
		}
		for _, t := range out.transitions {
			d.cfg.Events(Event{Node: t})
		}
		now := d.cfg.Clock.Now()
		// A look at very many volumes takes its time; it has half of a core.
		if busy := now.Sub(began); busy > time.Millisecond {
			timer.Reset(busy)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		timer.Reset(max(0, out.wake.Sub(d.cfg.Clock.Now())))
		select {
		case <-d.kick:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// look does one look, and begins with what it has decided.
func (d *Director) look(ctx context.Context, wg *sync.WaitGroup) (out turn, lost bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost {
		return out, true
	}
	s := d.cfg.Catalog.State()
	out = d.term.look(d.cfg.Clock.Now(), time.Now(), s)
	t := d.term
	for _, p := range append(d.decided, out.proposals...) {
		wg.Go(func() { d.carryOut(ctx, t, p) })
	}
	d.decided = nil
	return out, false
}

// carryOut replicates a command and takes its outcome.
func (d *Director) carryOut(ctx context.Context, t *term, p proposal) {
	p.cmd.TimeUnixNano = time.Now().UnixNano()
	_, err := d.cfg.Catalog.DoContext(ctx, p.cmd)
	d.mu.Lock()
	if known(err) {
		t.settled(d.cfg.Clock.Now(), d.cfg.Catalog.State(), p, err != nil)
	} else {
		d.lost = true
	}
	d.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		d.cfg.Events(Event{What: p.key, Err: err})
	}
	d.wake()
}

// known reports whether a command that returned err has certainly been applied
// or certainly never will be.
func known(err error) bool {
	switch {
	case err == nil:
		return true
	case errors.Is(err, group.ErrOutcomeUnknown):
		return false
	case !errors.Is(err, catalog.ErrFailed):
		return true // the state machine has refused it
	}
	return errors.Is(err, group.ErrGate) || errors.Is(err, group.ErrUnknownCommand) || errors.Is(err, group.ErrTooLarge)
}

// Pulse implements pulse.Server.
func (d *Director) Pulse(ctx context.Context, from string, req *blockdv1.PulseRequest) (*blockdv1.PulseResponse, error) {
	claims, err := pulse.Claims(req.GetClaims())
	if err != nil {
		return nil, err
	}
	releases, err := pulse.Claims(req.GetReleases())
	if err != nil {
		return nil, err
	}
	if req.GetIncarnation() == 0 {
		return nil, errors.New("pulse: a node that has not counted its starts; the first one is 1")
	}
	proved, leads := d.cfg.Group.Leads()
	if !leads {
		return nil, pulse.ErrNotLeading
	}
	if len(claims) > 0 { // rule 3; nothing is promised to who claims nothing
		if proved, err = d.cfg.Group.Verify(ctx); err != nil {
			return nil, fmt.Errorf("%w: %w", pulse.ErrNotLeading, err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.term == nil || d.term.number != proved || d.lost {
		return nil, pulse.ErrNotLeading
	}
	now, s := d.cfg.Clock.Now(), d.cfg.Catalog.State()
	news := d.term.life(now, from, req)
	answer := d.term.leases.Renew(now, s.LeaseTable(), lease.Renewal{Node: from, Incarnation: req.GetIncarnation(), Number: req.GetNumber(), Claims: claims})
	var out turn
	for _, c := range releases {
		d.term.release(now, s, lease.Release{Node: from, Incarnation: req.GetIncarnation(), Volume: c.Volume, Epoch: c.Epoch}, &out)
	}
	d.decided = append(d.decided, out.proposals...)
	if news || len(out.proposals) > 0 {
		d.wake()
	}
	res := &blockdv1.PulseResponse{Term: proved, Number: answer.Number}
	for _, v := range answer.Renewed {
		res.Verdicts = append(res.Verdicts, byte(v))
	}
	if req.GetNumber()%viewsEvery == 1 || news {
		for _, v := range d.term.views() {
			res.Nodes = append(res.Nodes, v.ToWire())
		}
	}
	return res, nil
}

// viewsEvery is which of a node's pulses are answered with how all nodes are:
// 256 of them tell each other of 256 otherwise, several times a second.
const viewsEvery = 4

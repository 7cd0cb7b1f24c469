package group

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Group is one member of a group. Its methods may be called from any
// goroutine. After the member has halted they return why.
type Group struct {
	cfg     Config
	id      identity
	machine *machine
	storage *storage
	stream  *stream
	trans   *transport
	raft    *raft.Raft
	running atomic.Pointer[raft.Raft] // raft, for those whom its goroutines may call before Open has it
	pool    pool
	notify  chan bool // the library tells of leading and not

	ctx    context.Context // ends when the member halts or is closed
	cancel context.CancelFunc
	wg     sync.WaitGroup // watch, keep and the end

	office    atomic.Pointer[office] // nil when this node is not the leader, or not yet in office
	verifier  verifier
	commits   *commits
	confirmed confirmations
	kick      chan struct{} // keep has something to do
	contact   contacts
	marks     marks
	arranged  uint64 // index of this node's last change of the configuration; keep's own

	mu       sync.Mutex
	leader   Leader
	changed  chan struct{}      // closed and replaced when leader changes
	mourned  Leader             // the last one whose process has ended, see hungUp
	errand   context.CancelFunc // ends keep's present turn
	why      error              // it is unusable; nil when it isn't
	pending  sync.WaitGroup
	ended    chan struct{} // closed when the library has shut down
	endOnce  sync.Once
	draining bool
}

// office is this node's time as leader in one term, from the moment on at which its
// state has everything that leaders before it had acknowledged.
type office struct {
	term    uint64
	index   uint64        // of its TakeOffice
	servers []raft.Server // at that moment: it has changed none yet
}

// Leader is who leads the group, as far as this member knows.
type Leader struct {
	ID      string // "" when nobody is known to
	Address string
	Term    uint64
}

// Open opens the member in cfg.Dir, or makes it: see Config.Bootstrap.
func Open(cfg Config) (_ *Group, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	logger := libraryLogger(cfg.Events)
	s, err := openStorage(&cfg, logger)
	if err != nil {
		return nil, err
	}
	g := &Group{cfg: cfg, storage: s, notify: make(chan bool, 8), kick: make(chan struct{}, 1), commits: newCommits(),
		changed: make(chan struct{}), ended: make(chan struct{})}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.confirmed.began()
	defer func() {
		if err != nil {
			g.abandon()
		}
	}()
	if g.id, err = g.identify(); err != nil {
		return nil, err
	}
	g.machine = newMachine(cfg.FSM, g.id, cfg.Events)
	g.machine.stop, g.machine.tookOffice, g.machine.membersMove = g.halt, g.tookOffice, g.wake
	g.machine.votersMove, g.machine.advanced = g.confirmed.began, g.commits.applied
	g.machine.hashes.ready = g.hashReady
	g.machine.persisted = g.snapshotPersisted
	g.stream = newStream(g)
	g.trans = newTransport(&raft.NetworkTransportConfig{
		Stream: g.stream, MaxPool: 3, Timeout: max(2*time.Second, 2*cfg.Heartbeat), Logger: logger,
	}, cfg.beat(), s.begun, g.running.Load)
	rc := g.raftConfig(logger)
	if cfg.Bootstrap {
		if err := g.bootstrap(rc); err != nil {
			return nil, err
		}
	}
	if err := s.setIdentity(g.id); err != nil {
		return nil, err
	}
	if err := g.startRaft(rc); err != nil {
		return nil, g.explain(err)
	}
	g.running.Store(g.raft)
	fail := g.halt
	s.store.fail.Store(&fail)
	if err := errors.Join(g.unusable(), g.cutShort()); err != nil {
		return nil, err
	}
	if cfg.Listener != nil {
		if err := cfg.Listener.attach(g); err != nil {
			return nil, err
		}
	}
	g.wg.Go(g.watch)
	g.wg.Go(g.keep)
	g.wg.Go(g.tellCommits)
	if g.alone() {
		// A shorter timeout makes a follower look at its election timer at
		// once: a sole voter has nobody to wait for.
		settings := g.raft.ReloadableConfig()
		settings.HeartbeatTimeout--
		if err := g.raft.ReloadConfig(settings); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	return g, nil
}

// startRaft has the library read the folder and go on from there. When a file is damaged
// it returns an error that does not say where, or panics with one: an entry that has to be in
// the log is not, since the log goes back to a snapshot that can't be read.
func (g *Group) startRaft(rc *raft.Config) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case error:
			err = p
		default:
			panic(p)
		}
		if err != nil {
			err = fmt.Errorf("%w: the log and the snapshots in %s can't be read or don't fit together: %w; if a file is damaged, see docs/RAFT.md, and then wipe the folder and let the node join again under a new id",
				ErrStorage, g.cfg.Dir, err)
		}
	}()
	g.raft, err = raft.NewRaft(rc, g.machine, g.storage.store, g.storage.store, g.storage.snaps, g.trans)
	return err
}

// cutShort finds a Restore or Recover that did not get to its end.
func (g *Group) cutShort() error {
	index, state := g.machine.incarnation()
	if index == 0 || state == g.id.Incarnation {
		return nil
	}
	return fmt.Errorf("the state in %s is of incarnation %d and the folder of %d: a restore or recovery was cut short; run it again", g.cfg.Dir, state, g.id.Incarnation)
}

// identify reads what the folder was made for, or decides it for a new one.
func (g *Group) identify() (identity, error) {
	id, ok, err := g.storage.identity()
	switch {
	case err != nil:
		return id, err
	case ok && (id.Cluster != g.cfg.Cluster || id.Node != g.cfg.NodeID):
		return id, fmt.Errorf("%s belongs to node %s of cluster %s, and this is node %s of %s", g.cfg.Dir, id.Node, id.Cluster, g.cfg.NodeID, g.cfg.Cluster)
	case ok:
		return id, nil
	}
	id = identity{g.cfg.Cluster, g.cfg.NodeID, g.cfg.Incarnation}
	if g.cfg.Bootstrap {
		id.Incarnation = 1
	}
	if id.Incarnation == 0 {
		return id, fmt.Errorf("%s is empty: this node has to make a cluster, or to join one (Incarnation is 0)", g.cfg.Dir)
	}
	return id, nil
}

func (g *Group) raftConfig(logger hclog.Logger) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(g.cfg.NodeID)
	rc.Logger = logger
	rc.NotifyCh = g.notify
	rc.HeartbeatTimeout = g.cfg.Heartbeat
	rc.ElectionTimeout = g.cfg.Heartbeat
	// A leader that hears from no majority stands down before another can be
	// elected, which takes them a whole Heartbeat of silence.
	rc.LeaderLeaseTimeout = g.cfg.Heartbeat * 3 / 4
	rc.CommitTimeout = g.cfg.commitTimeout()
	rc.MaxAppendEntries = 256
	rc.ShutdownOnRemove = false // Remove tells the node itself
	rc.SnapshotThreshold = g.cfg.SnapshotEvery
	rc.SnapshotInterval = 10 * time.Second // how often the threshold is looked at
	rc.TrailingLogs = g.cfg.TrailingLogs
	rc.NoLegacyTelemetry = true
	return rc
}

// bootstrap writes the first entry of a new group: one voter.
func (g *Group) bootstrap(rc *raft.Config) error {
	s := g.storage
	has, err := raft.HasExistingState(s.store, s.store, s.snaps)
	if err != nil || has {
		return err
	}
	return raft.BootstrapCluster(rc, s.store, s.store, s.snaps, g.trans, g.onlySelf())
}

func (g *Group) onlySelf() raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(g.cfg.NodeID), Address: g.stream.addr,
	}}}
}

// servers is the library's configuration: who votes, and who only listens.
func (g *Group) servers() []raft.Server { return g.serversOf(g.raft) }

func (g *Group) serversOf(r *raft.Raft) []raft.Server {
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil // it has none
	}
	return f.Configuration().Servers
}

// alone tells whether this node is the only voter.
func (g *Group) alone() bool {
	voters, self := 0, false
	for _, s := range g.servers() {
		if s.Suffrage == raft.Voter {
			voters++
			self = self || string(s.ID) == g.cfg.NodeID
		}
	}
	return voters == 1 && self
}

// explain prefers why the state machine refused to what the library says.
func (g *Group) explain(err error) error {
	if why := g.unusable(); why != nil {
		return why
	}
	return err
}

// Err is why the member has stopped, nil while it works. Closed is no error.
func (g *Group) Err() error {
	if err := g.unusable(); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

func (g *Group) unusable() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why
}

// Done is closed when the member halts or is closed.
func (g *Group) Done() <-chan struct{} { return g.ctx.Done() }

// halt stops the member for good, because of err. It does not block: it is
// called by the library's own goroutines.
func (g *Group) halt(err error) {
	if !g.retire(err) {
		return
	}
	if g.machine != nil {
		g.machine.halt()
	}
	if errors.Is(err, ErrDiverged) {
		// A start from the same log might look well until the next mark.
		if werr := g.storage.setHalted(err); werr != nil {
			err = fmt.Errorf("%w (and that could not be written down: %w)", err, werr)
		}
	}
	g.cfg.Events(Event{Kind: EventHalted, Node: g.cfg.NodeID, Err: err})
	if g.running.Load() != nil {
		go g.end() // Close waits for it
	}
}

// retire makes every call return err; it tells whether this is the first time.
func (g *Group) retire(err error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why != nil {
		return false
	}
	g.why = err
	g.draining = true
	g.cancel()
	return true
}

// begin registers a use of the library's futures, which end waits for: the
// library forgets futures that it has not answered when it shuts down.
func (g *Group) begin() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining {
		return g.why
	}
	g.pending.Add(1)
	return nil
}

// end shuts the library down. Futures under way are answered first: by the
// entry being committed, or, since a leader without a majority stands down, by that.
func (g *Group) end() {
	g.endOnce.Do(func() {
		if g.cfg.Listener != nil {
			g.cfg.Listener.detach()
		}
		g.pending.Wait()
		_ = g.trans.Close()
		g.trans.CloseStreams()
		_ = g.raft.Shutdown().Error()
		g.pool.close()
		close(g.ended)
	})
}

// Close leaves the group for now: it stops at once, and the member is down for
// the others. See Stop, which hands over first. It returns when all goroutines have ended.
func (g *Group) Close() error {
	g.retire(ErrClosed)
	g.end()
	<-g.ended
	g.wg.Wait()
	g.machine.hashes.working.Wait()
	g.storage.close()
	return nil
}

// abandon is Close for a group that Open did not finish.
func (g *Group) abandon() {
	g.cancel()
	if g.raft != nil {
		_ = g.raft.Shutdown().Error()
	}
	if g.trans != nil {
		_ = g.trans.Close()
		g.trans.CloseStreams()
	}
	g.storage.close()
}

// Stop is Close after handing leadership over, so that the group is without a
// leader for a moment only. ctx bounds the handing over.
func (g *Group) Stop(ctx context.Context) error {
	if g.office.Load() != nil && !g.alone() {
		_ = g.TransferLeadership(ctx, "") // if it can't be, the others elect one
	}
	return g.Close()
}

// Incarnation grows with every restore and recovery of the cluster.
func (g *Group) Incarnation() uint32 { return g.id.Incarnation }

// Leader is who leads, as far as this member knows. It may be out of date:
// only Verify proves something.
func (g *Group) Leader() Leader {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.leader
}

// WatchLeader returns who leads, and a channel that is closed when that changes.
func (g *Group) WatchLeader() (Leader, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.leader, g.changed
}

// Leads tells whether this node leads and has taken office, and in which term.
// It may be deposed without knowing it yet: see Verify.
func (g *Group) Leads() (term uint64, ok bool) {
	if o := g.office.Load(); o != nil {
		return o.term, true
	}
	return 0, false
}

// watch follows what the library knows of leadership.
func (g *Group) watch() {
	seen := make(chan raft.Observation, 16)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	g.raft.RegisterObserver(observer)
	defer g.raft.DeregisterObserver(observer)
	g.lookWhoLeads()
	for {
		select {
		case leading := <-g.notify:
			if !leading {
				g.office.Store(nil)
			}
			g.interrupt()
			g.wake()
		case <-seen:
		case <-g.ended:
			return
		}
		g.lookWhoLeads()
	}
}

func (g *Group) lookWhoLeads() {
	addr, id := g.raft.LeaderWithID()
	_, address := splitRaftAddress(addr)
	now := Leader{ID: string(id), Address: address, Term: g.raft.CurrentTerm()}
	g.mu.Lock()
	same := now == g.leader
	if !same {
		g.leader = now
		close(g.changed)
		g.changed = make(chan struct{})
	}
	g.mu.Unlock()
	if !same {
		g.cfg.Events(Event{Kind: EventLeader, Node: now.ID, Term: now.Term})
		g.wake()
	}
}

// tookOffice is called when this node's TakeOffice of term was applied here:
// everything acknowledged before has been, too.
func (g *Group) tookOffice(index, term uint64) {
	r := g.running.Load()
	if r == nil || r.State() != raft.Leader || r.CurrentTerm() != term {
		return // an old one, read again at start
	}
	g.office.Store(&office{term, index, g.serversOf(r)})
	if r.State() != raft.Leader || r.CurrentTerm() != term {
		g.office.Store(nil) // deposed in between; watch may have been first
	}
	g.wake()
}

// wake makes keep look at what there is to do.
func (g *Group) wake() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

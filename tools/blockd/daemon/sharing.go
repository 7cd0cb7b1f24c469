package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/qos"
	"blockd.dev/blockdev/store"
	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/lease"
	"blockd.dev/raftmeta/membership"
	"blockd.dev/raftmeta/pulse"
	"blockd.dev/replication/device"
	"blockd.dev/replication/message"
	"blockd.dev/replication/serve"
	replicated "blockd.dev/replication/volume"
	"blockd.dev/replication/wire/endpoint"
	"blockd.dev/target/access"
	"blockd.dev/target/reservation"
)

// sharing is the node's part of the volumes that have copies on several nodes:
// the network between nodes, the store role for owners elsewhere, and the
// leases that make this node the owner of some. A node that belongs to no
// cluster has none.
//
// Who owns a volume is in the catalog, and for how long is between this node
// and the leader of the group (package pulse). Both are level-triggered:
// settle makes a volume be what they say, whichever has changed.
type sharing struct {
	d           *Daemon
	ctx         context.Context // ends with the node
	incarnation uint64
	network     *network
	stores      *serve.Service
	share       *replicated.Share
	transport   *serve.Transport
	routes      atomic.Pointer[diskRoutes]
	standstill  *standstill
	pulse       *pulse.Node
	stopPulse   context.CancelFunc
	running     sync.WaitGroup

	mu      sync.Mutex
	volumes map[catalog.ID]*sharedVolume
	leases  map[catalog.ID]heldLease // also of volumes that are not open yet
	dirty   chan struct{}            // a volume's access state may have changed
	over    chan struct{}            // a lease has ended here

	held    heldFor             // to the limits of volumes that this node owns
	kept    map[catalog.ID]bool // volumes with a copy on this node; the reconciler's alone
	freeing sync.Map            // message.Target of copies whose disk another has taken the place of
}

// heldLease is a lease that this node has.
type heldLease struct {
	*lease.Lease
	waits    clock.Mono // by when every earlier one has surely ended
	recalled bool
}

// sharedVolume is a volume of several copies on this node. It is a backing.
type sharedVolume struct {
	*device.Volume
	d     *Daemon
	id    catalog.ID
	scrub sharedScrub

	turn     sync.Mutex // held by settle
	epoch    uint64     // of the lease under which this node owns it; 0 when it does not
	draining uint64     // of the lease that is being given back
	revision uint64     // of the catalog that the device has seen

	owned atomic.Pointer[ownedDisks]

	limiter *qos.Limiter // of the volume's limits on this node; see limited
	guard   func() uint64
	goOn    func(any, qos.Pass)
}

// ownedDisks are the disks that the owner here knows its members by.
type ownedDisks struct {
	epoch uint64
	disks []uint16
}

// has reports whether the members of an owner have their places in m still.
func (o *ownedDisks) has(m device.Members) bool {
	return len(o.disks) <= len(m.Disks) && slices.Equal(o.disks, m.Disks[:len(o.disks)])
}

// startSharing opens what the node shares volumes with. They are opened later, by the
// reconciler.
func (d *Daemon) startSharing(ctx context.Context) error {
	if d.plane.creds == nil {
		return nil
	}
	s := &sharing{d: d, ctx: ctx, volumes: map[catalog.ID]*sharedVolume{}, leases: map[catalog.ID]heldLease{}, dirty: make(chan struct{}, 1), over: make(chan struct{}, 1),
		standstill: newStandstill(clock.Boot{}), share: &replicated.Share{}}
	var err error
	if s.incarnation, err = pulse.NextIncarnation(d.data.join(fileIncarnation)); err != nil {
		return err
	}
	if err := s.openStores(); err != nil {
		return err
	}
	if s.network, err = d.openNetwork(s.stores.Handle, s.networkEvent); err != nil {
		return errors.Join(err, s.stop())
	}
	id := d.plane.id().String()
	s.pulse, err = pulse.New(pulse.Config{Node: id, Incarnation: s.incarnation, Catalog: d.catalog, Leader: d.plane.group.WatchLeader,
		Call: pulse.Caller(id, pulses{d}, d.plane.peers), Events: s, Times: d.pulseTimes()})
	if err != nil {
		return errors.Join(err, s.stop())
	}
	d.shared.Store(s)
	if err := s.network.renew(d.plane.creds); err != nil { // it may have been renewed since the network was opened
		return err
	}
	d.background.Go(func() { s.tellHosts(ctx) })
	d.background.Go(func() { s.freeReplaced(ctx) })
	d.background.Go(func() { d.reportBadDisks(ctx) })
	d.background.Go(func() { s.reportCopies(ctx) })
	return nil
}

// run has the node take part, now that its portals listen.
func (s *sharing) run() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stopPulse = cancel
	s.running.Go(func() { s.standstill.watch(ctx, s.stoodStill, s.dropHosts) })
	s.running.Go(func() { s.sendAway(ctx) })
	s.running.Go(func() {
		if err := s.pulse.Run(ctx); err != nil {
			s.d.events.add(levelError, "node.pulse", s.d.nodeName(), err.Error())
		}
	})
}

// openStores makes the store role of the node, and the way to those of others.
func (s *sharing) openStores() (err error) {
	s.route(s.d.catalog.State())
	s.stores, err = serve.New(serve.Config{
		Boot:  s.incarnation,
		Disks: func(number uint16) *store.Store { return s.routes.Load().stores[number] },
		Known: s.known, Volume: s.served, Soon: s.d.soon, Share: s.share,
		Log: func(t message.Target, err error) {
			if s.d.errorGate.pass("store " + catalog.ID(t.Volume).String()) {
				s.d.events.add(levelWarning, "replica.refused", s.d.volumeNamed(t.Volume), err.Error())
			}
		},
	})
	if err != nil {
		return err
	}
	s.transport = serve.NewTransport(serve.TransportConfig{
		Service: s.stores,
		Local:   func(number uint16) bool { return s.routes.Load().stores[number] != nil },
		NodeOf:  func(number uint16) string { return s.routes.Load().nodes[number] },
		Peer:    func(node string) *endpoint.Peer { return s.network.peer(parseID(node)) },
	})
	return nil
}

// diskRoutes say where disks are, by their numbers.
type diskRoutes struct {
	stores   map[uint16]*store.Store      // on this node
	attended map[uint16]blockdev.Attended // of these; nil where the driver has nothing to attend
	nodes    map[uint16]string            // all
}

func (s *sharing) route(state *catalog.State) {
	r := &diskRoutes{map[uint16]*store.Store{}, map[uint16]blockdev.Attended{}, map[uint16]string{}}
	for i := range state.Disks {
		d := &state.Disks[i]
		if d.Number == 0 {
			continue // before nodes and disks had numbers
		}
		r.nodes[uint16(d.Number)] = d.Node.String()
		if on := s.d.diskWith(d.ID); on != nil {
			r.stores[uint16(d.Number)] = on.store
			r.attended[uint16(d.Number)] = disk.AttendedOf(on.disk)
		}
	}
	s.routes.Store(r)
}

// known reports whether a disk keeps a volume, by the catalog, and what it kept
// before is not being freed.
func (s *sharing) known(id [16]byte, disk uint16) bool {
	if _, freed := s.freeing.Load(message.Target{Volume: id, Disk: disk}); freed {
		return false
	}
	return s.keeps(id, disk)
}

// keeps reports whether a disk keeps a volume, by the catalog.
func (s *sharing) keeps(id catalog.ID, disk uint16) bool {
	v := s.d.catalog.State().Map().Volume(id)
	return v != nil && slices.Contains(v.Disks(), extmap.Disk(disk))
}

// served is an open volume, for requests of other nodes' hosts.
func (s *sharing) served(id [16]byte) serve.Volume {
	if v := s.sharedVolume(id); v != nil {
		return v
	}
	return nil
}

// open makes a volume that hosts can use at this node, whoever owns it.
func (s *sharing) open(state *catalog.State, cv *catalog.Volume) (*sharedVolume, error) {
	layout := state.Map().Volume(cv.ID).Layout()
	id := cv.ID
	guard := s.d.reservations.shared.Guard(reservation.VolumeID(id))
	dev, err := device.New(device.Config{ID: id, SizeBytes: cv.SizeBytes, BlockSize: cv.BlockSize, Layout: layout,
		MinInSync: int(state.Pool(cv.Pool).MinInSync), Boot: s.incarnation, Transport: s.transport, Meta: s, Soon: s.d.soon,
		Attended: func(number uint16) blockdev.Attended { return s.routes.Load().attended[number] },
		Guard:    guard, PaceFactor: s.d.cfg.ResyncLatency, Share: s.share,
		GiveUp: func(epoch uint64) { s.gaveBack(id, epoch) }, Since: s.standstill.over,
		Timeouts: device.Timeouts{Request: s.d.cfg.patience, Out: s.d.cfg.patience}, Late: s.d.cfg.patience})
	if err != nil {
		return nil, err
	}
	v := &sharedVolume{Volume: dev, d: s.d, id: id, limiter: qos.New(clock.Boot{}), guard: guard}
	v.goOn = func(what any, _ qos.Pass) { v.serveNow(what.(*message.Incoming)) }
	v.scrub.recall(s.d.scrubs.peek(v.scrubName()))
	s.mu.Lock()
	s.volumes[id] = v
	s.mu.Unlock()
	s.settle(state, v)
	return v, nil
}

// Close ends the volume on this node.
func (v *sharedVolume) Close() error {
	s := v.d.shared.Load()
	s.mu.Lock()
	delete(s.volumes, v.id)
	s.mu.Unlock()
	return v.Volume.Close()
}

// Resize implements backing. The volume grows when all of it has disks, which
// is another revision of the catalog.
func (v *sharedVolume) Resize(sizeBytes int64) error {
	state := v.d.catalog.State()
	if !state.Allocated(v.id) {
		return nil
	}
	return v.Grow(sizeBytes, state.Map().Volume(v.id).Layout())
}

// NextMapped implements blockdev.Mapper: which blocks exist is known to the
// stores, and not asked; so all of them may.
func (v *sharedVolume) NextMapped(_, limit int64) (mapped bool, runBytes int64, err error) {
	return true, limit, nil
}

// Provisioning implements blockdev.Provisioner by the copy that this node has.
// Without one it tells of the whole volume.
func (v *sharedVolume) Provisioning() (usedBytes, availableBytes int64) {
	state := v.d.catalog.State()
	for _, r := range state.Replicas(v.id) {
		if on := v.d.diskWith(r.DiskID); on != nil {
			if vol, err := on.store.OpenVolume(v.id); err == nil {
				defer on.store.CloseVolume(vol)
				return on.store.Usage(vol)
			}
		}
	}
	return 0, v.Geometry().SizeBytes
}

// follow makes every shared volume be what the catalog says. The reconciler
// calls it with each revision.
func (s *sharing) follow(state *catalog.State) {
	s.route(state)
	if err := s.network.follow(state, s.d.plane.id()); err != nil && s.d.errorGate.pass("network") {
		s.d.events.add(levelError, "network.peers", s.network.local.String(), err.Error())
	}
	for _, v := range s.all() {
		s.settle(state, v)
	}
}

func (s *sharing) all() []*sharedVolume {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*sharedVolume, 0, len(s.volumes))
	for _, v := range s.volumes {
		out = append(out, v)
	}
	return out
}

// settle makes the volume be owned here, or its requests go where they should,
// by the catalog and by the lease that this node has. An owner enforces the reservations
// that the catalog had with its lease: a node that was down when they changed was not waited for.
func (s *sharing) settle(state *catalog.State, v *sharedVolume) {
	v.turn.Lock()
	defer v.turn.Unlock()
	if state.Revision < v.revision {
		state = s.d.catalog.State() // somebody else was here with a newer one
	}
	v.revision = state.Revision
	_ = s.d.reservations.shared.Follow(reservation.VolumeID(v.id)) // what can't be read is told by the reconciler
	members, local, ok := s.members(state, v.id)
	s.mu.Lock()
	held, have := s.leases[v.id]
	s.mu.Unlock()
	anew := have && s.beginsAnew(state, v, held.Epoch, members)
	switch {
	case !have && v.epoch != 0:
		v.Disown()
		v.epoch = 0
	case have && v.epoch != held.Epoch && v.draining != held.Epoch && !held.recalled && !anew && ok && members.View.Epoch == held.Epoch:
		v.owned.Store(&ownedDisks{held.Epoch, members.Disks})
		if err := v.Own(held.Lease, held.waits, members, local); err != nil {
			s.d.events.add(levelError, "volume.own", v.id.String(), err.Error())
			return
		}
		v.epoch = held.Epoch
	case have && v.epoch == held.Epoch && !anew && ok:
		v.owned.Store(&ownedDisks{held.Epoch, members.Disks})
		v.View(members)
	}
	if have && (held.recalled || anew) && v.draining != held.Epoch {
		v.draining = held.Epoch
		v.Drain(func() { s.gaveBack(v.id, held.Epoch) })
	}
	owner, _ := state.Lease(v.id)
	if v.epoch == 0 || v.draining == v.epoch {
		to := ""
		if owner.Owner != s.d.plane.id() && !owner.Owner.IsZero() {
			to = owner.Owner.String()
		}
		v.Forward(to)
	}
	v.enforce(v.epoch != 0 && v.draining != v.epoch)
	s.mark()
}

// beginsAnew reports whether the owner of an epoch has to end, and another to begin in
// the next one: a disk has taken the place of another in that epoch, or the disks of
// the members that it has are in other places.
func (s *sharing) beginsAnew(state *catalog.State, v *sharedVolume, epoch uint64, m device.Members) bool {
	if cv := state.VolumeByID(v.id); cv != nil && epoch <= cv.EndedIn() {
		return true
	}
	owned := v.owned.Load()
	return v.epoch == epoch && owned.epoch == epoch && len(m.Disks) > 0 && !owned.has(m)
}

// gaveBack gives the lease of an epoch back, under which nothing happens any more.
func (s *sharing) gaveBack(id catalog.ID, epoch uint64) {
	s.mu.Lock()
	held, have := s.leases[id]
	if have && held.Epoch == epoch {
		delete(s.leases, id)
	}
	s.mu.Unlock()
	if have && held.Epoch == epoch {
		s.pulse.GaveBack(id)
	}
	s.ended()
	s.mark()
}

// members are the replicas of a volume as the state machine of its owner takes
// them, and which of them is on this node, or -1. ok is false for one that has none, since it is
// deleted. One that grows may have no disks yet for what is new, for as long as a node is down; what it had before
// is served meanwhile, and has an owner only since all of that had disks.
func (s *sharing) members(state *catalog.State, id catalog.ID) (m device.Members, local int, ok bool) {
	v := state.Map().Volume(id)
	if v == nil {
		return m, -1, false
	}
	owner, _ := state.Lease(id)
	m.View = replicated.View{Revision: state.Revision, Epoch: owner.Epoch}
	local = -1
	disks := v.Disks()
	for i, number := range disks {
		sync := v.Sync(number)
		m.Disks = append(m.Disks, uint16(number))
		m.View.Members = append(m.View.Members, replicated.Member{Sync: syncStates[sync.State], Gen: sync.Generation, Proof: sync.Proof})
		if d := state.DiskByNumber(number); d != nil && d.Node == s.d.plane.id() {
			local = i
		}
	}
	m.Sets = setsOf(v)
	m.Arriving, m.ArrivingSince = arrivingOf(state, v, id)
	return m, local, true
}

// proposalTimeout is how long a proposal is carried around before the owner
// may think of another.
const proposalTimeout = 5 * time.Second

// Propose implements device.Meta. What comes of it shows in the catalog.
func (s *sharing) Propose(id [16]byte, p replicated.Proposal) {
	v := s.sharedVolume(id)
	if v == nil {
		return
	}
	owned := v.owned.Load()
	if owned == nil || owned.epoch != p.Epoch || p.Disk >= len(owned.disks) {
		return // of an owner that was replaced
	}
	if s.d.plane.group.Stats().Gate < catalog.ProofVersion {
		p.Proof = 0 // a node of an older release is in the cluster, which would refuse it
	}
	cmd := proposed(id, p, owned.disks[p.Disk])
	s.d.background.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, proposalTimeout)
		defer cancel()
		_, err := s.d.doContext(ctx, nil, cmd)
		if err != nil && !errors.Is(err, catalog.ErrConflict) && s.d.errorGate.pass("replica "+catalog.ID(id).String()) {
			s.d.events.add(levelWarning, "volume.replica", s.d.volumeNamed(id), err.Error())
		}
		// Refused or not, the owner looks at what is so now.
		if v := s.sharedVolume(id); v != nil {
			s.settle(s.d.catalog.State(), v)
		}
	})
}

func (s *sharing) sharedVolume(id catalog.ID) *sharedVolume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.volumes[id]
}

// Acquired implements pulse.Events.
func (s *sharing) Acquired(l *lease.Lease, waits clock.Mono) {
	id := catalog.ID(l.Volume)
	s.mu.Lock()
	s.leases[id] = heldLease{Lease: l, waits: waits}
	v := s.volumes[id]
	s.mu.Unlock()
	if v != nil {
		s.settle(s.d.catalog.State(), v)
	}
	s.d.events.add(levelInfo, "volume.owned", s.d.volumeNamed(id), fmt.Sprintf("this node owns it, epoch %d", l.Epoch))
}

// Lost implements pulse.Events.
func (s *sharing) Lost(id catalog.ID) {
	s.mu.Lock()
	_, had := s.leases[id]
	delete(s.leases, id)
	v := s.volumes[id]
	s.mu.Unlock()
	if v != nil {
		s.settle(s.d.catalog.State(), v)
	}
	s.ended()
	if had {
		s.d.events.add(levelWarning, "volume.lost", s.d.volumeNamed(id), "this node does not own it any more")
	}
}

// Recalled implements pulse.Events.
func (s *sharing) Recalled(id catalog.ID) {
	s.mu.Lock()
	held, have := s.leases[id]
	if have {
		held.recalled = true
		s.leases[id] = held
	}
	v := s.volumes[id]
	s.mu.Unlock()
	switch {
	case have && v != nil:
		s.settle(s.d.catalog.State(), v)
	case have:
		s.gaveBack(id, held.Epoch)
	}
}

// networkEvent follows the connections to other nodes. A process that is gone
// says so by its port; one that is silent may only be cut off.
func (s *sharing) networkEvent(e endpoint.Event) {
	switch e.Kind {
	case endpoint.PeerUp:
		s.d.events.add(levelInfo, "network.up", s.d.nodeNamed(e.Peer.Node()), "connected")
	case endpoint.PeerDown:
		s.unreachable(e.Peer.Node())
		if !s.d.stopping.Load() {
			s.d.events.add(levelWarning, "network.down", s.d.nodeNamed(e.Peer.Node()), e.Err.Error())
		}
	case endpoint.LinkDown:
		s.d.events.add(levelError, "network.link", e.Link, e.Err.Error())
	}
	s.transport.Event(e)
}

// unreachable tells owners here that they can't reach the disks of a node.
func (s *sharing) unreachable(node string) {
	var disks []uint16
	for number, on := range s.routes.Load().nodes {
		if on == node {
			disks = append(disks, number)
		}
	}
	for _, v := range s.all() {
		v.Unreachable(disks...)
	}
}

// members of the cluster as the leader sees them.
func (s *sharing) views() []pulse.NodeView {
	if s == nil {
		return nil
	}
	return s.pulse.Members()
}

// reachable reports whether a node may be serving hosts.
func (s *sharing) reachable(id catalog.ID) bool {
	return s != nil && !slices.Contains([]membership.State{membership.Down, membership.Left}, s.heard(id))
}

// silent reports whether nothing was heard of a node for a while; it need not be taken for down yet.
func (s *sharing) silent(id catalog.ID) bool {
	return s == nil || slices.Contains([]membership.State{membership.Suspect, membership.Down, membership.Left}, s.heard(id))
}

// heard is how the leader sees a node, as far as this one knows; one that it knows nothing of is taken for up.
func (s *sharing) heard(id catalog.ID) membership.State {
	for _, n := range s.pulse.Members() {
		if n.Node == id.String() {
			return n.State
		}
	}
	return membership.Up
}

// accessOf is how hosts reach a shared volume through this node.
func (v *sharedVolume) accessOf() access.State {
	if st := v.Status(); st.Owner {
		return access.Optimized
	}
	return access.NonOptimized
}

// mark has hosts told how they reach their volumes now.
func (s *sharing) mark() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// tellHosts tells hosts of volumes that are reached in another way than before,
// until ctx ends.
func (s *sharing) tellHosts(ctx context.Context) {
	for {
		select {
		case <-s.dirty:
		case <-ctx.Done():
			return
		}
		changed := false
		for _, v := range s.all() {
			if now := v.accessOf(); now != s.d.volumes.accessOf(v.id) {
				s.d.volumes.setAccess(v.id, now)
				changed = true
			}
		}
		if !changed {
			continue
		}
		if err := s.d.configureTarget(); err != nil {
			s.d.events.add(levelError, "target.configure", s.d.catalog.State().IQN, err.Error())
		}
	}
}

// leave gives all volumes to other nodes, before the node stops, and has the
// requests of its hosts go there: nothing follows the catalog after it, and a request
// without an owner would hold the stop up for its whole patience. What is left when ctx
// ends is left to the end of its lease.
func (s *sharing) leave(ctx context.Context) {
	given := s.owned()
	s.pulse.Leave()
	for s.pulse.Held() > 0 || !s.forwarded(given) {
		select {
		case <-time.After(leavePoll):
		case <-ctx.Done():
			return
		}
	}
}

// waitNoMore has requests of hosts that nobody has taken over end, for the hosts to
// send them to another node: their connections can't be closed before.
func (s *sharing) waitNoMore() {
	for _, v := range s.all() {
		v.Leave()
	}
}

// cutOff ends what this node has forwarded and owners elsewhere have not answered,
// who may be waiting for their replicas.
func (s *sharing) cutOff() {
	if err := s.network.close(); err != nil {
		s.d.events.add(levelWarning, "network.close", s.network.local.String(), err.Error())
	}
}

// owned are the volumes that this node owns.
func (s *sharing) owned() []*sharedVolume {
	return slices.DeleteFunc(s.all(), func(v *sharedVolume) bool { return !v.Status().Owner })
}

// forwarded reports whether each of the volumes has another owner, to whom requests go.
func (s *sharing) forwarded(volumes []*sharedVolume) bool {
	return !slices.ContainsFunc(volumes, func(v *sharedVolume) bool { return v.Status().Forward == "" })
}

// leavePoll is the time between two looks at what is left to give away.
const leavePoll = 5 * time.Millisecond

// stop ends the node's part. It comes before the volumes are closed, which
// wait for what they have forwarded.
func (s *sharing) stop() error {
	if s.stopPulse != nil {
		s.stopPulse()
	}
	s.running.Wait()
	err := s.network.close()
	s.stores.Close()
	return err
}

// forgetDeleted removes the copies on this node of volumes that were deleted:
// of those that are retired, and of those that the node has seen before and the catalog does
// not have. What was deleted and forgotten while the node was away stays on its
// disks, since a catalog that was restored from an old backup looks the same.
func (s *sharing) forgetDeleted(state *catalog.State) {
	local := map[catalog.ID]bool{}
	for id, v := range state.Map().Volumes() {
		if slices.ContainsFunc(v.Disks(), func(number extmap.Disk) bool { return s.routes.Load().stores[uint16(number)] != nil }) {
			local[id] = true
		}
	}
	gone := map[catalog.ID]bool{}
	for id := range s.kept {
		if state.VolumeByID(id) == nil {
			gone[id] = true
		}
	}
	for i := range state.Volumes {
		if v := &state.Volumes[i]; v.Retired && v.Home.IsZero() {
			gone[v.ID] = true
		}
	}
	s.kept = local
	for id := range gone {
		if err := s.forget(id); err != nil {
			local[id] = true // for another attempt
			s.d.events.add(levelError, "volume.delete", id.String(), err.Error())
		}
	}
}

// forget removes the copies on this node of a volume.
func (s *sharing) forget(id catalog.ID) error {
	err := s.stores.Drop(id)
	for _, on := range s.d.disks {
		err = errors.Join(err, deleteCopy(on.store, id))
	}
	return err
}

// deleteCopy frees what a store has of a volume, if anything.
func deleteCopy(on *store.Store, id catalog.ID) error {
	if !slices.ContainsFunc(on.Volumes(), func(v store.VolumeInfo) bool { return v.ID == id }) {
		return nil
	}
	return on.DeleteVolume(id)
}

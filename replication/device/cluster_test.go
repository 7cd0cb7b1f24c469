package device_test

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/link/udplink"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
	"blockd.dev/blockdev/store"
	"blockd.dev/internal/clock"
	"blockd.dev/replication/device"
	"blockd.dev/replication/message"
	"blockd.dev/replication/serve"
	"blockd.dev/replication/volume"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/endpoint"
	"blockd.dev/replication/wire/secure/securetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var pki = securetest.New("east", "1")

const (
	volumeBytes = 128 << 20
)

var volumeID = [16]byte{7, 1}

// striped is a layout of two extents that take turns by 1 MiB.
type striped struct{ extents int64 }

func (l striped) SizeBytes() int64 { return l.extents * 64 << 20 }

func (l striped) Locate(addr int64) (extent uint32, offset, run int64) {
	unit, within := addr>>20, addr&(1<<20-1)
	return uint32(unit % l.extents), unit/l.extents<<20 + within, 1<<20 - within
}

// options of a cluster.
type options struct {
	nodes     int
	blockSize int
	minInSync int
	lease     time.Duration // default 10 s, which no busy machine is late for
	disk      sim.Options
	diskBytes int64         // default 512 MiB
	memory    bool          // disks that cost nothing, and lose nothing
	deadAfter time.Duration // of connections; default 1.5 s
	failover  bool          // nodes come and go: who can't be reached is marked out, as in the product
	change    func(*device.Config)
}

// cluster is three nodes, or fewer, in one process: real stores on disks in
// memory, real endpoints, real volumes, and a stand-in for the catalog.
type cluster struct {
	testing.TB
	o     options
	nodes []*node
	meta  *meta
}

// node is one of them. Its disk has the number 10 + its index.
type node struct {
	c     *cluster
	index int
	id    string
	disk  *sim.Sim // or memory
	mem   memDisk
	store *store.Store
	svc   *serve.Service
	ep    *endpoint.Endpoint
	tr    *serve.Transport
	vol   *device.Volume
	addr  netip.AddrPort
	boot  uint64
	power store.Boot // grows when the machine has none
	ready int        // events of the disk when the node had started
	link  *cutLink
	dead  atomic.Bool
}

// cutLink is a link that can be cut, in both directions.
type cutLink struct {
	link.Link
	cut atomic.Bool
}

func (l *cutLink) Send(bufs []link.TxBuf) error {
	if l.cut.Load() {
		l.ReleaseTx(bufs)
		return nil
	}
	return l.Link.Send(bufs)
}

func (l *cutLink) Recv(bufs []link.RxBuf) (int, error) {
	n, err := l.Link.Recv(bufs)
	if l.cut.Load() && n > 0 {
		l.ReleaseRx(bufs[:n])
		return 0, err
	}
	return n, err
}

func udp(t testing.TB) link.Link {
	l, err := udplink.Open(udplink.Config{Local: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newCluster(t testing.TB, o options) *cluster {
	if o.nodes == 0 {
		o.nodes = 3
	}
	if o.blockSize == 0 {
		o.blockSize = 4096
	}
	if o.minInSync == 0 {
		o.minInSync = min(2, o.nodes)
	}
	if o.lease == 0 {
		o.lease = 10 * time.Second
	}
	if o.deadAfter == 0 { // longer than a busy machine keeps a pump from its processor
		o.deadAfter = 1500 * time.Millisecond
	}
	if o.diskBytes == 0 {
		o.diskBytes = 512 << 20
	}
	c := &cluster{TB: t, o: o}
	c.meta = newMeta(c)
	for i := range o.nodes {
		n := &node{c: c, index: i, id: fmt.Sprintf("node%d", i)}
		c.nodes = append(c.nodes, n)
		if o.memory {
			n.mem = make(memDisk, o.diskBytes)
		} else {
			n.disk = sim.New(o.diskBytes, o.disk)
		}
		n.power = store.Boot{1}
		if err := store.Format(n.anyDisk(), store.FormatOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.nodes {
		n.start()
	}
	for _, n := range c.nodes {
		n.connect()
	}
	t.Cleanup(c.close)
	return c
}

func (c *cluster) close() {
	c.meta.stop()
	for _, n := range c.nodes {
		n.close()
	}
}

// start opens everything of a node, from what its disk has.
func (n *node) start() {
	t := n.c.TB
	n.boot++
	n.dead.Store(false)
	var err error
	if n.store, err = store.Open(n.anyDisk(), store.Options{Boot: n.power}); err != nil {
		t.Fatal(err)
	}
	n.svc, err = serve.New(serve.Config{
		Boot:   n.boot,
		Disks:  func(d uint16) *store.Store { return n.store },
		Known:  func([16]byte, uint16) bool { return true },
		Volume: func([16]byte) serve.Volume { return n.vol },
		Log:    func(to message.Target, err error) { t.Logf("%s: disk %d: %v", n.id, to.Disk, err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	n.tr = serve.NewTransport(serve.TransportConfig{
		Service: n.svc,
		Local:   func(d uint16) bool { return int(d) == 10+n.index },
		NodeOf:  func(d uint16) string { return n.c.nodes[d-10].id },
		Peer:    func(id string) *endpoint.Peer { return n.ep.Peer(id) },
	})
	cfg := device.Config{
		ID: volumeID, SizeBytes: volumeBytes, BlockSize: n.c.o.blockSize, Layout: striped{2},
		MinInSync: n.c.o.minInSync, Boot: n.boot, Transport: n.tr, Meta: n,
		GiveUp: func(epoch uint64) { n.c.meta.gaveUp(n, epoch) },
	}
	// A busy machine, which answers or connects late, is no failure. Nodes that are cut
	// off are noticed by the end of their connections.
	cfg.Timeouts.Request = time.Hour
	if !n.c.o.failover {
		cfg.Timeouts.Out, cfg.Timeouts.Gone = time.Hour, time.Hour
	}
	if n.c.o.change != nil {
		n.c.o.change(&cfg)
	}
	if n.vol, err = device.New(cfg); err != nil {
		t.Fatal(err)
	}
	n.ep, err = endpoint.Open(endpoint.Config{
		Credentials: pki.Node(n.id), Handler: n.svc.Handle, Events: n.event, Wire: wire.Config{Alloc: message.Alloc, DeadAfter: n.c.o.deadAfter},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.link = &cutLink{Link: udp(t)}
	n.addr = n.link.LocalAddr()
	if err := n.ep.AddLink(n.link); err != nil {
		t.Fatal(err)
	}
	if n.disk != nil {
		n.ready = n.disk.Events()
	}
}

func (n *node) anyDisk() disk.Disk {
	if n.mem != nil {
		return n.mem
	}
	return n.disk
}

// event is what a daemon does with the endpoint's events.
func (n *node) event(e endpoint.Event) {
	n.tr.Event(e)
	if e.Kind == endpoint.PeerDown {
		for _, o := range n.c.nodes {
			if o.id == e.Peer.Node() {
				n.vol.Unreachable(uint16(10 + o.index))
			}
		}
	}
}

// kill is the end of a node as others see it. What it does from now on reaches
// neither them nor its disk.
func (n *node) kill() {
	n.dead.Store(true)
	n.link.cut.Store(true)
	n.disk.Unplug()
}

// restart is its return, with what a power cut has left on its disk; the disk of a seed that is odd has lied.
func (n *node) restart(seed uint64) {
	n.close()
	n.cut(seed, int(seed%2)*100)
	n.start()
	n.connect()
}

// cut has the power go, and with it what the disk did last, so many events of what it had said to be durable.
func (n *node) cut(seed uint64, lies int) {
	n.power[0]++
	n.disk = n.disk.Cut(max(n.disk.Events()-lies, n.ready), sim.Policy(int(seed)%int(sim.Policies)), seed)
}

// connect tells the node of those with a higher index, and these of it.
func (n *node) connect() {
	for _, o := range n.c.nodes {
		switch {
		case o.index < n.index:
			o.ep.Peer(n.id, n.addr)
		case o.index > n.index:
			n.ep.Peer(o.id, o.addr)
		}
	}
}

func (n *node) close() {
	n.vol.Close()
	n.ep.Close()
	n.svc.Close()
	n.store.Close()
}

// meta stands in for the catalog and for leases: it applies proposals at once,
// and tells the owner in a goroutine of its own.
type meta struct {
	c    *cluster
	work chan func()
	done chan struct{}
	all  sync.WaitGroup

	granting sync.Mutex // one at a time

	mu    sync.Mutex
	view  volume.View
	owner *node
	lease *testLease
}

// testLease is renewed by meta while its node lives.
type testLease struct{ until atomic.Int64 }

func (l *testLease) Deadline() clock.Mono { return clock.Mono(l.until.Load()) }

func newMeta(c *cluster) *meta {
	m := &meta{c: c, work: make(chan func(), 1024), done: make(chan struct{})}
	for range c.o.nodes {
		m.view.Members = append(m.view.Members, volume.Member{Sync: volume.InSync})
	}
	m.all.Go(func() {
		for {
			select {
			case f := <-m.work:
				f()
			case <-m.done:
				return
			}
		}
	})
	m.all.Go(m.renew)
	return m
}

func (m *meta) stop() {
	close(m.done)
	m.all.Wait()
}

// renew extends the lease while its owner is not dead.
func (m *meta) renew() {
	tick := time.NewTicker(m.c.o.lease / 6)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-m.done:
			return
		}
		m.mu.Lock()
		if m.lease != nil && !m.owner.dead.Load() && m.lease.until.Load() != 0 {
			m.lease.until.Store(int64(clock.Boot{}.Now().Add(m.c.o.lease)))
		}
		m.mu.Unlock()
	}
}

// members is the present view for an owner.
func (m *meta) membersLocked() device.Members {
	v := m.view
	v.Members = append([]volume.Member(nil), v.Members...)
	d := device.Members{View: v}
	for i := range v.Members {
		d.Disks = append(d.Disks, uint16(10+i))
	}
	return d
}

// Propose is device.Meta. A node that reaches no other reaches no catalog.
func (n *node) Propose(_ [16]byte, p volume.Proposal) {
	if !n.link.cut.Load() {
		n.c.meta.propose(p)
	}
}

func (m *meta) propose(p volume.Proposal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := &m.view.Members[p.Disk]
	if p.Epoch != m.view.Epoch || p.Gen != at.Gen {
		return
	}
	inSync := 0
	for _, o := range m.view.Members {
		if o.Sync == volume.InSync {
			inSync++
		}
	}
	switch p.Change {
	case volume.MarkOut:
		if at.Sync == volume.InSync && inSync == 1 {
			return
		}
		at.Sync, at.Gen = volume.Out, at.Gen+1
	case volume.MarkRebuilding:
		at.Sync, at.Gen = volume.Rebuilding, at.Gen+1
	case volume.MarkIn:
		at.Sync, at.Proof = volume.InSync, max(at.Proof, p.Proof)
	case volume.Keep:
		at.Gen++
	}
	m.view.Revision++
	owner, now := m.owner, m.membersLocked()
	select {
	case m.work <- func() { owner.vol.View(now) }:
	default: // the next view tells all
	}
}

// grant makes n the owner. The lease before is waited out if its owner died.
func (m *meta) grant(n *node) {
	m.granting.Lock()
	defer m.granting.Unlock()
	m.grantLocked(n)
}

func (m *meta) grantLocked(n *node) {
	m.mu.Lock()
	if old := m.lease; old != nil && old.until.Load() != 0 {
		wait := time.Duration(old.until.Load() - int64(clock.Boot{}.Now()))
		m.mu.Unlock()
		time.Sleep(max(wait, 0)) // sleep: a lease ends by time
		m.mu.Lock()
	}
	m.view.Epoch++
	m.view.Revision++
	now := clock.Boot{}.Now()
	m.owner, m.lease = n, &testLease{}
	m.lease.until.Store(int64(now.Add(m.c.o.lease)))
	lease, members := m.lease, m.membersLocked()
	m.mu.Unlock()
	if err := n.vol.Own(lease, now, members, n.index); err != nil {
		return // it is being closed
	}
	for _, o := range m.c.nodes {
		if o != n && !o.dead.Load() {
			o.vol.Disown()
			o.vol.Forward(n.id)
		}
	}
}

// gaveUp is told that an owner has ended by itself, because a renewal was late.
// It gets another lease, as it would from a director.
func (m *meta) gaveUp(n *node, epoch uint64) {
	select {
	case m.work <- func() {
		m.granting.Lock()
		defer m.granting.Unlock()
		m.mu.Lock()
		again := m.owner == n && m.view.Epoch == epoch && !n.link.cut.Load()
		m.mu.Unlock()
		if again {
			m.grantLocked(n)
		}
	}:
	case <-m.done:
	}
}

// settled tells whether all members are in sync.
func (m *meta) settled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.view.Members {
		if o.Sync != volume.InSync {
			return false
		}
	}
	return true
}

// cutOff ends the renewals of an owner that still runs.
func (m *meta) cutOff(n *node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.owner == n {
		m.lease = &testLease{}
		m.lease.until.Store(int64(clock.Boot{}.Now().Add(m.c.o.lease))) // no later than what n has
	}
}

// present is the owner.
func (m *meta) present() *node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.owner
}

// release ends the lease at once: its owner has given it back.
func (m *meta) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lease.until.Store(0)
}

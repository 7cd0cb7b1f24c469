package director

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/lease"
	"blockd.dev/raftmeta/membership"
	"blockd.dev/raftmeta/pki"
	"blockd.dev/raftmeta/pulse"
)

// cluster is three real members of a group in this process, with their ports.
type cluster struct {
	t     *testing.T
	ca    *pki.Authority
	dir   string
	nodes []*realNode // the first one has number 1
}

type realNode struct {
	c       *cluster
	number  int
	address string
	up      bool

	fsm   *catalog.FSM
	cat   *catalog.Catalog
	group *group.Group
	port  *group.Listener
	peers *control.Peers
	web   *http.Server
	dir   *Director
	pulse *pulse.Node
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu     sync.Mutex
	leases map[catalog.ID]*lease.Lease
	log    []string
}

func (n *realNode) id() string { return nodeID(n.number).String() }

// Acquired implements pulse.Events.
func (n *realNode) Acquired(l *lease.Lease, waits clock.Mono) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leases[catalog.ID(l.Volume)] != nil || waits <= 0 || waits > (clock.Boot{}).Now() {
		n.c.t.Errorf("node %d acquires volume %x, which it has, or waits for %d", n.number, l.Volume, waits)
	}
	n.leases[catalog.ID(l.Volume)] = l
}

// Lost implements pulse.Events.
func (n *realNode) Lost(volume catalog.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leases[volume] == nil {
		n.c.t.Errorf("node %d lost volume %s, which it does not have", n.number, volume)
	}
	delete(n.leases, volume)
}

// Recalled implements pulse.Events: it stops to serve at once.
func (n *realNode) Recalled(volume catalog.ID) {
	n.mu.Lock()
	delete(n.leases, volume)
	n.mu.Unlock()
	n.pulse.GaveBack(volume)
}

// holds reports whether the node may serve a volume now, and the epoch.
func (n *realNode) holds(volume catalog.ID) (epoch uint64, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.leases[volume]
	if l == nil || !l.Valid((clock.Boot{}).Now()) {
		return 0, false
	}
	return l.Epoch, true
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	ca, err := pki.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, ca: ca, dir: t.TempDir()}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.kill()
		}
	})
	for i := 1; i <= 3; i++ {
		c.nodes = append(c.nodes, &realNode{c: c, number: i})
	}
	for _, n := range c.nodes {
		n.start()
		if n.number > 1 {
			if err := n.group.Join(t.Context(), map[string]string{c.nodes[0].id(): c.nodes[0].address}); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.do(initCmd())
	for _, n := range c.nodes {
		c.do(nodeCmds(n.number, n.address)...)
	}
	c.do(poolCmd(3))
	c.await("three voters", func() bool { return voters(c.nodes[0].group) == 3 })
	c.await("three nodes that are up", func() bool { return c.ups() == 3 })
	return c
}

func voters(g *group.Group) (n int) {
	for _, m := range g.Stats().Members {
		if m.Voter {
			n++
		}
	}
	return n
}

// ups counts the nodes that are up, as the leader's own node has heard.
func (c *cluster) ups() (n int) {
	for _, v := range c.leader().pulse.Members() {
		if v.State == membership.Up {
			n++
		}
	}
	return n
}

func (c *cluster) credentials(id string) *pki.Credentials {
	c.t.Helper()
	who := pki.Identity{Cluster: "test", Node: id}
	key, csr, err := pki.NewRequest(who)
	if err != nil {
		c.t.Fatal(err)
	}
	der, err := c.ca.Sign(csr, who, time.Now(), time.Hour)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	creds, err := pki.NewCredentials(cert, key, pki.NewBundle(c.ca.Certificate()))
	if err != nil {
		c.t.Fatal(err)
	}
	return creds
}

// start starts the node's process, so to speak.
func (n *realNode) start() {
	t := n.c.t
	t.Helper()
	address := n.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	inner, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	n.address = inner.Addr().String()
	creds := n.c.credentials(n.id())
	if n.port, err = group.NewListener(inner, creds); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(n.c.dir, n.id())
	n.fsm = catalog.NewFSM()
	n.group, err = group.Open(group.Config{Dir: dir, Cluster: "test", NodeID: n.id(), Address: n.address, Listener: n.port,
		FSM: n.fsm, Bootstrap: n.number == 1, Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	n.cat = catalog.New(n.fsm, n.group, pki.NewKeyring)
	n.peers = control.NewPeers(creds)
	n.mu.Lock()
	n.leases = map[catalog.ID]*lease.Lease{}
	n.mu.Unlock()
	incarnation, err := pulse.NextIncarnation(filepath.Join(dir, "starts"))
	if err != nil {
		t.Fatal(err)
	}
	if n.dir, err = New(Config{Node: n.id(), Catalog: n.cat, Group: n.group, Events: n.event}); err != nil {
		t.Fatal(err)
	}
	if n.pulse, err = pulse.New(pulse.Config{Node: n.id(), Incarnation: incarnation, Catalog: n.cat, Leader: n.group.WatchLeader,
		Call: pulse.Caller(n.id(), n.dir, n.peers), Events: n}); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(blockdv1connect.NewPulseServiceHandler(pulse.Serve(n.dir), connect.WithInterceptors(control.Interceptor())))
	n.web = &http.Server{Handler: mux, ConnContext: control.ConnContext}
	api := n.port.API()
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	n.wg.Go(func() { _ = n.web.Serve(api) }) // ends with kill
	n.wg.Go(func() { _ = n.dir.Run(ctx) })
	n.wg.Go(func() { _ = n.pulse.Run(ctx) })
	n.up = true
}

// count is how many leases the node has.
func (n *realNode) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.leases)
}

func (n *realNode) event(e Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = append(n.log, fmt.Sprintf("%+v", e))
}

// kill ends it as the end of its process does: nothing is said to anybody.
func (n *realNode) kill() {
	if !n.up {
		return
	}
	n.up = false
	n.mu.Lock()
	n.leases = nil // nothing is served from now on
	n.mu.Unlock()
	n.stop()
	_ = n.web.Close()
	_ = n.group.Close()
	_ = n.port.Close()
	n.wg.Wait()
	n.peers.Close()
}

func (c *cluster) do(cmds ...*catalogpb.Command) {
	c.t.Helper()
	for _, cmd := range cmds {
		if _, err := c.leader().cat.DoContext(c.t.Context(), cmd); err != nil {
			c.t.Fatalf("%v: %v", cmd, err)
		}
	}
}

// leader waits for a node that leads.
func (c *cluster) leader() *realNode {
	c.t.Helper()
	var found *realNode
	c.await("a leader", func() bool {
		for _, n := range c.nodes {
			if !n.up {
				continue
			}
			if _, ok := n.group.Leads(); ok {
				found = n
			}
		}
		return found != nil
	})
	return found
}

// patience is for what takes milliseconds on a machine that has them.
const patience = time.Minute

// await waits until done, and returns for how long.
func (c *cluster) await(what string, done func() bool) time.Duration {
	c.t.Helper()
	begin := time.Now()
	for !done() {
		if time.Since(begin) > patience {
			for _, n := range c.nodes {
				n.mu.Lock()
				c.t.Logf("node %d: %d leases, %v", n.number, len(n.leases), n.log)
				n.mu.Unlock()
			}
			c.t.Fatalf("no %s after %v", what, patience)
		}
		time.Sleep(time.Millisecond) // sleep: what is awaited has no channel that all of the nodes share
	}
	return time.Since(begin)
}

// holder returns the node that may serve a volume, and fails when two may. A
// lease may end, and go to another node, between two looks at it, so whoever seems
// to be a second one is looked at again, before the first one is.
func (c *cluster) holder(volume catalog.ID) (n *realNode, epoch uint64) {
	for _, m := range c.nodes {
		e, ok := m.holds(volume)
		if !ok {
			continue
		}
		if n != nil {
			if still, ok := n.holds(volume); ok && still == epoch {
				c.t.Errorf("volume %s is served by nodes %d in epoch %d and %d in epoch %d", volume, n.number, epoch, m.number, e)
			}
		}
		n, epoch = m, e
	}
	return n, epoch
}

func (c *cluster) allHeld(volumes int, by func(*realNode) bool) bool {
	all := true
	for i := 1; i <= volumes; i++ {
		n, _ := c.holder(volumeID(i))
		all = all && n != nil && by(n)
	}
	return all
}

func anyNode(*realNode) bool { return true }

// A killed owner is replaced by the others, also when it led the group; and one
// that starts again takes part as before. How long it takes is what TestTakeoverTakesNoLonger
// is for: here, it is the machine's time.
func TestKilledOwnerIsReplaced(t *testing.T) {
	c := newCluster(t)
	const volumes = 9
	for i := 1; i <= volumes; i++ {
		c.do(volumeCmd(i, 3))
	}
	t.Logf("%d volumes are created, placed and served after %v", volumes, c.await("owners", func() bool { return c.allHeld(volumes, anyNode) }))
	for round := range 6 {
		victim, role := c.leader(), "the leader"
		if first := victim; round < 4 {
			victim, role = c.nodes[first.number%3], "a follower"
			if other := c.nodes[(first.number+1)%3]; other.count() > victim.count() {
				victim = other
			}
		}
		had := victim.count()
		epochs := map[int]uint64{}
		for i := 1; i <= volumes; i++ {
			if n, e := c.holder(volumeID(i)); n != victim {
				epochs[i] = e
			}
		}
		victim.kill()
		took := c.await("new owners", func() bool { return c.allHeld(volumes, func(n *realNode) bool { return n != victim }) })
		kept := 0
		for i, e := range epochs {
			if _, now := c.holder(volumeID(i)); now == e {
				kept++
			}
		}
		t.Logf("%s is killed, which had %d volumes: all are served again after %v; %d of %d other leases went on", role, had, took, kept, len(epochs))
		victim.start()
		c.await("the return", func() bool {
			return len(victim.pulse.Members()) == 3 && victim.cat.State().Revision == c.leader().cat.State().Revision
		})
	}
}

// A drained node has no leases after a while, a node that leaves too, and both keep
// nothing that others could serve.
func TestDrainAndLeave(t *testing.T) {
	c := newCluster(t)
	const volumes = 6
	for i := 1; i <= volumes; i++ {
		c.do(volumeCmd(i, 1))
	}
	c.await("owners", func() bool { return c.allHeld(volumes, anyNode) })
	drained := c.most(nil)
	c.do(jobCmd(1, JobDrain, nodeName(drained.number)))
	took := c.await("the end of the drain", func() bool {
		return c.leader().cat.State().Job(testID(5, 1)).State == catalog.JobDone
	})
	t.Logf("drained after %v: %s", took, c.leader().cat.State().Job(testID(5, 1)).Reason)
	if had := drained.count(); had != 0 {
		t.Errorf("the drained node serves %d volumes", had)
	}
	c.await("owners", func() bool { return c.allHeld(volumes, anyNode) })
	c.do(nodeStateCmd(drained.number, catalog.NodeActive))
	leaves := c.most(drained)
	leaves.pulse.Leave()
	took = c.await("nothing held", func() bool { return leaves.pulse.Held() == 0 })
	t.Logf("left after %v", took)
	c.await("owners", func() bool { return c.allHeld(volumes, func(n *realNode) bool { return n != leaves }) })
	leaves.kill()

	// A move by an administrator, and the end of a volume.
	n, _ := c.holder(volumeID(1))
	to := 6 - leaves.number - n.number
	c.do(moveCmd(1, to))
	c.await("the move", func() bool { n, _ := c.holder(volumeID(1)); return n != nil && n.number == to })
	c.do(retireCmd(1))
	c.await("the end of the volume", func() bool { return c.leader().cat.State().VolumeByID(volumeID(1)) == nil })
}

// most is the node other than not that has most leases.
func (c *cluster) most(not *realNode) (most *realNode) {
	for _, n := range c.nodes {
		if n != not && (most == nil || n.count() > most.count()) {
			most = n
		}
	}
	return most
}

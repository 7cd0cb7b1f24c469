package group

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"blockd.dev/raftmeta/pki"
)

// ledger is the state machine of these tests: it counts how often each
// command was applied, and chains them in their order.
type ledger struct {
	mu      sync.Mutex
	version uint32
	corrupt bool // from now on, its state is wrong
	state   ledgerState
}

type ledgerState struct {
	Chain []byte
	Count map[string]int
	Pad   []byte // makes snapshots large
}

func newLedger() *ledger {
	return &ledger{version: 1, state: ledgerState{Count: map[string]int{}}}
}

func (l *ledger) MaxVersion() uint32 { return l.version }

func (l *ledger) Check(version uint32, command []byte) error {
	if len(command) == 0 || command[0] == '?' {
		return errors.New("not a command of the ledger")
	}
	return nil
}

func (l *ledger) Apply(index, term uint64, version uint32, command []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := string(command)
	l.state.Count[name]++
	sum := sha256.Sum256(slices.Concat(l.state.Chain, command, binary.BigEndian.AppendUint64(nil, index)))
	if l.corrupt {
		sum[0] ^= 1
	}
	l.state.Chain = sum[:]
	return fmt.Appendf(nil, "%s=%d@%d", name, l.state.Count[name], index)
}

type ledgerSnapshot struct{ ledgerState }

func (l *ledger) Snapshot() Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.state
	s.Count = maps.Clone(s.Count)
	return ledgerSnapshot{s}
}

func (s ledgerSnapshot) WriteTo(w io.Writer) (int64, error) {
	b, err := json.Marshal(s.ledgerState)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

func (s ledgerSnapshot) Hash() [HashSize]byte {
	var b bytes.Buffer
	_, _ = s.WriteTo(&b)
	return sha256.Sum256(b.Bytes())
}

func (l *ledger) Restore(r io.Reader) error {
	var s ledgerState
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return err
	}
	// A decoder stops at the end of the value; whoever checks the sum of the
	// stream needs it read to its end.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = s
	return nil
}

func (l *ledger) counts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.state.Count)
}

func (l *ledger) setCorrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.corrupt = true
}

// wires connects the nodes of a test, and cuts them.
type wires struct {
	mu    sync.Mutex
	owner map[string]string // address to node
	cut   map[[2]string]bool
	mute  map[[2]string]bool // nothing gets through, and nobody is told
	conns map[net.Conn][2]string
	loses float64 // how many of the answers get lost, with their connection
}

func newWires() *wires {
	return &wires{owner: map[string]string{}, cut: map[[2]string]bool{}, mute: map[[2]string]bool{}, conns: map[net.Conn][2]string{}}
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

func (w *wires) dial(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		w.mu.Lock()
		p := pair(from, w.owner[address])
		cut, mute := w.cut[p], w.mute[p]
		w.mu.Unlock()
		if mute {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if cut {
			return nil, errors.New("the wire is cut")
		}
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.cut[p] {
			c.Close()
			return nil, errors.New("the wire is cut")
		}
		w.conns[c] = p
		return &wire{c, w, p}, nil
	}
}

type wire struct {
	net.Conn
	w *wires
	p [2]string
}

func (c *wire) Close() error {
	c.w.mu.Lock()
	delete(c.w.conns, c.Conn)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

// Read is of answers: who made the connection asks.
func (c *wire) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	for err == nil && c.muted() {
		n, err = c.Conn.Read(b)
	}
	c.w.mu.Lock()
	lost := rand.Float64() < c.w.loses
	c.w.mu.Unlock()
	if lost {
		c.Close()
		return 0, errors.New("the answer got lost")
	}
	return n, err
}

// Write is of questions.
func (c *wire) Write(b []byte) (int, error) {
	if c.muted() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *wire) muted() bool {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.mute[c.p]
}

// silence is isolate of one node, as a machine that is gone without a word: connections stay.
func (w *wires) silence(all []string, node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, other := range all {
		w.mute[pair(node, other)] = true
	}
}

// lose has a part of the answers get lost.
func (w *wires) lose(part float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loses = part
}

// isolate cuts all wires between the nodes and the others.
func (w *wires) isolate(all []string, nodes ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range nodes {
		for _, b := range all {
			if !slices.Contains(nodes, b) {
				w.cut[pair(a, b)] = true
			}
		}
	}
	for c, p := range w.conns {
		if w.cut[p] {
			c.Close()
			delete(w.conns, c)
		}
	}
}

func (w *wires) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
	clear(w.mute)
}

// cluster is a group of nodes in this process.
type cluster struct {
	t     testing.TB
	ca    *pki.Authority
	wires *wires
	dir   string
	tweak func(*Config)
	nodes map[string]*node
}

type node struct {
	*Group
	c        *cluster
	id       string
	cfg      Config
	ledger   *ledger
	listener *Listener
	creds    *pki.Credentials // nil: made for it
	events   chan Event
	down     bool
}

const (
	testHeartbeat = 400 * time.Millisecond // the default
	patience      = time.Minute            // for what takes milliseconds on a machine that has them
)

// steady is for a group that is to have one leader all the time.
func steady(cfg *Config) { cfg.Heartbeat = 20 * time.Second }

func newCluster(t testing.TB, tweak func(*Config)) *cluster {
	t.Helper()
	ca, err := pki.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, ca: ca, wires: newWires(), dir: t.TempDir(), tweak: tweak, nodes: map[string]*node{}}
	t.Cleanup(c.close)
	return c
}

func (c *cluster) close() {
	for _, n := range c.nodes {
		n.stop()
	}
}

func (c *cluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c.t.Cleanup(cancel)
	return ctx
}

// prepare makes a node that is not open yet.
func (c *cluster) prepare(id string) *node {
	c.t.Helper()
	n := &node{c: c, id: id, ledger: newLedger(), down: true}
	n.cfg = Config{
		Dir: filepath.Join(c.dir, id), Cluster: "test", NodeID: id, FSM: n.ledger,
		Heartbeat: testHeartbeat, Dial: c.wires.dial(id), Incarnation: 1,
	}
	if c.tweak != nil {
		c.tweak(&n.cfg)
	}
	c.nodes[id] = n
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

// listen gives a node its port, the same after a restart.
func (n *node) listen() {
	n.c.t.Helper()
	address := n.cfg.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	inner, err := net.Listen("tcp", address)
	if err != nil {
		n.c.t.Fatal(err)
	}
	creds := n.creds
	if creds == nil {
		creds = n.c.credentials(n.id)
	}
	if n.listener, err = NewListener(inner, creds); err != nil {
		n.c.t.Fatal(err)
	}
	n.cfg.Address, n.cfg.Listener = inner.Addr().String(), n.listener
	n.c.wires.mu.Lock()
	n.c.wires.owner[n.cfg.Address] = n.id
	n.c.wires.mu.Unlock()
}

// open starts a node, with an empty state machine.
func (n *node) open() error {
	n.c.t.Helper()
	n.listen()
	fresh := newLedger()
	fresh.version = n.ledger.version
	n.ledger, n.cfg.FSM = fresh, fresh
	n.events = make(chan Event, 4096)
	events := n.events
	n.cfg.Events = func(e Event) {
		select {
		case events <- e:
		default:
		}
	}
	g, err := Open(n.cfg)
	if err != nil {
		n.listener.Close()
		return err
	}
	n.Group, n.down = g, false
	return nil
}

func (n *node) mustOpen() {
	n.c.t.Helper()
	if err := n.open(); err != nil {
		n.c.t.Fatalf("%s: %v", n.id, err)
	}
}

func (n *node) stop() {
	if n.down {
		return
	}
	n.down = true
	n.Group.Close()
	n.listener.Close()
}

// die is as the end of a process: nothing is handed over, and the port is closed when connections
// end. Close alone has Raft shut down in between, which a busy machine takes its time for.
func (n *node) die() {
	n.listener.Close()
	n.stop()
}

func (n *node) restart() {
	n.c.t.Helper()
	n.stop()
	n.mustOpen()
}

// first opens the node that begins the group.
func (c *cluster) first(id string) *node {
	c.t.Helper()
	n := c.prepare(id)
	n.cfg.Bootstrap = true
	n.mustOpen()
	c.apply(n, "first")
	return n
}

// join opens further nodes and makes them members.
func (c *cluster) join(via *node, ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		n := c.prepare(id)
		n.mustOpen()
		if err := n.Join(c.ctx(), map[string]string{via.id: via.cfg.Address}); err != nil {
			c.t.Fatalf("%s: %v", id, err)
		}
	}
}

// start makes a group of nodes n1 to nN and waits until the voters are chosen.
func start(t testing.TB, size int, tweak func(*Config)) *cluster {
	t.Helper()
	c := newCluster(t, tweak)
	n := c.first("n1")
	for i := 2; i <= size; i++ {
		c.join(n, fmt.Sprintf("n%d", i))
	}
	voters := n.Group.cfg.Voters
	if size < voters {
		voters = (size-1)/2*2 + 1
	}
	c.until("the voters are chosen, and all know", func() bool { return c.settled(voters) })
	return c
}

// settled tells whether every node that is up knows of this many voters.
func (c *cluster) settled(voters int) bool {
	if c.leading() == nil {
		return false
	}
	for _, n := range c.nodes {
		if n.down {
			continue
		}
		votes := 0
		for _, m := range n.Stats().Members {
			if m.Voter {
				votes++
			}
		}
		if votes != voters {
			return false
		}
	}
	return true
}

func (c *cluster) voters() (ids []string) {
	if l := c.leading(); l != nil {
		for _, m := range l.Stats().Members {
			if m.Voter {
				ids = append(ids, m.ID)
			}
		}
	}
	return ids
}

// leader waits until there is one.
func (c *cluster) leader() (leader *node) {
	c.t.Helper()
	c.until("a leader", func() bool { leader = c.leading(); return leader != nil })
	return leader
}

// leading is the node that has taken office in the highest term, nil if there is none.
func (c *cluster) leading() (leader *node) {
	best := uint64(0)
	for _, n := range c.nodes {
		if n.down {
			continue
		}
		if term, ok := n.Leads(); ok && term > best {
			leader, best = n, term
		}
	}
	return leader
}

func (c *cluster) ids() []string { return slices.Sorted(maps.Keys(c.nodes)) }

// followers are the nodes that are up and are not the leader, by id.
func (c *cluster) followers() (list []*node) {
	l := c.leader()
	for _, id := range c.ids() {
		if n := c.nodes[id]; n != l && !n.down {
			list = append(list, n)
		}
	}
	return list
}

// until polls for what has no event of its own to wait for.
func (c *cluster) until(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			for _, id := range c.ids() {
				if n := c.nodes[id]; !n.down {
					c.t.Logf("%s: %+v", id, n.Stats())
				}
			}
			c.t.Fatalf("never came: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (c *cluster) apply(n *node, name string) Result {
	c.t.Helper()
	r, err := n.Apply(c.ctx(), Command{Version: 1, Data: []byte(name)})
	if err != nil {
		c.t.Fatalf("%s: apply %s: %v", n.id, name, err)
	}
	return r
}

// agree waits until all nodes that are up have the same state, and checks that
// every acknowledged command is in it, once.
func (c *cluster) agree(acknowledged ...string) {
	c.t.Helper()
	var first *node
	for _, id := range c.ids() {
		n := c.nodes[id]
		if n.down {
			continue
		}
		if err := n.Barrier(c.ctx()); err != nil {
			c.t.Fatalf("%s: %v", id, err)
		}
		if first == nil {
			first = n
		}
		counts := n.ledger.counts()
		for _, name := range acknowledged {
			if counts[name] != 1 {
				c.t.Fatalf("%s: %s was acknowledged and is there %d times", id, name, counts[name])
			}
		}
		for name, count := range counts {
			if count != 1 {
				c.t.Fatalf("%s: %s was applied %d times", id, name, count)
			}
		}
	}
	c.until("the states are equal", func() bool {
		want := first.ledger.Snapshot().Hash()
		for _, n := range c.nodes {
			if !n.down && n.ledger.Snapshot().Hash() != want {
				return false
			}
		}
		return true
	})
}

// await waits for an event of a node.
func (n *node) await(what string, ok func(Event) bool) Event {
	n.c.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e := <-n.events:
			if ok(e) {
				return e
			}
		case <-timeout:
			n.c.t.Fatalf("%s: never came: %s", n.id, what)
		}
	}
}

// load applies commands from several goroutines, on any node that is up, until
// it is stopped, and tries again with the same request id as a client would.
type load struct {
	c      *cluster
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	acked  []string
	groups []*Group
}

func (c *cluster) load(workers int, groups ...*Group) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{c: c, cancel: cancel, groups: groups}
	for w := range workers {
		l.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("w%d-%d", w, i)
				id := NewRequestID()
				for try := w; ctx.Err() == nil; try++ {
					short, done := context.WithTimeout(ctx, 3*time.Second)
					_, err := l.groups[try%len(l.groups)].Apply(short, Command{Version: 1, Request: id, Data: []byte(name)})
					done()
					if err == nil {
						l.mu.Lock()
						l.acked = append(l.acked, name)
						l.mu.Unlock()
						break
					}
				}
			}
		})
	}
	return l
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// more waits until n further commands were acknowledged.
func (l *load) more(n int) {
	l.c.t.Helper()
	from := l.count()
	l.c.until(fmt.Sprintf("%d more commands", n), func() bool { return l.count() >= from+n })
}

func (l *load) stop() []string {
	l.cancel()
	l.wg.Wait()
	return l.acked
}

func (c *cluster) groups() (list []*Group) {
	for _, id := range c.ids() {
		if n := c.nodes[id]; !n.down {
			list = append(list, n.Group)
		}
	}
	return list
}

package calls

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/testenv/progress"
)

// Config says who calls whom about what.
type Config struct {
	// Nodes are asked in turn, at random.
	Nodes []string
	// Client reaches a node's API as an administrator; cluster.Cluster has it.
	Client func(node string) (client *http.Client, address string, err error)
	// Pool is where volumes are made. A volume of one copy can't be changed in time while the
	// node with the copy is silent.
	Pool string
	// Clients is how many there are, each with one call at a time.
	Clients int
	// Names is how many volumes it is about, more or less at a time.
	Names int
	// Think is how long a client waits between two calls.
	Think time.Duration
	// Seed says which calls are made; their times are their own.
	Seed uint64
	// ToldByName is for nodes of release 98aa773: who creates a volume is told of whichever has
	// the name by the time of the answer. What a create is told is not looked at.
	ToldByName bool
}

// Load is clients at work.
type Load struct {
	id      string
	names   []string
	pool    string
	nodes   []*node
	idle    []*http.Client
	rec     recorder
	think   time.Duration
	byName  bool // Config.ToldByName
	cancel  context.CancelFunc
	running sync.WaitGroup
	last    atomic.Pointer[error] // what a node said last that left a call open
	clients *progress.Clients

	mu    sync.Mutex
	wrong []error // what nobody may be told
}

// Start has clients call until Stop.
func Start(c Config) (*Load, error) {
	l := &Load{id: fmt.Sprintf("calls-%d-%d", c.Seed, time.Now().UnixNano()), rec: recorder{began: time.Now()}, think: c.Think, byName: c.ToldByName, pool: c.Pool,
		clients: progress.Of(c.Clients)}
	for i := range c.Names {
		l.names = append(l.names, fmt.Sprintf("v%d-%d", c.Seed%1000, i))
	}
	for _, name := range c.Nodes {
		h, address, err := c.Client(name)
		if err != nil {
			return nil, err
		}
		l.idle = append(l.idle, h)
		l.nodes = append(l.nodes, &node{name: name, volumes: blockdv1connect.NewVolumeServiceClient(h, address),
			mappings: blockdv1connect.NewMappingServiceClient(h, address), cluster: blockdv1connect.NewClusterServiceClient(h, address)})
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	for i := range c.Clients {
		cl := &client{load: l, number: i, rng: rand.New(rand.NewPCG(c.Seed, uint64(i)))}
		l.running.Go(func() { l.work(ctx, cl) })
	}
	return l, nil
}

func (l *Load) work(ctx context.Context, c *client) {
	for ctx.Err() == nil {
		began := time.Now()
		if c.step(ctx) {
			l.clients.Note(c.number, began)
		}
		pass(ctx, l.think)
	}
}

// complain notes what nobody may be told.
func (l *Load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Errorf("calls: "+format, args...))
}

// Progress waits until every client has had an answer to a call that it began from
// now on.
func (l *Load) Progress(ctx context.Context) error {
	late := l.clients.Await(ctx)
	if late == 0 {
		return nil
	}
	var last error
	if p := l.last.Load(); p != nil {
		last = *p
	}
	return fmt.Errorf("calls: %d clients had no answer: %w; the last thing a node said: %w", late, ctx.Err(), last)
}

// Report is what came of a load.
type Report struct {
	Calls, Open, Again int // all; those without an answer; those for which several nodes were asked
}

// Stop ends the load, reads every volume once more by every node, and judges all
// answers. The nodes must be up.
func (l *Load) Stop(ctx context.Context) (r Report, err error) {
	l.cancel()
	l.running.Wait()
	for _, h := range l.idle {
		defer h.CloseIdleConnections()
	}
	for _, name := range l.names {
		for _, n := range l.nodes {
			if err := l.readAtLast(ctx, n, name); err != nil {
				return r, err
			}
		}
	}
	for _, o := range l.rec.ops {
		r.Calls++
		if o.Answer == Open {
			r.Open++
		}
		if len(o.Nodes) > 1 {
			r.Again++
		}
	}
	return r, errors.Join(append(l.wrong, Check(l.rec.ops))...)
}

// atLast is the client that reads when all is over.
const atLast = -1

// readAtLast reads one volume by one node, as often as that takes.
func (l *Load) readAtLast(ctx context.Context, n *node, name string) error {
	for {
		o := Op{Client: atLast, Kind: Read, Name: name, Nodes: []string{n.name}, Call: l.rec.now()}
		var err error
		if o.Answer, o.Seen, err = n.read(ctx, name); o.Answer != Open {
			l.rec.add(o)
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("calls: read %s at %s when all is over: %w: %w", name, n.name, ctx.Err(), err)
		}
		pass(ctx, pauseBetween)
	}
}

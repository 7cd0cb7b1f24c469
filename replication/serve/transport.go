package serve

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/replication/message"
	"blockd.dev/replication/replica"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/endpoint"
)

// TransportConfig says what a Transport is made of. All fields but Timeout are
// required. The functions are called for each message: they must be cheap, and
// must not block.
type TransportConfig struct {
	// Service has the replicas on this node.
	Service *Service
	// Local tells whether a disk is on this node.
	Local func(disk uint16) bool
	// NodeOf is the node that has a disk; "" when that is not known.
	NodeOf func(disk uint16) string
	// Peer is the connection to a node; nil when there is none to be had.
	Peer func(node string) *endpoint.Peer
	// Timeout is how long a request to a replica may hold its data, in a
	// connection that is up, without an answer, unless its sender waits for longer (message.Sent.Patience).
	// Default 2 s, which is longer than owners wait for replicas that they can do without.
	Timeout time.Duration
}

// Transport is a device.Transport.
type Transport struct {
	cfg TransportConfig

	recent atomic.Pointer[endpoint.Peer] // that was sent to last

	mu       sync.Mutex
	backlog  map[*endpoint.Peer]*backlog
	forwards map[string]*forwards // by node
}

// NewTransport returns a Transport. Its Event wants to be told of what happens
// to peers.
func NewTransport(cfg TransportConfig) *Transport {
	if cfg.Timeout == 0 {
		cfg.Timeout = 2 * time.Second
	}
	return &Transport{cfg: cfg, backlog: map[*endpoint.Peer]*backlog{}, forwards: map[string]*forwards{}}
}

// call is one message on its way: of a Sent, or of a Forwarded.
type call struct {
	endpoint.Call
	t         *Transport
	sent      *message.Sent
	forwarded *message.Forwarded
	forwards  *forwards // that counts it
	gather    [2][]byte
	meta      []byte
}

var calls sync.Pool

func (t *Transport) newCall() *call {
	c, _ := calls.Get().(*call)
	if c == nil {
		c = &call{}
		c.Context = c
		c.Done = func(e *endpoint.Call) { e.Context.(*call).done() }
	}
	c.t = t
	return c
}

// Send is device.Transport's.
func (t *Transport) Send(s *message.Sent) {
	s.Lost, s.NotSent = false, false
	if t.cfg.Local(s.Disk) {
		t.local(s)
		return
	}
	c := t.newCall()
	c.sent, c.Timeout = s, max(t.cfg.Timeout, s.Patience)
	c.meta = message.AppendRequest(c.meta[:0], s.Target, &s.Request)
	c.start(t.cfg.NodeOf(s.Disk), s.Request.Data)
}

// local does a request on a disk of this node: after what others were sent just before, if
// that waits for a pump.
func (t *Transport) local(s *message.Sent) {
	a := t.cfg.Service.asked(s)
	if s.Last {
		if p := t.recent.Load(); p != nil && p.After(a) {
			return
		}
	}
	t.cfg.Service.ask(a, s.Soon)
}

// Forward is device.Transport's.
func (t *Transport) Forward(f *message.Forwarded) {
	f.Lost, f.NotSent = false, false
	c := t.newCall()
	c.forwarded, c.Timeout = f, 0 // the connection's end ends it, and the owner there has its own limit
	c.meta = message.AppendHost(c.meta[:0], &f.Request)
	if f.Request.Op != 0 { // what begins a session waits for no others
		c.forwards = t.forwardsTo(f.Node)
	}
	if c.forwards.enter(c) {
		c.start(f.Node, f.Request.Data)
	}
}

func (c *call) start(node string, data []byte) {
	c.gather = [2][]byte{data, c.meta}
	c.Data = c.gather[:]
	if len(data) == 0 {
		c.Data = c.gather[1:]
	}
	p := c.t.cfg.Peer(node)
	if p == nil {
		c.Err = wire.ErrNotSent
		c.done()
		return
	}
	c.t.recent.Store(p)
	err := c.send(p)
	if errors.Is(err, wire.ErrQueueFull) {
		c.t.wait(p, c)
		return
	}
	if err != nil {
		c.Err = errors.Join(err, wire.ErrNotSent)
		c.done()
	}
}

// errStale ends a host's request that is not to be sent any more.
var errStale = errors.New("the request of the host is not to be begun any more")

// send gives the call to the endpoint, unless it is not to be begun any more.
func (c *call) send(p *endpoint.Peer) error {
	if f := c.forwarded; f != nil && f.Stale != nil && f.Stale(f) {
		return errStale
	}
	return p.Go(&c.Call)
}

// wait keeps c until there is room. There was none when Go was called, so the
// peer tells when there is; should that have been before c was in the backlog,
// the attempt that follows here finds it.
func (t *Transport) wait(p *endpoint.Peer, c *call) {
	t.mu.Lock()
	b := t.backlog[p]
	if b == nil {
		b = &backlog{}
		t.backlog[p] = b
	}
	b.calls = append(b.calls, c)
	t.mu.Unlock()
	t.sendBacklog(p)
}

func (t *Transport) sendBacklog(p *endpoint.Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.backlog[p]; b != nil {
		b.send(&t.mu, func(c *call) error { return c.send(p) })
		if len(b.calls) == 0 && !b.sending {
			delete(t.backlog, p)
		}
	}
}

// Event takes what the endpoint tells of peers. It does not block.
func (t *Transport) Event(e endpoint.Event) {
	if e.Kind == endpoint.PeerRoom || e.Kind == endpoint.PeerDown {
		t.sendBacklog(e.Peer)
	}
}

// done is the end of a call.
func (c *call) done() {
	var body []byte
	lost := c.Err != nil
	if !lost {
		body = c.Response.Data
	}
	if f := c.forwarded; f != nil {
		if !lost {
			var err error
			if f.Answer, err = message.DecodeAnswer(body); err != nil {
				lost = true
			}
		}
		f.Lost, f.NotSent = lost, errors.Is(c.Err, wire.ErrNotSent)
		f.Free, f.Internal = freeForwarded, c
		c.forwards.leave(c)
		f.Done(f)
		return
	}
	s := c.sent
	if !lost && message.DecodeResponse(body, s.Request.Kind, &s.Response) != nil {
		lost = true
	}
	if lost {
		s.Response = replica.Response{}
	}
	s.Lost, s.NotSent = lost, errors.Is(c.Err, wire.ErrNotSent)
	s.Free, s.Internal = freeSent, c
	s.Done(s)
}

func freeSent(s *message.Sent)           { s.Internal.(*call).free() }
func freeForwarded(f *message.Forwarded) { f.Internal.(*call).free() }

func (c *call) free() {
	if c.Err == nil {
		c.Response.Release()
	}
	c.Response, c.Err, c.Data, c.gather = wire.Message{}, nil, nil, [2][]byte{}
	c.sent, c.forwarded, c.forwards, c.t = nil, nil, nil, nil
	calls.Put(c)
}

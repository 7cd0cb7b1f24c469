package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"blockd.dev/afxdp/link/simlink"
	"blockd.dev/internal/clock"
)

// world is two nodes with a connection over a simulated network, and a model
// of what each was told. Everything follows from the seed.
type world struct {
	seed  uint64
	rng   *rand.Rand
	net   *simlink.Network
	now   clock.Mono // the network's time
	node  [2]*node   // client, server
	buf   []byte
	fault string // the first thing that was wrong
	steps int
	base  int // number of the first path, where worlds share a network
	// doomed: the network may be so bad that the connection ends.
	doomed bool
}

// node is one end, with its application.
type node struct {
	w              *world
	index          int
	conn           *Conn
	cfg            Config
	clock          simlink.Clock
	addrs          []netip.AddrPort // by path
	sent           []*sentMessage   // by ID less 1
	got            map[MessageID]bool
	order          map[uint16]MessageID // the last ID by channel
	holding        []held
	replies        []reply
	buffers        int
	spare          []*countedBuffer
	up             bool
	down           error
	wakes          int
	tickets        int // messages left to send
	nextOp         clock.Mono
	gone           bool // after down
	mute           bool // answers nothing
	keep           bool // releases nothing
	canceled, room int  // events
}

// sentMessage is what the sender's model knows of a message.
type sentMessage struct {
	out      Outgoing
	size     int
	done     bool // EventSent
	answered bool
	failed   error
}

type held struct {
	until clock.Mono
	m     Message
}

type reply struct {
	at clock.Mono
	to MessageID
}

// stepsMax is more than any conversation takes that isn't stuck.
const stepsMax = 300000

func (w *world) fail(format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf("at %v: ", time.Duration(w.now)) + fmt.Sprintf(format, args...)
	}
}

func addr(node, path int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(path), 0, byte(node + 1)}), 7000)
}

// countedBuffer is a Buffer of which the node knows that it is out. Released
// ones are overwritten, as far as anybody would look, and used again.
type countedBuffer struct {
	b   []byte
	out bool
	n   *node
}

func (b *countedBuffer) Bytes() []byte { return b.b }
func (b *countedBuffer) Release() {
	if !b.out {
		b.n.w.fail("node %d: a buffer was released twice", b.n.index)
	}
	clear(b.b[:min(len(b.b), 512)])
	b.out = false
	b.n.buffers--
	b.n.spare = append(b.n.spare, b)
}

func (n *node) alloc(size int) Buffer {
	n.buffers++
	var b *countedBuffer
	if last := len(n.spare) - 1; last >= 0 {
		b, n.spare = n.spare[last], n.spare[:last]
	} else {
		b = &countedBuffer{n: n}
	}
	if cap(b.b) < size {
		b.b = make([]byte, size, max(size, 4096))
	}
	b.b, b.out = b.b[:size], true
	return b
}

// newWorld makes two nodes with so many paths. change may alter their
// configurations.
func newWorld(seed uint64, paths int, change func(index int, cfg *Config)) *world {
	w := &world{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), net: simlink.New(seed),
		now: clock.Mono(time.Second), buf: make([]byte, 0, 9000),
	}
	for i := range w.node {
		n := &node{w: w, index: i, got: map[MessageID]bool{}, order: map[uint16]MessageID{}, nextOp: clock.Never}
		n.cfg = Config{
			Handshake: &fakeHandshake{client: i == 0}, LocalID: ConnID(100 + i), DatagramMax: 8900,
			ResetToken: [16]byte{byte(i), 7}, WindowBytes: 1 << 20, WindowMessages: 64,
			Alloc: n.alloc,
			Wake:  func() { n.wakes++ },
		}
		binary.BigEndian.PutUint64(n.cfg.Seed[:], seed+uint64(i))
		if change != nil {
			change(i, &n.cfg)
		}
		for p := range paths {
			n.addrs = append(n.addrs, addr(i, p))
			w.net.Add(n.addrs[p])
		}
		w.node[i] = n
	}
	return w
}

// dial makes the client's end; the server's comes with the first hello.
func (w *world) dial() {
	n := w.node[0]
	c, err := NewClient(n.cfg, n.clock.At(w.now))
	if err != nil {
		w.fail("client: %v", err)
		return
	}
	n.conn = c
	n.addPaths()
	n.flush()
}

func (n *node) addPaths() {
	for p := range n.addrs {
		if err := n.conn.AddPath(n.local(), PathID(p), n.cfg.DatagramMax); err != nil {
			n.w.fail("add path %d: %v", p, err)
		}
	}
}

func (n *node) local() clock.Mono { return n.clock.At(n.w.now) }

// arrive takes what the network has for n.
func (n *node) arrive() {
	w := n.w
	for p, a := range n.addrs {
		for {
			data, from, ok := w.net.Receive(w.now, a)
			if !ok {
				break
			}
			if n.conn == nil && !n.gone {
				if r, err := Inspect(data); err == nil && r.Kind == Hello {
					c, err := NewServer(n.cfg, n.local(), data, PathID(p))
					if err == nil {
						n.conn = c
						n.addPaths()
						w.net.Recycle(data)
						continue
					}
				}
			}
			switch {
			case n.gone: // as a node that was restarted
				if r, err := Inspect(data); err == nil && r.Kind == Known && r.Dest == n.cfg.LocalID {
					w.net.Send(w.now, a, from, AppendReset(nil, r.Dest, n.cfg.ResetToken))
				}
			case n.conn != nil:
				n.conn.Receive(n.local(), PathID(p), data)
				n.events()
			}
			w.net.Recycle(data)
		}
	}
}

// flush sends everything that n's connection has to send.
func (n *node) flush() {
	if n.conn == nil {
		return
	}
	w := n.w
	for p, a := range n.addrs {
		for i := 0; ; i++ {
			size := n.conn.Produce(n.local(), PathID(p), w.buf[:0])
			if size == 0 {
				break
			}
			if i > 20000 {
				w.fail("node %d never stops sending", n.index)
				return
			}
			w.net.Send(w.now, a, addr(1-n.index, w.base+p), w.buf[:size])
		}
	}
}

// step moves on to the next thing that happens; false when it lies beyond
// until.
func (w *world) step(until clock.Mono) bool {
	next := w.net.Next()
	for _, n := range w.node {
		next = min(next, n.next())
	}
	if next > until {
		w.now = until
		return false
	}
	w.now = max(w.now, next)
	if w.steps++; w.steps > stepsMax {
		w.fail("no end in sight: %s", w.describe())
	}
	for _, n := range w.node {
		n.arrive()
		if n.conn != nil && n.conn.Deadline() <= n.local() {
			n.conn.Tick(n.local())
			n.events()
		}
		n.app()
		n.flush()
		n.events()
		n.check()
	}
	return w.fault == ""
}

// next is when n has something to do, in the network's time.
func (n *node) next() clock.Mono {
	at := n.nextOp
	for _, h := range n.holding {
		at = min(at, h.until)
	}
	for _, r := range n.replies {
		at = min(at, r.at)
	}
	if n.conn != nil {
		if d := n.conn.Deadline(); d != clock.Never {
			at = min(at, max(n.clock.When(d), n.w.now+1))
		}
	}
	return at
}

// noise is what messages are cut from.
var noise = func() []byte {
	b := make([]byte, 4<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b
}()

// content is the bytes of a message, which follow from its sender and ID.
func content(size, from int, id MessageID) []byte {
	at := (uint64(from+1)*7919 + uint64(id)) * 0x9e3779b97f4a7c15 % uint64(len(noise)-MessageMax)
	return noise[at:][:size:size]
}

// send sends a message of the given size, cut into random parts.
func (n *node) send(out Outgoing, size int) (MessageID, error) {
	id := MessageID(len(n.sent) + 1)
	data := content(size, n.index, id)
	for len(data) > 0 {
		cut := len(data)
		if n.w.rng.IntN(3) == 0 {
			cut = 1 + n.w.rng.IntN(len(data))
		}
		out.Data = append(out.Data, data[:cut])
		data = data[cut:]
	}
	out.Tag = id
	got, err := n.conn.Send(n.local(), out)
	if err != nil {
		return 0, err
	}
	if got != id {
		n.w.fail("node %d: message ID %d, want %d", n.index, got, id)
	}
	n.sent = append(n.sent, &sentMessage{out: out, size: size})
	return id, nil
}

// events takes what the connection tells, and compares it with the model.
func (n *node) events() {
	for n.conn != nil {
		e, ok := n.conn.NextEvent()
		if !ok {
			return
		}
		if n.down != nil {
			n.w.fail("node %d: event %d after EventDown", n.index, e.Kind)
			return
		}
		n.event(&e)
	}
}

func (n *node) event(e *Event) {
	w := n.w
	var s *sentMessage
	switch e.Kind {
	case EventSent, EventFailed, EventResponse:
		if e.ID == 0 || int(e.ID) > len(n.sent) || e.Tag != any(e.ID) {
			w.fail("node %d: event %d of message %d with tag %v", n.index, e.Kind, e.ID, e.Tag)
			return
		}
		s = n.sent[e.ID-1]
	}
	switch e.Kind {
	case EventUp:
		n.up = true
		if n.conn.Peer() == nil {
			w.fail("node %d is up with nobody", n.index)
		}
	case EventSent:
		if s.done || s.failed != nil {
			w.fail("node %d: message %d sent twice, or after it failed", n.index, e.ID)
		}
		s.done = true
	case EventFailed:
		if s.failed != nil || s.answered || s.done && s.out.Kind != Request {
			w.fail("node %d: message %d failed after it was complete: %v", n.index, e.ID, e.Err)
		}
		s.failed = e.Err
	case EventResponse:
		if s.answered || s.failed != nil || s.out.Kind != Request {
			w.fail("node %d: request %d answered twice, or after it failed", n.index, e.ID)
		}
		s.answered = true
		n.message(&e.Message)
	case EventMessage:
		n.message(&e.Message)
	case EventDown:
		n.down = e.Err
		n.gone = true
		if errors.Is(e.Err, ErrProtocol) {
			w.fail("node %d: %v", n.index, e.Err)
		}
	case EventCanceled:
		n.canceled++
	case EventRoom:
		n.room++
	case EventPath:
	}
}

// message checks one that arrived against what the peer sent.
func (n *node) message(m *Message) {
	w, peer := n.w, n.w.node[1-n.index]
	if m.ID == 0 || int(m.ID) > len(peer.sent) {
		w.fail("node %d: message %d was never sent", n.index, m.ID)
		return
	}
	s := peer.sent[m.ID-1]
	switch {
	case n.got[m.ID]:
		w.fail("node %d: message %d was delivered twice", n.index, m.ID)
	case m.Kind != s.out.Kind || m.Channel != s.out.Channel || m.InReplyTo != s.out.InReplyTo:
		w.fail("node %d: message %d has another head: %+v", n.index, m.ID, m)
	case len(m.Data) != s.size || !bytes.Equal(m.Data, content(s.size, peer.index, m.ID)):
		w.fail("node %d: message %d has other content", n.index, m.ID)
	case errors.Is(s.failed, ErrNotSent):
		w.fail("node %d: message %d arrived, although it was not sent", n.index, m.ID)
	case m.Channel != 0 && m.ID < n.order[m.Channel]:
		w.fail("node %d: message %d of channel %d came after %d", n.index, m.ID, m.Channel, n.order[m.Channel])
	}
	n.got[m.ID] = true
	n.order[m.Channel] = max(n.order[m.Channel], m.ID)
	if m.Kind == Request && !n.mute && w.rng.IntN(50) > 0 {
		at := w.now
		if w.rng.IntN(2) == 0 {
			at = at.Add(time.Duration(w.rng.IntN(int(time.Millisecond))))
		}
		n.replies = append(n.replies, reply{at, m.ID})
	}
	hold := time.Duration(0)
	if w.rng.IntN(4) == 0 {
		hold = time.Duration(w.rng.IntN(int(5 * time.Millisecond)))
	}
	if n.keep {
		hold = 1000 * time.Hour
	}
	n.holding = append(n.holding, held{w.now.Add(hold), *m})
}

// check looks at what must always hold.
func (n *node) check() {
	c := n.conn
	if c == nil {
		return
	}
	w, in, o := n.w, &c.in, &c.out
	switch {
	case in.held.Bytes > uint64(n.cfg.WindowBytes) || in.held.Messages > uint64(n.cfg.WindowMessages):
		w.fail("node %d holds %d messages of %d bytes", n.index, in.held.Messages, in.held.Bytes)
	case o.messages < 0 || o.bytes < 0 || o.unanswered < 0:
		w.fail("node %d counts %d messages of %d bytes, %d unanswered", n.index, o.messages, o.bytes, o.unanswered)
	case n.buffers > 2*n.cfg.WindowMessages+len(n.holding):
		w.fail("node %d has %d buffers", n.index, n.buffers)
	case c.acks.count > len(c.acks.ranges):
		w.fail("node %d keeps %d ranges", n.index, c.acks.count)
	}
	if peer := w.node[1-n.index].conn; peer != nil && c.stats.RxPackets > peer.stats.TxPackets {
		w.fail("node %d took %d packets of %d that were sent", n.index, c.stats.RxPackets, peer.stats.TxPackets)
	}
}

package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"blockd.dev/afxdp/link/simlink"
	"blockd.dev/internal/clock"
	"blockd.dev/internal/invariants"
)

// race is flows that share a network, and mostly a bottleneck.
type race struct {
	t     *testing.T
	net   *simlink.Network
	now   clock.Mono
	flows []flow
}

// flow is something that sends as fast as it may.
type flow interface {
	next(now clock.Mono) clock.Mono // when it wants to run
	run(now clock.Mono)
	bytes() int64 // delivered so far
}

func newRace(t *testing.T, seed uint64) *race {
	return &race{t: t, net: simlink.New(seed), now: clock.Mono(time.Second)}
}

// until runs all flows up to the network's time end.
func (r *race) until(end clock.Mono) {
	for r.now < end {
		next := r.net.Next()
		for _, f := range r.flows {
			next = min(next, f.next(r.now))
		}
		r.now = max(r.now, min(next, end))
		for _, f := range r.flows {
			f.run(r.now)
		}
	}
}

// shares returns how many bytes per second each flow gets between two times.
func (r *race) shares(warm, span time.Duration) []float64 {
	r.until(r.now.Add(warm))
	before := make([]int64, len(r.flows))
	for i, f := range r.flows {
		before[i] = f.bytes()
	}
	r.until(r.now.Add(span))
	rates := make([]float64, len(r.flows))
	for i, f := range r.flows {
		rates[i] = float64(f.bytes()-before[i]) / span.Seconds()
	}
	return rates
}

// pump is a connection whose client sends notices as fast as it may, and
// whose server releases them at once.
type pump struct {
	*world
	t    *testing.T
	size int // of a message
	got  int64
}

// pump adds a pump with messages of size bytes to the race, whose directions
// behave as there and back say.
func (r *race) pump(size int, there, back simlink.Faults, change func(cfg *Config)) *pump {
	w := newWorld(uint64(len(r.flows)+1), 0, func(_ int, cfg *Config) {
		cfg.WindowBytes, cfg.WindowMessages = 64<<20, 8192
		if change != nil {
			change(cfg)
		}
	})
	p := &pump{world: w, t: r.t, size: size}
	w.net, w.now, w.base, w.doomed = r.net, r.now, len(r.flows), true
	for i, n := range w.node {
		n.addrs = []netip.AddrPort{addr(i, w.base)}
		n.cfg.Alloc = nil
		r.net.Add(n.addrs[0])
	}
	r.net.Set(addr(0, w.base), addr(1, w.base), there)
	r.net.Set(addr(1, w.base), addr(0, w.base), back)
	p.dial()
	r.flows = append(r.flows, p)
	return p
}

func (p *pump) bytes() int64 { return p.got }

func (p *pump) next(now clock.Mono) clock.Mono {
	next := clock.Never
	for _, n := range p.node {
		if n.conn != nil {
			next = min(next, max(n.conn.Deadline(), now+1))
		}
	}
	return next
}

func (p *pump) run(now clock.Mono) {
	p.now = now
	for i, n := range p.node {
		n.arrive1()
		if n.conn == nil {
			continue
		}
		if n.conn.Deadline() <= now {
			n.conn.Tick(now)
		}
		for i == 0 && p.size > 0 {
			if _, err := n.conn.Send(now, Outgoing{Kind: Notice, Data: [][]byte{content(p.size, 0, 1)}}); err != nil {
				break
			}
		}
		for {
			e, ok := n.conn.NextEvent()
			if !ok {
				break
			}
			switch e.Kind {
			case EventMessage:
				p.got += int64(len(e.Message.Data))
				e.Message.Release()
			case EventDown:
				p.t.Fatalf("node %d went down: %v", i, e.Err)
			default:
			}
		}
		n.flush()
	}
}

// arrive1 is arrive without the model.
func (n *node) arrive1() {
	w := n.w
	for {
		data, _, ok := w.net.Receive(w.now, n.addrs[0])
		if !ok {
			return
		}
		if n.conn == nil {
			if c, err := NewServer(n.cfg, w.now, data, 0); err == nil {
				n.conn = c
			}
		} else {
			n.conn.Receive(w.now, 0, data)
		}
		w.net.Recycle(data)
	}
}

// goodput runs a pump of 4 KiB messages for a while, and returns how many
// bytes per second of virtual time arrived after the first fifth.
func goodput(t *testing.T, there, back simlink.Faults, span time.Duration) (float64, Stats) {
	t.Helper()
	r := newRace(t, 7)
	p := r.pump(4096, there, back, nil)
	for !p.node[0].conn.Stats().Up {
		r.until(r.now.Add(time.Millisecond))
	}
	return r.shares(span/5, span*4/5)[0], p.node[0].conn.Stats()
}

// few is all cases, or the first with the race detector: they take long, and
// happen in one goroutine.
func few[T any](cases ...T) []T {
	if invariants.Enabled {
		return cases[:1]
	}
	return cases
}

// Random loss of 1 % must leave 0.7 of the goodput, over the round trips that
// a datacentre has.
func TestRandomLossKeepsGoodput(t *testing.T) {
	for _, rtt := range few(10*time.Microsecond, 50*time.Microsecond, 500*time.Microsecond) {
		const rate = 1.25e9 // 10 Gbit/s
		wire := func(loss float64) simlink.Faults {
			return simlink.Faults{Delay: rtt / 2, Loss: loss, Through: &simlink.Bottleneck{BytesPerSecond: rate, QueueBytes: 1 << 20}}
		}
		clean, s := goodput(t, wire(0), simlink.Faults{Delay: rtt / 2}, 60*time.Millisecond)
		t.Logf("rtt %v, no loss: %.2f of the link; rtt %v, %d lost, %d spurious, window %d", rtt, clean/rate, s.SmoothedRTT, s.TxLost, s.TxSpurious, s.Window)
		lossy, s := goodput(t, wire(.01), simlink.Faults{Delay: rtt / 2, Loss: .01}, 60*time.Millisecond)
		t.Logf("rtt %v, 1 %% loss: %.2f of that; rtt %v, %d lost, %d spurious, %d probes, window %d", rtt, lossy/clean, s.SmoothedRTT, s.TxLost, s.TxSpurious, s.TxProbes, s.Window)
		if clean < .85*rate {
			t.Errorf("rtt %v: only %.2f of the link is used without loss", rtt, clean/rate)
		}
		if lossy < .7*clean {
			t.Errorf("rtt %v: 1 %% loss leaves %.2f of the goodput, want 0.7", rtt, lossy/clean)
		}
	}
}

// reno is a model of a TCP: additive increase by a segment per round trip,
// halving on loss, no pacing, an acknowledgement per segment. It repeats
// nothing, since only its rate matters.
type reno struct {
	net          *simlink.Network
	from, to     netip.AddrPort
	window       float64 // segments
	starting     bool
	sent, acked  uint64 // segments: number of the next, and the newest acknowledged plus 1
	open         map[uint64]bool
	recoverUntil uint64
	quietSince   clock.Mono
	got          int64
}

const renoSegment = 1448

func (r *race) reno(there, back simlink.Faults) {
	i := len(r.flows)
	f := &reno{net: r.net, from: addr(0, i), to: addr(1, i), window: 10, starting: true, open: map[uint64]bool{}, quietSince: r.now}
	r.net.Add(f.from)
	r.net.Add(f.to)
	r.net.Set(f.from, f.to, there)
	r.net.Set(f.to, f.from, back)
	r.flows = append(r.flows, f)
}

func (f *reno) bytes() int64 { return f.got }

const renoTimeout = 10 * time.Millisecond

func (f *reno) next(clock.Mono) clock.Mono { return f.quietSince.Add(renoTimeout) }

func (f *reno) run(now clock.Mono) {
	var segment [renoSegment]byte
	for {
		data, _, ok := f.net.Receive(now, f.to)
		if !ok {
			break
		}
		f.got += renoSegment
		f.net.Send(now, f.to, f.from, data[:8])
		f.net.Recycle(data)
	}
	for {
		data, _, ok := f.net.Receive(now, f.from)
		if !ok {
			break
		}
		f.ack(now, binary.BigEndian.Uint64(data))
		f.net.Recycle(data)
	}
	if now.Sub(f.quietSince) >= renoTimeout {
		clear(f.open)
		f.window, f.starting, f.quietSince = 2, true, now
	}
	for float64(len(f.open)) < f.window {
		binary.BigEndian.PutUint64(segment[:], f.sent)
		f.open[f.sent] = true
		f.sent++
		f.net.Send(now, f.from, f.to, segment[:])
	}
}

func (f *reno) ack(now clock.Mono, number uint64) {
	f.quietSince = now
	delete(f.open, number)
	f.acked = max(f.acked, number+1)
	if f.starting {
		f.window++
	} else {
		f.window += 1 / f.window
	}
	for n := range f.open {
		if n+3 < f.acked {
			delete(f.open, n)
			if n >= f.recoverUntil {
				f.window, f.starting, f.recoverUntil = max(2, f.window/2), false, f.sent
			}
		}
	}
}

// jain is the fairness index: 1 when all are equal, 1/n when one has all.
func jain(rates []float64) float64 {
	var sum, squares float64
	for _, r := range rates {
		sum += r
		squares += r * r
	}
	return sum * sum / (float64(len(rates)) * squares)
}

// Connections that share a bottleneck get equal shares, also those that come
// later, and whatever the buffer.
func TestConnectionsShareFairly(t *testing.T) {
	type link struct {
		rtt   time.Duration
		queue int64
		flows int
	}
	for _, c := range few(
		link{20 * time.Microsecond, 1 << 20, 2},
		link{100 * time.Microsecond, 256 << 10, 2},
		link{100 * time.Microsecond, 4 << 20, 4},
		link{500 * time.Microsecond, 1 << 20, 2},
	) {
		t.Run(fmt.Sprintf("%d over %v with %d KiB", c.flows, c.rtt, c.queue>>10), func(t *testing.T) {
			const rate = 1.25e9
			r := newRace(t, 3)
			pipe := &simlink.Bottleneck{BytesPerSecond: rate, QueueBytes: c.queue}
			for range c.flows {
				r.pump(65536, simlink.Faults{Delay: c.rtt / 2, Through: pipe}, simlink.Faults{Delay: c.rtt / 2}, nil)
				r.until(r.now.Add(5 * time.Millisecond))
			}
			rates := r.shares(100*time.Millisecond, 100*time.Millisecond)
			total := 0.0
			for _, x := range rates {
				total += x
			}
			t.Logf("shares %.3f, index %.3f, %.2f of the link, %d dropped", rates, jain(rates), total/rate, pipe.Dropped)
			if j := jain(rates); j < .9 {
				t.Errorf("index is %.3f, want 0.9", j)
			}
			if total < .8*rate {
				t.Errorf("%.2f of the link is used, want 0.8", total/rate)
			}
		})
	}
}

// Beside a TCP the connection takes no more than its share.
func TestConnectionYieldsToReno(t *testing.T) {
	for _, queue := range few[int64](64<<10, 512<<10) {
		const rate = 1.25e9
		r := newRace(t, 3)
		pipe := &simlink.Bottleneck{BytesPerSecond: rate, QueueBytes: queue}
		there, back := simlink.Faults{Delay: 50 * time.Microsecond, Through: pipe}, simlink.Faults{Delay: 50 * time.Microsecond}
		r.pump(65536, there, back, nil)
		r.until(r.now.Add(5 * time.Millisecond))
		r.reno(there, back)
		rates := r.shares(30*time.Millisecond, 100*time.Millisecond)
		share := rates[0] / (rates[0] + rates[1])
		t.Logf("queue of %d KiB: %.3f of what both get, together %.2f of the link", queue>>10, share, (rates[0]+rates[1])/rate)
		if share > .55 {
			t.Errorf("queue of %d KiB: the connection takes %.2f beside a Reno flow, want a half at most", queue>>10, share)
		}
		if rates[0] < rate/1000 {
			t.Errorf("queue of %d KiB: the connection starves", queue>>10)
		}
	}
}

// A window that is all but closed, as in a drain, is fewer packets than are
// acknowledged without delay. The sender asks for it, or it would lose the delay
// each time.
func TestASmallWindowDoesNotWaitForAcknowledgements(t *testing.T) {
	const rate = 1.25e9
	r := newRace(t, 7)
	there := simlink.Faults{Delay: 25 * time.Microsecond, Through: &simlink.Bottleneck{BytesPerSecond: rate, QueueBytes: 1 << 20}}
	p := r.pump(4096, there, simlink.Faults{Delay: 25 * time.Microsecond}, func(cfg *Config) { cfg.DatagramMax = 1472 })
	got := r.shares(100*time.Millisecond, 200*time.Millisecond)[0]
	s := p.node[0].conn.Stats()
	t.Logf("%.2f of the link is used, with a window of %d bytes and a round trip of %v", got/rate, s.Window, s.SmoothedRTT)
	if got < .85*rate {
		t.Errorf("only %.2f of the link is used", got/rate)
	}
}

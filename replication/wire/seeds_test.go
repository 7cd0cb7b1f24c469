package wire

import (
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/afxdp/link/simlink"
	"blockd.dev/internal/clock"
	"blockd.dev/internal/invariants"
)

var seedFlag = flag.Uint64("seed", 0, "run only this seed of TestSeeds, and print what happens")

// seedCount is how many seeds TestSeeds runs: BLOCKD_WIRE_SEEDS, or few, and
// fewer with the race detector, which has no races to find in one goroutine.
func seedCount(t *testing.T) uint64 {
	s := os.Getenv("BLOCKD_WIRE_SEEDS")
	if s == "" && invariants.Enabled {
		return 60
	}
	if s == "" {
		return 300
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		t.Fatalf("BLOCKD_WIRE_SEEDS is %q, must be a number above 0", s)
	}
	return n
}

// TestSeeds runs one conversation per seed over a network that is bad in a
// way of the seed's choosing, and holds it against the promises of the package
// comment. All cores share the seeds.
func TestSeeds(t *testing.T) {
	if *seedFlag != 0 {
		w := runSeed(*seedFlag, mutant{})
		for _, n := range w.node {
			t.Logf("node %d: %d messages sent, down: %v", n.index, len(n.sent), n.down)
			if n.conn != nil {
				t.Logf("%+v", n.conn.Stats())
			}
		}
		t.Logf("network: %+v, %v", w.net.Counts(), time.Duration(w.now))
		if w.fault != "" {
			t.Fatal(w.fault)
		}
		return
	}
	count := seedCount(t)
	var sent, lost, died atomic.Uint64
	var cores sync.WaitGroup
	n := uint64(runtime.GOMAXPROCS(0))
	for first := range n {
		cores.Go(func() {
			for seed := first + 1; seed <= count && !t.Failed(); seed += n {
				w := runSeed(seed, mutant{})
				if w.fault != "" {
					t.Errorf("seed %d: %s\nreplay: go test ./replication/wire -run TestSeeds -seed %d -v", seed, w.fault, seed)
					return
				}
				c := w.net.Counts()
				sent.Add(c.Sent)
				lost.Add(c.Lost)
				if w.node[0].down != nil && !errors.Is(w.node[0].down, ErrClosed) {
					died.Add(1)
				}
			}
		})
	}
	cores.Wait()
	t.Logf("%d seeds: %d datagrams, %d lost; %d connections died of the network", count, sent.Load(), lost.Load(), died.Load())
	if died.Load()*4 > count {
		t.Errorf("%d of %d connections died: the seeds prove little", died.Load(), count)
	}
}

// runSeed runs the conversation of one seed to its end.
func runSeed(seed uint64, m mutant) *world {
	rng := rand.New(rand.NewPCG(seed, 2))
	paths := 1 + rng.IntN(2)
	w := newWorld(seed, paths, func(_ int, cfg *Config) {
		cfg.WindowMessages = 1 << rng.IntN(8)
		cfg.SendMessages = 1 + rng.IntN(100)
		cfg.Requests = 1 + rng.IntN(100)
		cfg.DatagramMax = []int{1200, 1472, 3700, 8900}[rng.IntN(4)]
		cfg.RekeyPackets = 16 + uint64(rng.IntN(200))
		cfg.DeadAfter = []time.Duration{100, 400, 1000}[rng.IntN(3)] * time.Millisecond
		cfg.Hints = seed%2 == 0
	})
	w.weather(rng)
	for i, n := range w.node {
		n.clock = simlink.NewClock(time.Duration(rng.IntN(1000))*time.Second, float64(rng.IntN(100)-50)/1e5)
		n.tickets = rng.IntN(60)
		n.nextOp = w.now.Add(time.Duration(rng.IntN(int(time.Millisecond))))
		_ = i
	}
	w.dial()
	w.node[0].conn.mutant = m
	end := w.now.Add(20 * time.Second)
	storm := w.now.Add(time.Duration(rng.IntN(40)) * time.Millisecond)
	for w.fault == "" && w.now < end && !w.finished() {
		if n := w.node[1]; n.conn != nil {
			n.conn.mutant = m
		}
		if !w.step(min(end, storm)) && w.now == storm {
			storm = w.storm(rng, end)
		}
	}
	w.settle(end)
	return w
}

// weather picks what is wrong with the network from the start.
func (w *world) weather(rng *rand.Rand) {
	bad := func(p float64) float64 {
		if rng.IntN(2) == 0 {
			return 0
		}
		return rng.Float64() * p
	}
	for p := range w.node[0].addrs {
		for from := range 2 {
			f := simlink.Faults{
				Loss: bad(.3), Duplicate: bad(.2), Reorder: bad(.2), Corrupt: bad(.1),
				Delay:     time.Duration(5+rng.IntN(200)) * time.Microsecond,
				ReorderBy: time.Duration(rng.IntN(500)) * time.Microsecond,
			}
			if rng.IntN(3) == 0 {
				f.Jitter = time.Duration(1+rng.IntN(200)) * time.Microsecond
			}
			if rng.IntN(3) == 0 {
				f.MTU = 1200 + rng.IntN(8000)
			}
			if rng.IntN(3) == 0 {
				f.Through = &simlink.Bottleneck{BytesPerSecond: int64(1+rng.IntN(1000)) * 1e6, QueueBytes: int64(20+rng.IntN(500)) << 10}
			}
			w.doomed = w.doomed || f.Loss > .15
			w.net.Set(addr(from, p), addr(1-from, p), f)
		}
	}
}

// storm changes something while messages are under way: a direction is cut or
// comes back, a path goes or returns, its MTU shrinks, a clock jumps. It returns when the next one comes.
func (w *world) storm(rng *rand.Rand, end clock.Mono) clock.Mono {
	from, p := rng.IntN(2), rng.IntN(len(w.node[0].addrs))
	n := w.node[from]
	f := w.net.Get(addr(from, p), addr(1-from, p))
	switch rng.IntN(6) {
	case 0:
		f.Cut = true
		w.doomed = true
	case 1, 2:
		f.Cut = false
	case 3:
		f.MTU = 1200 + rng.IntN(4000)
	case 4:
		n.clock.Jump(w.now, time.Duration(rng.IntN(int(3*time.Second))))
		w.doomed = true
	case 5:
		if n.conn != nil && len(n.addrs) > 1 {
			n.conn.PathDown(n.local(), PathID(p))
			if rng.IntN(2) == 0 {
				n.addPaths()
			}
			w.doomed = true
		}
	}
	w.net.Set(addr(from, p), addr(1-from, p), f)
	if rng.IntN(4) == 0 {
		w.mend()
		return end
	}
	return w.now.Add(time.Duration(rng.IntN(20)) * time.Millisecond)
}

// mend makes the network work again, as badly as it did.
func (w *world) mend() {
	for _, n := range w.node {
		for p := range n.addrs {
			f := w.net.Get(addr(n.index, p), addr(1-n.index, p))
			f.Cut = false
			w.net.Set(addr(n.index, p), addr(1-n.index, p), f)
		}
		if n.conn != nil {
			n.addPaths()
		}
	}
}

// app does what n's application wants to do now.
func (n *node) app() {
	w := n.w
	if n.conn == nil {
		if n.nextOp <= w.now {
			n.nextOp = w.now.Add(time.Millisecond)
		}
		return
	}
	keep := n.holding[:0]
	for _, h := range n.holding {
		if h.until > w.now {
			keep = append(keep, h)
			continue
		}
		h.m.Release()
	}
	n.holding = keep
	later := n.replies[:0]
	for _, r := range n.replies {
		if r.at > w.now {
			later = append(later, r)
			continue
		}
		if n.down != nil {
			continue
		}
		_, err := n.send(Outgoing{Kind: Response, InReplyTo: r.to, Channel: uint16(w.rng.IntN(3))}, w.size())
		if errors.Is(err, ErrQueueFull) {
			later = append(later, reply{w.now.Add(200 * time.Microsecond), r.to})
		}
	}
	n.replies = later
	if n.nextOp > w.now {
		return
	}
	n.nextOp = clock.Never
	if n.tickets == 0 || n.down != nil {
		return
	}
	n.nextOp = w.now.Add(time.Duration(w.rng.IntN(int(500 * time.Microsecond))))
	if w.rng.IntN(10) == 0 && len(n.sent) > 0 {
		n.conn.Cancel(n.local(), MessageID(1+w.rng.IntN(len(n.sent))))
	}
	out := Outgoing{Kind: Notice, Channel: uint16(w.rng.IntN(4))}
	if w.rng.IntN(2) == 0 {
		out.Kind = Request
		out.Deadline = n.local().Add(5 * time.Second)
	}
	if w.rng.IntN(10) == 0 {
		out.Deadline = n.local().Add(time.Duration(1 + w.rng.IntN(int(5*time.Millisecond))))
	}
	out.Hint = uint64(len(n.sent) % 4) // every fourth has none
	if _, err := n.send(out, w.size()); err == nil {
		n.tickets--
	}
}

// size is that of a message: often 4 KiB, sometimes nothing, seldom long.
func (w *world) size() int {
	switch w.rng.IntN(12) {
	case 0:
		return 0
	case 1, 2, 3:
		return w.rng.IntN(200)
	case 4:
		return w.rng.IntN(1 << 16)
	case 5:
		if w.rng.IntN(8) == 0 {
			return MessageMax - w.rng.IntN(2)
		}
	}
	return 4096
}

// finished tells that nobody has anything left to do or to wait for.
func (w *world) finished() bool {
	for _, n := range w.node {
		if n.conn == nil {
			if w.node[0].down != nil {
				continue
			}
			return false
		}
		if n.down == nil && (n.tickets > 0 || n.conn.out.messages > 0 || n.conn.out.unanswered > 0) || len(n.holding)+len(n.replies) > 0 {
			return false
		}
	}
	return true
}

// settle lets the network work, and looks whether all promises were kept.
func (w *world) settle(end clock.Mono) {
	if w.fault != "" {
		return
	}
	if !w.finished() {
		w.fail("not finished: %s", w.describe())
		return
	}
	w.mend()
	quiet := w.now.Add(2 * time.Second)
	for w.step(quiet) {
	}
	before := w.net.Counts().Sent
	for quiet = w.now.Add(5 * time.Second); w.step(quiet); {
	}
	if sent := w.net.Counts().Sent - before; sent > 40 && w.fault == "" {
		w.fail("%d datagrams in 5 s in which nothing was to be said", sent)
	}
	for _, n := range w.node {
		n.settled()
	}
}

func (w *world) describe() string {
	s := ""
	for _, n := range w.node {
		s += "node " + strconv.Itoa(n.index)
		if n.conn == nil {
			s += " has no connection; "
			continue
		}
		s += " " + strconv.Itoa(n.tickets) + " to send, " + strconv.Itoa(n.conn.out.messages) + " queued, " +
			strconv.Itoa(n.conn.out.unanswered) + " unanswered, " + strconv.Itoa(len(n.holding)) + " held, deadline in " +
			n.conn.Deadline().Sub(n.local()).String() + "; "
	}
	return s
}

// settled checks n after everything was said.
func (n *node) settled() {
	w, peer := n.w, n.w.node[1-n.index]
	for i, s := range n.sent {
		id := MessageID(i + 1)
		switch {
		case !s.done && s.failed == nil:
			w.fail("node %d: message %d was neither sent nor failed", n.index, id)
		case s.out.Kind == Request && !s.answered && s.failed == nil:
			w.fail("node %d: request %d was neither answered nor failed", n.index, id)
		case s.done && peer.down == nil && !peer.got[id] && !peer.refusedAnswer(s):
			w.fail("node %d: message %d was acknowledged and never delivered", n.index, id)
		}
	}
	if n.down != nil && !w.doomed {
		w.fail("node %d: the connection ended without need: %v", n.index, n.down)
	}
	if n.conn == nil {
		return
	}
	if n.buffers != 0 && (n.down != nil || peer.down == nil) {
		w.fail("node %d: %d buffers were not released", n.index, n.buffers)
	}
	if n.down == nil && peer.down == nil {
		c := n.conn
		if c.out.byID.count != 0 || c.in.partial.count != 0 || c.in.held.Messages != 0 || c.pieces.used > 2 {
			w.fail("node %d: left over: %d outgoing, %d partial, %d held, %d pieces", n.index,
				c.out.byID.count, c.in.partial.count, c.in.held.Messages, c.pieces.used)
		}
	}
}

// refusedAnswer tells that s answers a request for which n no longer waited.
func (n *node) refusedAnswer(s *sentMessage) bool {
	return s.out.Kind == Response && n.sent[s.out.InReplyTo-1].failed != nil
}

// The same seed is the same conversation, to the last datagram.
func TestSeedsAreReplayable(t *testing.T) {
	for seed := uint64(1); seed <= 30; seed++ {
		one, two := runSeed(seed, mutant{}), runSeed(seed, mutant{})
		if one.net.Counts() != two.net.Counts() || one.now != two.now || one.steps != two.steps {
			t.Errorf("seed %d: %+v at %v, and then %+v at %v", seed, one.net.Counts(), one.now, two.net.Counts(), two.now)
		}
		for i := range one.node {
			a, b := one.node[i].conn, two.node[i].conn
			if (a == nil) != (b == nil) || a != nil && a.Stats() != b.Stats() {
				t.Errorf("seed %d, node %d: other counters", seed, i)
			}
		}
	}
}

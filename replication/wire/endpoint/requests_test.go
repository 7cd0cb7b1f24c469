package endpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"blockd.dev/internal/adaptive"
	"blockd.dev/internal/invariants"
	"blockd.dev/replication/wire"
)

func TestRequestsOfEverySizeInEveryMode(t *testing.T) {
	for name, poll := range modes {
		t.Run(name, func(t *testing.T) {
			a, _ := udpPair(t, func(c *Config) { c.Poll = poll })
			for _, size := range []int{0, 1, 64, 1200, 4096, 9000, 65536, wire.MessageMax} {
				ask(t, a.Peer("b"), size)
			}
		})
	}
}

// Many goroutines ask both ways at the same time.
func TestManyRequestsAtOnce(t *testing.T) {
	a, b := udpPair(t, nil)
	b.await(t, 0, PeerUp)
	var all sync.WaitGroup
	for g := range 32 {
		all.Go(func() {
			peer := a.Peer("b")
			if g%2 == 1 {
				peer = b.Peer("a")
			}
			for i := range 100 {
				ask(t, peer, (g*977+i*131)%9000)
			}
		})
	}
	all.Wait()
}

// flight keeps a number of calls under way: each Done starts the next.
type flight struct {
	t        testing.TB
	peer     *Peer
	left     atomic.Int64
	underWay sync.WaitGroup
}

func fly(t testing.TB, peer *Peer, depth, total, size int) {
	t.Helper()
	f := &flight{t: t, peer: peer}
	f.left.Store(int64(total - depth))
	f.underWay.Add(depth)
	data := make([]byte, size)
	for range depth {
		c := &Call{Data: [][]byte{data}, Done: f.landed}
		if err := peer.Go(c); err != nil {
			t.Fatal(err)
		}
	}
	f.underWay.Wait()
}

func (f *flight) landed(c *Call) {
	if c.Err != nil {
		f.t.Errorf("call: %v", c.Err)
		f.underWay.Done()
		return
	}
	c.Response.Release()
	if f.left.Add(-1) < 0 {
		f.underWay.Done()
		return
	}
	if err := f.peer.Go(c); err != nil {
		f.t.Errorf("next call: %v", err)
		f.underWay.Done()
	}
}

func TestCallsFromDone(t *testing.T) {
	for name, poll := range modes {
		t.Run(name, func(t *testing.T) {
			a, _ := udpPair(t, func(c *Config) { c.Poll = poll })
			a.await(t, 0, PeerUp)
			fly(t, a.Peer("b"), 1, 200, 4096)
			fly(t, a.Peer("b"), 32, 2000, 4096)
			fly(t, a.Peer("b"), 4, 20, wire.MessageMax)
		})
	}
}

// A request and its answer allocate nothing on either side in steady state.
func TestCallsDoNotAllocate(t *testing.T) {
	if invariants.Enabled {
		t.Log("counted without -race only: the race detector allocates")
		return
	}
	answer := [][]byte{make([]byte, 64)}
	a, _ := udpPair(t, func(c *Config) {
		c.Handler = func(r *Request) { _ = r.Reply(answer) }
		c.Wire.Alloc = newPool().alloc
	})
	a.await(t, 0, PeerUp)
	fly(t, a.Peer("b"), 32, 20000, 4096) // everything has been used then
	const perRun = 1000
	n := testing.AllocsPerRun(5, func() { fly(t, a.Peer("b"), 16, perRun, 4096) })
	// fly itself makes its calls; timers of the runtime and the like are noise.
	if perCall := (n - 3*16) / perRun; perCall > 0.01 {
		t.Errorf("%.3f allocations per call (%v in a run of %d)", perCall, n, perRun)
	}
}

// pool is memory for messages that is used again.
type pool struct {
	mu   sync.Mutex
	free []*pooled
}

type pooled struct {
	pool *pool
	b    []byte
}

func newPool() *pool { return &pool{} }

func (p *pool) alloc(n int) wire.Buffer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(p.free) - 1; last >= 0 && n <= 4096 {
		b := p.free[last]
		p.free = p.free[:last]
		return b
	}
	return &pooled{p, make([]byte, max(n, 4096))}
}

func (b *pooled) Bytes() []byte { return b.b }

func (b *pooled) Release() {
	b.pool.mu.Lock()
	defer b.pool.mu.Unlock()
	b.pool.free = append(b.pool.free, b)
}

// keeper is a handler that keeps requests until it is told to let go.
type keeper struct {
	mu   sync.Mutex
	kept []*Request
	came chan struct{}
}

func newKeeper() *keeper { return &keeper{came: make(chan struct{}, 10000)} }

func (k *keeper) handle(r *Request) {
	k.mu.Lock()
	k.kept = append(k.kept, r)
	k.mu.Unlock()
	k.came <- struct{}{}
}

// letGo answers everything kept so far.
func (k *keeper) letGo() int {
	k.mu.Lock()
	kept := k.kept
	k.kept = nil
	k.mu.Unlock()
	for _, r := range kept {
		_ = r.Reply(nil)
	}
	return len(kept)
}

func TestCancelAndDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper()
		a, b := simulatedPair(t, func(c *Config) { c.Handler = k.handle })
		a.await(t, 0, PeerUp)

		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-k.came; cancel() }()
		if _, err := a.Peer("b").Call(ctx, 0, []byte("x")); !errors.Is(err, context.Canceled) || !errors.Is(err, wire.ErrCanceled) {
			t.Errorf("canceled while the peer had it: %v", err)
		}
		ctx, cancel = context.WithTimeout(context.Background(), 30*time.Millisecond)
		defer cancel()
		start := time.Now()
		if _, err := a.Peer("b").Call(ctx, 0, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after its deadline: %v", err)
		}
		if d := time.Since(start); d > 31*time.Millisecond {
			t.Errorf("a deadline of 30 ms took %v", d)
		}
		<-k.came
		done := make(chan error, 1)
		call := &Call{Timeout: 20 * time.Millisecond, Done: func(c *Call) { done <- c.Err }}
		if err := a.Peer("b").Go(call); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, wire.ErrDeadline) {
			t.Errorf("a call with a timeout: %v", err)
		}
		call = &Call{Done: func(c *Call) { done <- c.Err }}
		if err := a.Peer("b").Go(call); err != nil {
			t.Fatal(err)
		}
		<-k.came
		<-k.came
		call.Cancel()
		if err := <-done; !errors.Is(err, wire.ErrCanceled) {
			t.Errorf("a call canceled: %v", err)
		}
		k.letGo() // answers that nobody waits for do no harm
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-k.came:
					k.letGo()
				case <-stop:
					return
				}
			}
		}()
		ctx, cancel = context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := a.Peer("b").Call(ctx, 0); err != nil {
			t.Errorf("after all that: %v", err)
		}
		close(stop)
		a.Close()
		b.Close()
	})
}

// A peer whose handler keeps what it gets is asked no more than its window
// holds, and others go on.
func TestSlowReceiverStopsOnlyItsOwnRequests(t *testing.T) {
	k := newKeeper()
	a, b := udpPair(t, func(c *Config) { c.Wire.WindowMessages = 16 })
	slow := open(t, "slow", func(c *Config) {
		c.Handler = k.handle
		c.Wire.WindowMessages = 16
	}, udp(t, "127.0.0.1:0"))
	a.Peer("slow", slow.addr)
	_, from := a.await(t, 0, PeerUp)
	a.await(t, from, PeerUp)

	var done sync.WaitGroup
	for range 100 {
		done.Add(1)
		call := &Call{Data: [][]byte{make([]byte, 4096)}, Done: func(c *Call) {
			if c.Err != nil {
				t.Errorf("call to the slow peer: %v", c.Err)
			}
			c.Response.Release()
			done.Done()
		}}
		if err := a.Peer("slow").Go(call); err != nil {
			t.Fatal(err)
		}
	}
	for range 14 { // the last two of the window are for answers
		<-k.came
	}
	for range 200 {
		ask(t, a.Peer("b"), 4096)
		ask(t, b.Peer("a"), 4096)
	}
	if n := len(k.came); n != 0 {
		t.Errorf("%d requests came beyond the window of 16", n)
	}
	answered := k.letGo()
	for answered < 100 {
		<-k.came
		answered += k.letGo()
	}
	done.Wait()
}

// Notices of one channel arrive in order, and Done tells when the peer has them.
func TestNoticesKeepTheOrderOfTheirChannel(t *testing.T) {
	const n = 500
	got := make(chan uint32, n)
	a, _ := udpPair(t, func(c *Config) {
		c.Handler = func(r *Request) {
			got <- binary.BigEndian.Uint32(r.Message.Data)
			r.Release()
		}
	})
	a.await(t, 0, PeerUp)
	var sent sync.WaitGroup
	for i := range uint32(n) {
		data := bytes.Repeat(binary.BigEndian.AppendUint32(nil, i), 1+int(i*i)%2000)
		sent.Add(1)
		call := &Call{Channel: 7, Notice: true, Data: [][]byte{data}, Done: func(c *Call) {
			if c.Err != nil {
				t.Errorf("notice: %v", c.Err)
			}
			sent.Done()
		}}
		for {
			changed := a.Peer("b").change()
			err := a.Peer("b").Go(call)
			if err == nil {
				break
			}
			if !errors.Is(err, wire.ErrQueueFull) {
				t.Fatal(err)
			}
			<-changed
		}
	}
	sent.Wait()
	for i := range uint32(n) {
		if g := <-got; g != i {
			t.Fatalf("notice %d came in place %d", g, i)
		}
	}
}

// When the send queue is full, callers wait, and answers go to the backlog.
func TestFullQueuesLoseNothing(t *testing.T) {
	a, _ := udpPair(t, func(c *Config) { c.Wire.SendMessages = 2 })
	a.await(t, 0, PeerUp)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 20 {
				ask(t, a.Peer("b"), 5000)
			}
		})
	}
	all.Wait()
}

// An answer that is too long, and had to wait for room before that was seen, does not
// keep those behind it from being sent.
func TestTooLongAnswerHoldsNobodyUp(t *testing.T) {
	const n, bad = 12, 6
	got := make(chan *Request, n)
	a, _ := udpPair(t, func(c *Config) {
		c.Wire.SendMessages = 2
		c.Handler = func(r *Request) { got <- r }
	})
	a.await(t, 0, PeerUp)
	answered := make(chan error, n)
	for i := range n {
		call := &Call{Data: [][]byte{{byte(i)}}, Done: func(c *Call) {
			if c.Err == nil {
				c.Response.Release()
			}
			answered <- c.Err
		}}
		for {
			changed := a.Peer("b").change()
			err := a.Peer("b").Go(call)
			if err == nil {
				break
			}
			if !errors.Is(err, wire.ErrQueueFull) {
				t.Fatal(err)
			}
			<-changed
		}
	}
	refused := make(chan error, n)
	requests := make([]*Request, n)
	for i := range requests {
		requests[i] = <-got
	}
	for i, r := range requests {
		data := make([]byte, 200_000) // two of them fill the queue
		if i == bad {
			data = make([]byte, wire.MessageMax+1)
		}
		r.Done = func(r *Request, err error) {
			if err != nil {
				refused <- err
			}
		}
		if err := r.Reply([][]byte{data}); err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
	}
	for i := range n - 1 {
		select {
		case err := <-answered:
			if err != nil {
				t.Errorf("a call: %v", err)
			}
		case <-time.After(patience):
			t.Fatalf("%d of %d calls were answered", i, n-1)
		}
	}
	if err := <-refused; !errors.Is(err, wire.ErrTooLong) {
		t.Errorf("the handler was told %v, want that its answer is too long", err)
	}
}

func TestWhatCannotBeSentIsRefused(t *testing.T) {
	a, _ := udpPair(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := a.Peer("b").Call(ctx, 0, make([]byte, wire.MessageMax+1)); !errors.Is(err, wire.ErrTooLong) {
		t.Errorf("too long: %v", err)
	}
	if _, err := a.Peer("b").Call(ctx, 1024, nil); err == nil {
		t.Error("channel 1024 exists")
	}
	if err := a.Peer("nobody").Go(&Call{}); !errors.Is(err, ErrNotConnected) {
		t.Errorf("to a node without an address: %v", err)
	}
	short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := a.Peer("nobody").Call(short, 0); !errors.Is(err, wire.ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("to a node without an address, waiting: %v", err)
	}
	a.Close()
	if _, err := a.Peer("b").Call(ctx, 0); !errors.Is(err, ErrStopped) {
		t.Errorf("after Close: %v", err)
	}
}

// An idle connection makes pumps turn for its keep-alive only.
func TestIdleCostsNothing(t *testing.T) {
	a, b := udpPair(t, func(c *Config) { c.Poll.Mode = adaptive.Adaptive })
	ask(t, a.Peer("b"), 4096)
	turns := func() (n uint64) {
		for _, e := range []*node{a, b} {
			for _, l := range e.Stats().Links {
				n += l.Turns
			}
		}
		return n
	}
	settled := turns()
	for quiet := 0; quiet < 3; { // path MTU probes and the like come to an end
		time.Sleep(100 * time.Millisecond) // sleep: that time passes without turns is what is tested
		if now := turns(); now-settled > 4 {
			settled, quiet = now, 0
		} else {
			quiet++
		}
		if settled > 1e6 {
			t.Fatal("there is no end to it")
		}
	}
	before, start := turns(), time.Now()
	time.Sleep(time.Second) // sleep: that time passes without turns is what is tested
	n := turns() - before
	if took := time.Since(start); float64(n) > 20*took.Seconds() { // on a busy machine it is more than a second
		t.Errorf("%d turns in %v of two idle nodes", n, took)
	}
}

func BenchmarkCall(b *testing.B) {
	for _, depth := range []int{1, 32} {
		for name, poll := range modes {
			b.Run(fmt.Sprintf("%s/%d", name, depth), func(b *testing.B) {
				answer := [][]byte{make([]byte, 64)}
				x, _ := udpPair(b, func(c *Config) {
					c.Poll = poll
					c.Handler = func(r *Request) { _ = r.Reply(answer) }
					c.Wire.Alloc = newPool().alloc
				})
				x.await(b, 0, PeerUp)
				b.ReportAllocs()
				b.ResetTimer()
				fly(b, x.Peer("b"), depth, max(b.N, depth), 4096)
			})
		}
	}
}

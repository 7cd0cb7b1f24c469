package sockio

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/internal/adaptive"
	"blockd.dev/internal/turn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a Conn and the plain socket at its other end.
func pair(t testing.TB, cfg Config) (*Conn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	own, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(own.(*net.TCPConn), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	return c, peer.(*net.TCPConn)
}

type counter struct{ n atomic.Int64 }

func (c *counter) Sent() { c.n.Add(1) }

func TestReadvFillsBuffersInOrderAndReportsEnd(t *testing.T) {
	c, peer := pair(t, Config{})
	if _, err := peer.Write([]byte("headerpayload")); err != nil {
		t.Fatal(err)
	}
	head, rest := make([]byte, 6), make([]byte, 64)
	n, err := c.Readv([][]byte{head, rest})
	if err != nil || n != 13 || string(head) != "header" || string(rest[:7]) != "payload" {
		t.Fatalf("read %d %q %q: %v", n, head, rest[:7], err)
	}
	peer.Close()
	if _, err := c.Read(rest); err != io.EOF {
		t.Fatalf("after the peer closed: %v, want EOF", err)
	}
}

func TestReadDeadlineAndCloseEndAParkedRead(t *testing.T) {
	c, _ := pair(t, Config{})
	if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read past its deadline: %v", err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() { _, err := c.Read(make([]byte, 1)); got <- err }()
	c.Close()
	if err := <-got; !errors.Is(err, net.ErrClosed) {
		t.Fatalf("read of a closed connection: %v", err)
	}
}

// Units appended by many goroutines, with and without data, arrive whole, and
// each Sent is called once.
func TestAppendKeepsUnitsWholeUnderConcurrency(t *testing.T) {
	c, peer := pair(t, Config{})
	const writers, units, unit = 8, 300, 4 + 3000 + 2
	var sent counter
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			data := bytes.Repeat([]byte{byte(w)}, 3000)
			for range units {
				head := []byte{byte(w), byte(w), byte(w), byte(w)}
				cut := rnd.IntN(len(data))
				c.Append(head, [][]byte{data[:cut], data[cut:]}, []byte{byte(w), byte(w)}, &sent)
				c.Flush()
			}
		}()
	}
	buf := make([]byte, unit)
	for range writers * units {
		if _, err := io.ReadFull(peer, buf); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(buf, bytes.Repeat(buf[:1], unit)) {
			t.Fatal("units are interleaved on the wire")
		}
	}
	wg.Wait()
	if err := c.Drain(); err != nil {
		t.Fatal(err)
	}
	if got := sent.n.Load(); got != writers*units {
		t.Fatalf("Sent was called %d times, want %d", got, writers*units)
	}
}

func TestCorkJoinsOutputIntoOneWrite(t *testing.T) {
	c, peer := pair(t, Config{})
	c.Cork()
	for range 50 {
		c.Append([]byte("0123456789"), nil, nil, nil)
		c.Flush()
	}
	if got := c.Stats().Writes; got != 0 {
		t.Fatalf("%d writes while corked", got)
	}
	if got := len(c.tx.pending.iov); got > 8 {
		t.Fatalf("50 headers in a row take %d segments: they are not joined", got)
	}
	c.Uncork()
	if _, err := io.ReadFull(peer, make([]byte, 500)); err != nil {
		t.Fatal(err)
	}
	if got := c.Stats().Writes; got != 1 {
		t.Fatalf("%d writes after Uncork, want 1", got)
	}
}

// Output beyond what is worth a write goes out while corked, so that the peer
// works on the front of a long batch.
func TestCorkLetsGoOfALongBatch(t *testing.T) {
	c, peer := pair(t, Config{})
	var sent counter
	data := [][]byte{make([]byte, corkBytes/4)}
	c.Cork()
	for range 4 {
		if got := c.Stats().Writes; got != 0 {
			t.Fatalf("%d writes of less than the cork holds", got)
		}
		c.Append([]byte("h"), data, nil, &sent)
		c.Flush()
	}
	c.Append([]byte("rest"), nil, nil, nil)
	c.Flush()
	if _, err := io.ReadFull(peer, make([]byte, corkBytes+4)); err != nil {
		t.Fatal(err)
	}
	c.tx.mu.Lock()
	for c.tx.writing { // the writer that a full socket started is about to end
		c.tx.roomy.Wait()
	}
	c.tx.mu.Unlock()
	if got := c.QueuedBytes(); got != len("rest") {
		t.Fatalf("%d bytes are held back, want %d", got, len("rest"))
	}
	c.Uncork()
	if _, err := io.ReadFull(peer, make([]byte, len("rest"))); err != nil {
		t.Fatal(err)
	}
}

// A socket that is polled for ever would not see its end.
func TestBusyPollingIsRefused(t *testing.T) {
	if _, err := New(nil, Config{Poll: adaptive.Config{Mode: adaptive.Busy}}); err == nil {
		t.Fatal("mode busy was taken")
	}
}

// A peer that doesn't read fills its own queue: Append and Flush go on
// without blocking, Congested tells, and all arrives when it reads again.
func TestSlowPeerNeverBlocksFlush(t *testing.T) {
	c, peer := pair(t, Config{OutHighBytes: 1 << 20})
	var sent counter
	data := bytes.Repeat([]byte("x"), 64<<10)
	units := 0
	for !c.Congested() {
		c.Append([]byte("h"), [][]byte{data}, nil, &sent)
		c.Flush()
		units++
	}
	room := make(chan error)
	go func() { room <- c.WaitRoom() }()
	n, err := io.CopyN(io.Discard, peer, int64(units*(len(data)+1)))
	if err != nil {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	if err := <-room; err != nil {
		t.Fatal(err)
	}
	if err := c.Drain(); err != nil {
		t.Fatal(err)
	}
	if got := sent.n.Load(); got != int64(units) {
		t.Fatalf("Sent was called %d times, want %d", got, units)
	}
}

func TestCloseReleasesEverySender(t *testing.T) {
	c, _ := pair(t, Config{OutHighBytes: 1 << 20})
	var sent counter
	data := make([]byte, 64<<10)
	units := int64(0)
	for !c.Congested() {
		c.Append(nil, [][]byte{data}, nil, &sent)
		c.Flush()
		units++
	}
	c.Close()
	if err := c.Drain(); err == nil {
		t.Fatal("Drain of a closed connection succeeded")
	}
	c.Append([]byte("late"), [][]byte{data}, nil, &sent)
	c.tx.mu.Lock()
	for c.tx.writing {
		c.tx.roomy.Wait()
	}
	c.tx.mu.Unlock()
	if got := sent.n.Load(); got != units+1 {
		t.Fatalf("Sent was called %d times, want %d", got, units+1)
	}
}

// echo serves size-byte requests with one response each until the peer
// closes, the way a frontend does.
func echo(c *Conn, size int, data [][]byte, s Sender) {
	buf := make([]byte, 256<<10)
	bufs := [][]byte{buf}
	have := 0
	for {
		bufs[0] = buf[have:]
		n, err := c.Readv(bufs)
		if err != nil {
			return
		}
		c.Cork()
		for have += n; have >= size; have -= size {
			c.Append(buf[:24], data, nil, s)
		}
		c.Uncork()
	}
}

func TestServingDoesNotAllocate(t *testing.T) {
	c, peer := pair(t, Config{})
	var sent counter
	data := [][]byte{make([]byte, 4096)}
	done := make(chan struct{})
	go func() { defer close(done); echo(c, 48, data, &sent) }()
	req, resp := make([]byte, 48*16), make([]byte, (24+4096)*16)
	round := func() {
		if _, err := peer.Write(req); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(peer, resp); err != nil {
			t.Fatal(err)
		}
	}
	round()
	if n := testing.AllocsPerRun(500, round); n >= 1 {
		t.Errorf("%.1f allocations per round of 16 requests", n)
	}
	peer.Close()
	<-done
}

func benchmarkServe(b *testing.B, cfg Config, depth int) {
	c, peer := pair(b, cfg)
	var sent counter
	data := [][]byte{make([]byte, 4096)}
	go echo(c, 48, data, &sent)
	pc, err := New(peer, Config{})
	if err != nil {
		b.Fatal(err)
	}
	req := make([]byte, 48)
	buf := make([]byte, 256<<10)
	b.ReportAllocs()
	const resp = 24 + 4096
	sentReqs, got := 0, 0
	for b.Loop() {
		for sentReqs*resp-got < depth*resp {
			pc.Append(req, nil, nil, nil)
			sentReqs++
		}
		pc.Flush()
		want := (got/resp + 1) * resp
		for got < want {
			n, err := pc.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			got += n
		}
	}
}

func BenchmarkServeQD1(b *testing.B) { benchmarkServe(b, Config{}, 1) }
func BenchmarkServeQD1Parked(b *testing.B) {
	benchmarkServe(b, Config{Poll: adaptive.Config{Mode: adaptive.Interrupt}}, 1)
}
func BenchmarkServeQD32(b *testing.B) { benchmarkServe(b, Config{}, 32) }
func BenchmarkServeQD32Parked(b *testing.B) {
	benchmarkServe(b, Config{Poll: adaptive.Config{Mode: adaptive.Interrupt}}, 32)
}

// Answers that come in a turn of somebody else leave in one write at its end, as do those that the
// reader's own turn brings; what is there when a turn is over leaves at once.
func TestAnswersOfATurnLeaveTogether(t *testing.T) {
	var other turn.Turn
	c, peer := pair(t, Config{Soon: other.Leave})
	answer := func(s string) {
		c.Append([]byte(s), nil, nil, nil)
		c.Flush()
	}
	expect := func(want string, writes uint64) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(peer, got); err != nil || string(got) != want {
			t.Fatalf("the peer got %q: %v, want %q", got, err, want)
		}
		if n := c.Stats().Writes; n != writes {
			t.Errorf("%d writes so far, want %d", n, writes)
		}
	}
	other.Begin()
	answer("one")
	answer("two")
	answer("three")
	if n := c.Stats().Writes; n != 0 {
		t.Fatalf("%d writes before the end of the turn", n)
	}
	other.End()
	expect("onetwothree", 1)
	answer("four")
	expect("four", 2)

	c.Cork()
	if !c.Soon(taskFunc(func() { answer("five"); answer("six") })) {
		t.Fatal("a corked reader takes no task")
	}
	c.Uncork()
	expect("fivesix", 3)
	if c.Soon(taskFunc(func() {})) {
		t.Error("a task was taken outside of a turn")
	}

	other.Begin()
	answer("drained")
	if err := c.Drain(); err != nil { // does not wait for a turn
		t.Fatal(err)
	}
	expect("drained", 4)
	other.End()
}

type taskFunc func()

func (f taskFunc) Do() { f() }

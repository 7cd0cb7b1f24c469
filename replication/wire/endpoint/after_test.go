package endpoint

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/afxdp/link"
	"blockd.dev/internal/adaptive"
)

// countedLink counts the bytes that it was given to send.
type countedLink struct {
	link.Link
	sent atomic.Int64
}

func (l *countedLink) Send(bufs []link.TxBuf) error {
	for _, b := range bufs {
		l.sent.Add(int64(len(b.Data)))
	}
	return l.Link.Send(bufs)
}

type taskFunc func()

func (f taskFunc) Do() { f() }

// TestTasksComeAfterSending: what After leaves to a pump is done once, when what Go was
// given before is with the link.
func TestTasksComeAfterSending(t *testing.T) {
	const size, rounds = 3000, 20
	l := &countedLink{Link: udp(t, "127.0.0.1:0")}
	sleepy := func(c *Config) { c.Poll.Mode = adaptive.Interrupt }
	a, b := open(t, "a", sleepy, l), open(t, "b", sleepy, udp(t, "127.0.0.1:0"))
	p := a.Peer("b", b.addr)
	ask(t, p, size)
	left := 0
	for end := time.Now().Add(patience); left < rounds; {
		if time.Now().After(end) {
			t.Fatalf("%d of %d tasks left to a pump in %v: it should sleep between requests", left, rounds, patience)
		}
		answered := make(chan error, 1)
		call := &Call{Data: [][]byte{make([]byte, size)}, Done: func(c *Call) { c.Response.Release(); answered <- c.Err }}
		before := l.sent.Load()
		if err := p.Go(call); err != nil {
			t.Fatal(err)
		}
		sent := make(chan int64, 2)
		if p.After(taskFunc(func() { sent <- l.sent.Load() - before })) {
			left++
			if n := <-sent; n < size {
				t.Fatalf("the task was done when %d bytes were sent, and the request has %d", n, size)
			}
		}
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
		if len(sent) > 0 {
			t.Fatal("a task was done twice")
		}
	}
}

// TestPumpThatEndsDoesItsTasks: none that After took is forgotten, and none is taken later.
func TestPumpThatEndsDoesItsTasks(t *testing.T) {
	a, _ := udpPair(t, nil)
	ask(t, a.Peer("b"), 10)
	p := a.allPumps()[0]
	done := make(chan struct{})
	p.mu.Lock()
	p.mu.tasks = append(p.mu.tasks, taskFunc(func() { close(done) }))
	p.mu.stopErr = errors.New("the test ends it")
	p.mu.Unlock()
	p.call()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the task of a pump that ended was not done")
	}
	a.await(t, 0, LinkDown)
	p.asleep.Store(true) // as it may look to who comes at the wrong moment
	if p.after(taskFunc(func() {})) {
		t.Fatal("a pump that has ended took a task")
	}
}

package sockio

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/internal/adaptive"
)

// disk is an Attended. Only the reader uses it.
type disk struct {
	refuses bool
	on      bool
	looks   int
	look    func() bool
	late    func() // what completes after Leave
	leaves  atomic.Int32
}

func (d *disk) Attend(func()) bool {
	d.on = !d.refuses
	return d.on
}

func (d *disk) Look() (worked, attending bool) {
	if !d.on {
		panic("Look by nobody's attendant")
	}
	d.looks++
	return d.look(), true
}

func (d *disk) Leave() {
	if !d.on {
		panic("Leave by nobody's attendant")
	}
	d.on = false
	d.leaves.Add(1)
	if d.late != nil {
		d.late()
	}
}

// polls has the reader poll, on any number of processors and whoever else does.
func polls() Config { return Config{Poll: adaptive.Config{Limit: adaptive.NewLimit(1)}} }

// ask sends a request and expects the answer.
func ask(t *testing.T, peer net.Conn) {
	t.Helper()
	if _, err := peer.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(peer, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// serve answers requests one after the other, each attended, until the peer closes.
func serve(c *Conn, d *disk, submit func()) (done chan struct{}) {
	done = make(chan struct{})
	var in Input
	in.Init(c)
	go func() {
		defer close(done)
		for in.Fill() == nil {
			in.Use(len(in.Bytes()))
			c.Attend(d)
			submit()
		}
	}()
	return done
}

func (c *Conn) answer() {
	c.Append([]byte{2}, nil, nil, nil)
	c.Flush()
}

func TestReaderTakesCompletionsUntilItHasAnswered(t *testing.T) {
	c, peer := pair(t, polls())
	wait := 0
	d := &disk{}
	d.look = func() bool {
		if wait--; wait != 0 {
			return false
		}
		c.answer()
		return true
	}
	d.late = func() {
		if wait > 0 { // the machine was busy, and the reader has given up
			wait = 0
			c.answer()
		}
	}
	const requests = 200
	done := serve(c, d, func() { wait = 10 })
	for range requests {
		ask(t, peer)
	}
	peer.Close()
	<-done
	if d.looks < 10*requests/2 || d.looks > 10*requests {
		t.Errorf("%d looks for %d answers that took 10 each", d.looks, requests)
	}
	if n := d.leaves.Load(); n != requests || d.on {
		t.Errorf("left %d times after %d requests", n, requests)
	}
}

func TestAnswerThatWasSentAtOnceIsNotLookedFor(t *testing.T) {
	c, peer := pair(t, polls())
	d := &disk{look: func() bool { return false }}
	done := serve(c, d, c.answer)
	for range 20 {
		ask(t, peer)
	}
	peer.Close()
	<-done
	if d.looks > 0 || d.leaves.Load() != 20 {
		t.Errorf("looked %d times, left %d times", d.looks, d.leaves.Load())
	}
}

func TestNobodyLooksWhoWasRefused(t *testing.T) {
	c, peer := pair(t, polls())
	done := serve(c, &disk{refuses: true}, c.answer) // which panics otherwise
	for range 20 {
		ask(t, peer)
	}
	peer.Close()
	<-done
}

// A peer that sends more before it has its answer is not kept waiting, and is soon not looked
// for any more, since more threads than one have work then.
func TestPeerThatDoesNotWaitForAnswersIsNotAttended(t *testing.T) {
	c, peer := pair(t, Config{})
	d := &disk{look: func() bool { return false }}
	c.rx.answers.Init(adaptive.Config{Max: time.Hour, Limit: adaptive.NewLimit(1)}) // it would look for ever
	p := make([]byte, 1)
	attends := 0
	for range restAtLeast {
		c.Attend(d)
		if d.on {
			attends++
		}
		if _, err := peer.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(p); err != nil || d.on {
			t.Fatalf("the reader attends after its read: %v, %v", d.on, err)
		}
	}
	if attends == 0 || attends > 3 {
		t.Errorf("%d times attended in %d requests; want some, and then none for a while", attends, restAtLeast)
	}
}

// restAtLeast is less than for how many waits package adaptive rests.
const restAtLeast = 15

// Looking at a disk that is slow is given up.
func TestSlowAnswersAreSoonNotLookedFor(t *testing.T) {
	c, peer := pair(t, Config{})
	d := &disk{look: func() bool { return false }}
	// Whatever goes by way of a socket is slow for one with so little patience.
	c.rx.answers.Init(adaptive.Config{Max: time.Microsecond, WakeCost: 1, Limit: adaptive.NewLimit(1)})
	answer := make(chan struct{}, 1)
	d.late = func() { answer <- struct{}{} }
	done := serve(c, d, func() {
		if !d.on { // looking was given up
			answer <- struct{}{}
		}
	})
	const requests = 30
	looks := make([]int, 0, requests)
	for range requests {
		if _, err := peer.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		<-answer
		looks = append(looks, d.looks) // the reader looks no more until the next request
		c.answer()
		if _, err := io.ReadFull(peer, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	peer.Close()
	<-done
	if looks[0] == 0 || looks[requests-1] != looks[requests/2] {
		t.Errorf("looks so far, after each request: %v; want some at first, and none in the end", looks)
	}
}

// What completes may close the connection.
func TestCompletionMayCloseTheConnection(t *testing.T) {
	c, _ := pair(t, polls())
	d := &disk{}
	d.look = func() bool {
		_ = c.Close()
		return true
	}
	c.Attend(d)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("read of a connection that was closed by what completed: %v", err)
	}
	if d.on {
		t.Error("the reader has not left")
	}
}

package wire

import (
	"errors"
	"strings"
	"testing"
	"time"

	"blockd.dev/afxdp/link/simlink"
	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
)

// pair returns two nodes that are connected over so many paths of 25 µs.
func pair(t *testing.T, paths int, change func(i int, cfg *Config)) *world {
	t.Helper()
	w := newWorld(1, paths, change)
	w.net.SetAll(simlink.Faults{Delay: 25 * time.Microsecond})
	w.dial()
	w.pass(t, 5*time.Millisecond)
	if !w.node[0].up || !w.node[1].up {
		t.Fatal("the connection is not up after 5 ms")
	}
	return w
}

// pass lets so much time go by.
func (w *world) pass(t *testing.T, d time.Duration) {
	t.Helper()
	for end := w.now.Add(d); w.step(end); {
	}
	if w.fault != "" {
		t.Fatal(w.fault)
	}
}

// waitFor lets time go by until ok, and returns how much; at most limit.
func (w *world) waitFor(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := w.now
	for !ok() {
		if !w.step(start.Add(limit)) {
			if w.fault != "" {
				t.Fatal(w.fault)
			}
			t.Fatalf("%s: not in %v", what, limit)
		}
	}
	return w.now.Sub(start)
}

// must sends a message of n bytes.
func (n *node) must(t *testing.T, out Outgoing, size int) MessageID {
	t.Helper()
	id, err := n.send(out, size)
	if err != nil {
		t.Fatal(err)
	}
	n.flush()
	return id
}

func cutAll(w *world, paths ...int) {
	for _, p := range paths {
		for i := range 2 {
			w.net.Set(addr(i, p), addr(1-i, p), simlink.Faults{Cut: true})
		}
	}
}

// Also if the answer is a disk's, and takes a while.
func TestARequestAndItsAnswerTakeTwoPackets(t *testing.T) {
	for _, span := range []time.Duration{time.Microsecond, 200 * time.Microsecond} {
		d := newDuo(t, 8900, false)
		d.span = span
		request := d.requester(t, [][]byte{content(4096, 0, 1)}, [][]byte{content(64, 1, 1)})
		request()
		before := d.sent
		for range 1000 {
			request()
		}
		if got := d.sent[0] + d.sent[1] - before[0] - before[1]; got > 2020 {
			t.Errorf("answered after %v, 1000 requests took %d packets, want 2000 and a few", span, got)
		}
	}
}

func TestADeadPeerIsFoundWithinHalfASecond(t *testing.T) {
	for name, before := range map[string]func(w *world, phase time.Duration) MessageID{
		"while a message is under way": func(w *world, phase time.Duration) MessageID {
			w.pass(t, phase)
			cutAll(w, 0)
			return w.node[0].must(t, Outgoing{Kind: Notice}, 4096)
		},
		"while an answer is owed": func(w *world, phase time.Duration) MessageID {
			w.node[1].mute = true
			id := w.node[0].must(t, Outgoing{Kind: Request}, 4096)
			w.pass(t, 3*time.Second+phase) // the peer lives and thinks
			cutAll(w, 0)
			return id
		},
	} {
		t.Run(name, func(t *testing.T) {
			for phase := time.Duration(0); phase < 200*time.Millisecond; phase += 10 * time.Millisecond {
				w := pair(t, 1, nil)
				id := before(w, phase)
				n := w.node[0]
				took := w.waitFor(t, time.Second, "EventDown", func() bool { return n.down != nil })
				if !errors.Is(n.down, ErrPeerSilent) || took > 500*time.Millisecond {
					t.Errorf("%v later: found after %v: %v", phase, took, n.down)
				}
				if !errors.Is(n.sent[id-1].failed, ErrPeerSilent) {
					t.Errorf("the message failed with %v", n.sent[id-1].failed)
				}
			}
		})
	}
}

// A node that was suspended for a minute doesn't blame its peer for it.
func TestSleepIsNotThePeersSilence(t *testing.T) {
	w := pair(t, 1, nil)
	n := w.node[0]
	n.must(t, Outgoing{Kind: Notice}, 4096)
	n.clock.Jump(w.now, time.Minute)
	w.pass(t, 100*time.Millisecond)
	if n.down != nil || !n.sent[0].done {
		t.Errorf("sent: %v, down: %v", n.sent[0].done, n.down)
	}
}

func TestIdleCostsAFewPacketsAMinute(t *testing.T) {
	w := pair(t, 2, nil)
	w.pass(t, time.Second)
	before := w.net.Counts().Sent
	steps := w.steps
	w.pass(t, time.Minute)
	// Every 10 s a ping and its answer, and a challenge and its answers on the second path.
	if sent := w.net.Counts().Sent - before; sent > 80 || sent < 6 {
		t.Errorf("%d datagrams in a minute of idleness", sent)
	}
	if wakes := w.steps - steps; wakes > 200 {
		t.Errorf("woke %d times in a minute of idleness", wakes)
	}
}

func TestAnIdleConnectionNoticesThatItsPeerIsGone(t *testing.T) {
	w := pair(t, 1, nil)
	cutAll(w, 0)
	n := w.node[0]
	took := w.waitFor(t, 12*time.Second, "EventDown", func() bool { return n.down != nil })
	if !errors.Is(n.down, ErrPeerSilent) {
		t.Errorf("after %v: %v", took, n.down)
	}
}

func TestARestartedPeerIsNoticedAtOnce(t *testing.T) {
	w := pair(t, 1, nil)
	c, s := w.node[0], w.node[1]
	s.conn, s.gone = nil, true
	// Nobody else can make it believe that.
	c.conn.Receive(c.local(), 0, AppendReset(nil, s.cfg.LocalID, [ResetTokenLen]byte{1, 8}))
	c.conn.Receive(c.local(), 0, AppendReset(nil, c.cfg.LocalID, s.cfg.ResetToken))
	c.events()
	if c.down != nil {
		t.Fatalf("a forged reset was believed: %v", c.down)
	}
	c.must(t, Outgoing{Kind: Request}, 100)
	took := w.waitFor(t, time.Second, "EventDown", func() bool { return c.down != nil })
	if !errors.Is(c.down, ErrPeerRestart) || took > time.Millisecond {
		t.Errorf("after %v: %v", took, c.down)
	}
}

// stream keeps messages going from node 0 to node 1 for d, and returns the longest time in
// which none was acknowledged.
func (w *world) stream(t *testing.T, d time.Duration) time.Duration {
	t.Helper()
	n := w.node[0]
	end, last, worst := w.now.Add(d), w.now, time.Duration(0)
	done := 0
	for done < len(n.sent) && n.sent[done].done {
		done++
	}
	for w.now < end {
		for len(n.sent) < done+16 {
			n.must(t, Outgoing{Kind: Notice}, 4096)
		}
		if !w.step(end) {
			break
		}
		for done < len(n.sent) && n.sent[done].done {
			done++
			worst = max(worst, w.now.Sub(last))
			last = w.now
		}
	}
	if w.fault != "" {
		t.Fatal(w.fault)
	}
	return max(worst, w.now.Sub(last))
}

// When a path goes, in one direction or both, without or with a hint, the
// other takes over.
func TestConnectionsMoveToAnotherPath(t *testing.T) {
	for name, c := range map[string]struct {
		fail  func(w *world)
		limit time.Duration
	}{
		"both directions": {func(w *world) { cutAll(w, 0) }, 20 * time.Millisecond},
		"there":           {func(w *world) { w.net.Set(addr(0, 0), addr(1, 0), simlink.Faults{Cut: true}) }, 20 * time.Millisecond},
		"back":            {func(w *world) { w.net.Set(addr(1, 0), addr(0, 0), simlink.Faults{Cut: true}) }, 20 * time.Millisecond},
		"crosswise": {func(w *world) {
			w.net.Set(addr(0, 0), addr(1, 0), simlink.Faults{Cut: true})
			w.net.Set(addr(1, 1), addr(0, 1), simlink.Faults{Cut: true})
		}, 20 * time.Millisecond},
		"with a hint": {func(w *world) {
			cutAll(w, 0)
			for _, n := range w.node {
				n.conn.PathDown(n.local(), 0)
				n.flush()
			}
		}, time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			w := pair(t, 2, nil)
			w.stream(t, 10*time.Millisecond)
			c.fail(w)
			pause := w.stream(t, 60*time.Millisecond)
			t.Logf("a pause of %v", pause)
			if pause > c.limit {
				t.Errorf("a pause of %v, want %v at most", pause, c.limit)
			}
		})
	}
}

func TestTheLongestDatagramIsFound(t *testing.T) {
	for _, mtu := range []int{1200, 1300, 1472, 3700, 8900} {
		w := newWorld(1, 1, nil)
		w.net.SetAll(simlink.Faults{Delay: 25 * time.Microsecond, MTU: mtu})
		w.dial()
		w.pass(t, 5*time.Millisecond)
		w.stream(t, 20*time.Millisecond)
		got := w.node[0].conn.Stats().Datagram
		if got > mtu || got < mtu-probeStep {
			t.Errorf("of %d bytes that pass, found %d", mtu, got)
		}
	}
}

func TestABlackHoleIsLeft(t *testing.T) {
	w := pair(t, 1, nil)
	w.stream(t, 10*time.Millisecond)
	w.net.SetAll(simlink.Faults{Delay: 25 * time.Microsecond, MTU: 3000})
	pause := w.stream(t, 40*time.Millisecond)
	s := w.node[0].conn.Stats()
	if pause > 30*time.Millisecond || s.BlackHoles == 0 || s.Datagram != packet.DatagramMin {
		t.Errorf("a pause of %v, then datagrams of %d, %d black holes seen", pause, s.Datagram, s.BlackHoles)
	}
	w.pass(t, researchAfter)
	w.stream(t, 20*time.Millisecond)
	if got := w.node[0].conn.Stats().Datagram; got < 3000-probeStep || got > 3000 {
		t.Errorf("later datagrams are %d long, 3000 pass", got)
	}
}

// A receiver that keeps everything is never sent more than its window, of which the
// last eighth is for answers, and takes the rest as soon as it lets go.
func TestAReceiverThatKeepsMessagesIsNotOverrun(t *testing.T) {
	w := pair(t, 1, func(_ int, cfg *Config) { cfg.WindowMessages = 10 })
	c, s := w.node[0], w.node[1]
	s.keep = true
	for range 30 {
		c.must(t, Outgoing{Kind: Notice, Channel: 1}, 1000)
	}
	w.pass(t, 50*time.Millisecond)
	if got := s.conn.Stats().HeldMessages; got != 9 || len(s.got) != 9 {
		t.Errorf("%d delivered, %d held of a window of 10, of which 1 is for answers", len(s.got), got)
	}
	c.must(t, Outgoing{Kind: Notice}, 1000) // even another channel has to wait
	s.keep = false
	for i := range s.holding {
		s.holding[i].until = w.now
	}
	w.pass(t, 50*time.Millisecond)
	if len(s.got) != 31 {
		t.Errorf("%d of 31 delivered in the end", len(s.got))
	}
	if s.wakes == 0 {
		t.Error("nobody was woken by Release")
	}
}

// One message as long as the window passes when the window is free, however
// little of it was freed at a time.
func TestAWindowFullIsAlwaysPossible(t *testing.T) {
	w := pair(t, 1, func(_ int, cfg *Config) { cfg.WindowBytes = MessageMax })
	c := w.node[0]
	c.must(t, Outgoing{Kind: Notice}, 1)
	c.must(t, Outgoing{Kind: Notice}, MessageMax)
	c.must(t, Outgoing{Kind: Notice}, 0)
	w.pass(t, 100*time.Millisecond)
	if len(w.node[1].got) != 3 {
		t.Errorf("%d of 3 delivered", len(w.node[1].got))
	}
}

func TestDeadlinesAndCancel(t *testing.T) {
	w := pair(t, 1, nil)
	c, s := w.node[0], w.node[1]
	s.mute = true
	late := c.must(t, Outgoing{Kind: Request, Deadline: c.local().Add(2 * time.Millisecond)}, 4096)
	given := c.must(t, Outgoing{Kind: Request}, 4096)
	w.pass(t, time.Millisecond)
	c.conn.Cancel(c.local(), given)
	c.flush()
	c.events()
	unsent, err := c.send(Outgoing{Kind: Notice}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	c.conn.Cancel(c.local(), unsent)
	c.events()
	w.pass(t, 3*time.Millisecond)
	for id, want := range map[MessageID]error{late: ErrDeadline, given: ErrCanceled, unsent: ErrNotSent} {
		if got := c.sent[id-1].failed; !errors.Is(got, want) {
			t.Errorf("message %d failed with %v, want %v", id, got, want)
		}
	}
	if s.canceled != 2 || s.got[unsent] {
		t.Errorf("the peer was told of %d of 2; it got the unsent one: %v", s.canceled, s.got[unsent])
	}
	if c.conn.out.byID.count != 0 {
		t.Errorf("%d messages are left over", c.conn.out.byID.count)
	}
}

func TestAFullQueueSaysWhenThereIsRoom(t *testing.T) {
	w := pair(t, 1, func(_ int, cfg *Config) { cfg.SendMessages = 8 })
	c := w.node[0]
	for range 8 {
		if _, err := c.send(Outgoing{Kind: Notice}, 4096); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.send(Outgoing{Kind: Notice}, 1); !errors.Is(err, ErrQueueFull) {
		t.Fatalf("the ninth of 8: %v", err)
	}
	c.flush()
	w.waitFor(t, 10*time.Millisecond, "EventRoom", func() bool { return c.room > 0 })
	c.must(t, Outgoing{Kind: Notice}, 1)
}

func TestSendRefusesWhatIsNoMessage(t *testing.T) {
	w := pair(t, 1, nil)
	for _, c := range []struct {
		out  Outgoing
		size int
		want string
	}{
		{Outgoing{}, 0, "kind"},
		{Outgoing{Kind: Notice, InReplyTo: 1}, 0, "InReplyTo"},
		{Outgoing{Kind: Response}, 0, "InReplyTo"},
		{Outgoing{Kind: Notice, Channel: 1024}, 0, "channel"},
		{Outgoing{Kind: Notice, Data: [][]byte{make([]byte, MessageMax), {1}}}, 0, "1 MiB"},
	} {
		if _, err := w.node[0].conn.Send(w.now, c.out); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want something about %q", c.out.Kind, err, c.want)
		}
	}
}

func TestCloseDrains(t *testing.T) {
	w := pair(t, 1, nil)
	c, s := w.node[0], w.node[1]
	for range 20 {
		if _, err := c.send(Outgoing{Kind: Notice}, 20000); err != nil {
			t.Fatal(err)
		}
	}
	c.conn.Close(c.local(), "going home")
	if _, err := c.conn.Send(c.local(), Outgoing{Kind: Notice}); !errors.Is(err, ErrClosed) {
		t.Errorf("Send after Close: %v", err)
	}
	c.flush()
	w.waitFor(t, 100*time.Millisecond, "EventDown", func() bool { return c.down != nil && s.down != nil })
	if len(s.got) != 20 || !errors.Is(c.down, ErrClosed) || !errors.Is(s.down, ErrClosed) || !strings.Contains(s.down.Error(), "going home") {
		t.Errorf("%d of 20 delivered; %v; %v", len(s.got), c.down, s.down)
	}
	if c.cfg.Handshake.(*fakeHandshake).closed != 1 || s.cfg.Handshake.(*fakeHandshake).closed != 1 {
		t.Error("a handshake was not closed once")
	}
}

func TestCloseGivesUpOnASilentPeer(t *testing.T) {
	w := pair(t, 1, nil)
	c := w.node[0]
	cutAll(w, 0)
	id := c.must(t, Outgoing{Kind: Notice}, 4096)
	c.conn.Close(c.local(), "")
	took := w.waitFor(t, time.Second, "EventDown", func() bool { return c.down != nil })
	if took > 350*time.Millisecond || !errors.Is(c.sent[id-1].failed, ErrClosed) {
		t.Errorf("after %v; the message failed with %v", took, c.sent[id-1].failed)
	}
}

func TestAbandonIsSilent(t *testing.T) {
	w := pair(t, 1, nil)
	before := w.net.Counts().Sent
	gone := errors.New("gone")
	w.node[0].conn.Abandon(w.now, gone)
	w.node[0].events()
	w.node[0].flush()
	if !errors.Is(w.node[0].down, gone) || w.net.Counts().Sent != before {
		t.Errorf("down: %v, %d datagrams sent", w.node[0].down, w.net.Counts().Sent-before)
	}
}

func TestAPeerThatBreaksTheProtocolIsTold(t *testing.T) {
	w := pair(t, 1, nil)
	c, s := w.node[0], w.node[1]
	d := draft{b: append(w.buf[:packet.HeaderLen], 0x3f), flags: 1}
	n := c.conn.finish(&d, 0, &c.conn.paths[0])
	s.conn.Receive(s.local(), 0, w.buf[:n])
	s.conn.Tick(s.local())
	if s.conn.state != closing || !errors.Is(s.conn.err, ErrProtocol) {
		t.Fatalf("state %d, %v", s.conn.state, s.conn.err)
	}
	s.flush()
	w.waitFor(t, time.Millisecond, "EventDown", func() bool { return c.down != nil })
	if !errors.Is(c.down, ErrClosed) || !strings.Contains(c.down.Error(), "accuses") {
		t.Errorf("the culprit hears: %v", c.down)
	}
}

func TestARefusedClientHearsWhy(t *testing.T) {
	w := newWorld(1, 1, func(i int, cfg *Config) {
		if i == 1 {
			cfg.Handshake.(*fakeHandshake).refused = true
		}
	})
	w.dial()
	c := w.node[0]
	w.waitFor(t, 100*time.Millisecond, "EventDown", func() bool { return c.down != nil && w.node[1].down != nil })
	if !errors.Is(c.down, ErrRefused) || !strings.Contains(c.down.Error(), "bad certificate") || c.up {
		t.Errorf("up: %v, down: %v", c.up, c.down)
	}
}

func TestNobodyAnswersTheHello(t *testing.T) {
	w := newWorld(1, 1, nil)
	w.net.SetAll(simlink.Faults{Cut: true})
	w.dial()
	c := w.node[0]
	took := w.waitFor(t, 4*time.Second, "EventDown", func() bool { return c.down != nil })
	if !errors.Is(c.down, ErrPeerSilent) || took < 2900*time.Millisecond || w.net.Counts().Sent > 20 {
		t.Errorf("after %v and %d hellos: %v", took, w.net.Counts().Sent, c.down)
	}
}

// A retry, a refusal and a repeated hello, as an owner handles them.
func TestHelloRetryAndRefusal(t *testing.T) {
	now, buf := clock.Mono(1), make([]byte, 0, 1500)
	client := func() *Conn {
		c, err := NewClient(Config{Handshake: &fakeHandshake{client: true}, LocalID: 5}, now)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := client()
	hello := append([]byte(nil), buf[:c.Produce(now, 0, buf)]...)
	r, err := Inspect(hello)
	if err != nil || r.Kind != Hello || r.Source != 5 || r.Version != Version || len(r.Token) != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	retry := AppendRetry(nil, r, []byte("come back"))
	if back, err := Inspect(retry); err != nil || back.Kind != Reply || back.Dest != 5 || len(retry) > len(hello) {
		t.Fatalf("%+v, %v", back, err)
	}
	c.Receive(now, 0, retry)
	again := append([]byte(nil), buf[:c.Produce(now, 0, buf)]...)
	if r, err := Inspect(again); err != nil || string(r.Token) != "come back" {
		t.Fatalf("%+v, %v", r, err)
	}
	c.Receive(now, 0, retry)
	if n := c.Produce(now, 0, buf); n != 0 {
		t.Error("a second retry was obeyed")
	}
	server, err := NewServer(Config{Handshake: &fakeHandshake{}, LocalID: 6}, now, again, 0)
	if err != nil || server.RemoteID() != 5 || !server.shake.proven {
		t.Fatalf("%v, proven: %v", err, server.shake.proven)
	}

	c = client()
	c.Receive(now, 0, AppendRefusal(nil, r))
	if e, ok := c.NextEvent(); !ok || e.Kind != EventDown || !errors.Is(e.Err, ErrRefused) || !strings.Contains(e.Err.Error(), "version 1") {
		t.Errorf("%+v", e)
	}
}

// A server sends no more than three times what it got to an address that
// might be forged.
func TestNoAmplification(t *testing.T) {
	now, buf := clock.Mono(1), make([]byte, 0, 1500)
	c, err := NewClient(Config{Handshake: &fakeHandshake{client: true}, LocalID: 5}, now)
	if err != nil {
		t.Fatal(err)
	}
	hello := append([]byte(nil), buf[:c.Produce(now, 0, buf)]...)
	s, err := NewServer(Config{Handshake: &fakeHandshake{}, LocalID: 6}, now, hello, 0)
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for end := now.Add(5 * time.Second); s.Deadline() < end; {
		for n := s.Produce(now, 0, buf); n > 0; n = s.Produce(now, 0, buf) {
			sent += n
		}
		if s.state == down {
			break
		}
		now = max(now+1, s.Deadline())
		s.Tick(now)
	}
	if sent == 0 || sent > 3*len(hello) {
		t.Errorf("%d bytes sent for %d", sent, len(hello))
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"Handshake":      func(c *Config) { c.Handshake = nil },
		"LocalID":        func(c *Config) { c.LocalID = 0 },
		"DatagramMax":    func(c *Config) { c.DatagramMax = 500 },
		"WindowBytes":    func(c *Config) { c.WindowBytes = 1000 },
		"WindowMessages": func(c *Config) { c.WindowMessages = -1 },
		"SendMessages":   func(c *Config) { c.SendMessages = 1 << 20 },
		"DeadAfter":      func(c *Config) { c.DeadAfter = time.Millisecond },
		"KeepAlive":      func(c *Config) { c.KeepAlive = time.Millisecond },
		"AckDelay":       func(c *Config) { c.AckDelay = time.Second },
		"keys":           func(c *Config) { c.RekeyPackets = 1 },
	} {
		cfg := Config{Handshake: &fakeHandshake{client: true}, LocalID: 1}
		change(&cfg)
		if _, err := NewClient(cfg, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want something about %s", err, want)
		}
	}
}

// A request after a while of silence, in which nobody owed anything, is not
// the peer's fault: also when the owner looks at its timers before it sends.
func TestARequestAfterSilenceIsAnswered(t *testing.T) {
	for _, idle := range []time.Duration{100, 200, 500, 2000, 9000} {
		w := pair(t, 1, nil)
		c := w.node[0]
		w.pass(t, idle*time.Millisecond)
		id, err := c.send(Outgoing{Kind: Request}, 100)
		if err != nil {
			t.Fatal(err)
		}
		c.conn.Tick(c.local())
		c.flush()
		c.conn.Tick(c.local())
		c.events()
		w.waitFor(t, 50*time.Millisecond, "the answer", func() bool { return c.sent[id-1].answered || c.down != nil })
		if c.down != nil {
			t.Errorf("after %v of silence: %v", idle*time.Millisecond, c.down)
		}
	}
}

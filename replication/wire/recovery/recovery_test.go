package recovery

import (
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"pgregory.net/rapid"
)

func TestRTTFollowsTheSamples(t *testing.T) {
	var r RTT
	if got := r.Timeout(100*time.Microsecond, 25*time.Microsecond, time.Second); got != time.Second {
		t.Errorf("before the first sample: %v", got)
	}
	for i := range 100 {
		r.Sample(clock.Mono(i+1), 75*time.Microsecond, 25*time.Microsecond)
	}
	// The first sample may not be shortened by what the peer says of its delay.
	if r.Min != 75*time.Microsecond || r.Smoothed != 75*time.Microsecond {
		t.Errorf("min %v, smoothed %v", r.Min, r.Smoothed)
	}
	r.Sample(200, 50*time.Microsecond, 0)
	for i := range 100 {
		r.Sample(clock.Mono(i+201), 75*time.Microsecond, 25*time.Microsecond)
	}
	if r.Smoothed > 51*time.Microsecond || r.Min != 50*time.Microsecond {
		t.Errorf("min %v, smoothed %v, want 50 µs", r.Min, r.Smoothed)
	}
	if got := r.Timeout(100*time.Microsecond, 25*time.Microsecond, time.Second); got < 275*time.Microsecond || got > 280*time.Microsecond {
		t.Errorf("timeout %v, want 50 + 2*100 + 25 µs", got)
	}
	for i := range 100 {
		r.Sample(clock.Mono(25*time.Second)+clock.Mono(i)*clock.Mono(time.Second), time.Millisecond, 0)
	}
	if r.Min != time.Millisecond {
		t.Errorf("a minute after the route changed, min is still %v", r.Min)
	}
}

// recorder is an Owner that keeps what it is told.
type recorder struct {
	rtt         RTT
	acked, lost map[uint64]int
	late        int
}

func newRecorder(rtt time.Duration) *recorder {
	r := &recorder{acked: map[uint64]int{}, lost: map[uint64]int{}}
	r.rtt.Sample(1, rtt, 0)
	return r
}

func (r *recorder) RTT(uint8) *RTT { return &r.rtt }
func (r *recorder) PacketAcked(n uint64, _ *Packet, wasLost bool) {
	r.acked[n]++
	if wasLost {
		r.late++
	}
}
func (r *recorder) PacketLost(n uint64, _ *Packet) { r.lost[n]++ }

func send(l *Ledger, now clock.Mono, count int) {
	for range count {
		l.Add(Packet{Sent: now, Bytes: 100, Flags: Eliciting})
	}
}

func TestThreePacketsLaterIsLost(t *testing.T) {
	var l Ledger
	o := newRecorder(100 * time.Microsecond)
	send(&l, 1000, 5)
	l.Ack(2, 2, o)
	l.Detect(1000, o)
	if len(o.lost) != 0 {
		t.Fatalf("lost too early: %v", o.lost)
	}
	l.Ack(3, 3, o)
	at := l.Detect(1000, o)
	if len(o.lost) != 1 || o.lost[0] != 1 {
		t.Fatalf("lost: %v, want packet 0", o.lost)
	}
	// Packet 1 is lost an eighth of a round trip after it is overdue.
	if want := clock.Mono(1000).Add(112500 * time.Nanosecond); at != want {
		t.Errorf("look again at %d, want %d", at, want)
	}
	l.Detect(at, o)
	if o.lost[1] != 1 || len(o.lost) != 2 || l.InFlight(0) != 100 {
		t.Errorf("lost: %v, %d bytes in flight", o.lost, l.InFlight(0))
	}
}

func TestReorderingMakesPatient(t *testing.T) {
	var l Ledger
	o := newRecorder(time.Second)
	send(&l, 1, 1000)
	for n := uint64(0); n+20 < 1000; n += 21 { // 20 arrive before the one in front of them
		l.Ack(n+1, n+20, o)
		l.Detect(2, o)
		l.Ack(n, n, o)
		l.Detect(2, o)
	}
	if len(o.lost) > 2 || o.late != len(o.lost) {
		t.Errorf("%d declared lost of which %d came late, want 2 at most", len(o.lost), o.late)
	}
}

func TestOnlyPacketsOfOnePathOvertake(t *testing.T) {
	var l Ledger
	o := newRecorder(time.Millisecond)
	l.Add(Packet{Sent: 1, Bytes: 100, Flags: Eliciting, Path: 1})
	send(&l, 1, 10)
	l.Ack(1, 10, o)
	if at := l.Detect(clock.Mono(time.Hour), o); len(o.lost) != 0 || at != clock.Never {
		t.Errorf("lost %v, look again at %d", o.lost, at)
	}
	l.LosePath(1, o)
	if o.lost[0] != 1 || l.Waiting() {
		t.Errorf("lost %v, waiting: %v", o.lost, l.Waiting())
	}
}

// Whatever is acknowledged in whatever order, each packet ends in one way,
// a lost one may be acknowledged later, and the sums are right.
func TestLedgerIsRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Ledger
		o := newRecorder(50 * time.Microsecond)
		now := clock.Mono(1)
		open := map[uint64]bool{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "µs")) * time.Microsecond)
			if rapid.Bool().Draw(t, "send") {
				p := Packet{Sent: now, Bytes: 10, Path: uint8(rapid.IntRange(0, 2).Draw(t, "path"))}
				if rapid.IntRange(0, 4).Draw(t, "eliciting") > 0 {
					p.Flags = Eliciting
				}
				n := l.Add(p)
				if p.Flags == Eliciting {
					open[n] = true
				}
			} else if l.Next() > 0 {
				last := rapid.Uint64Max(l.Next()-1).Draw(t, "last")
				first := last - min(last, rapid.Uint64Max(5).Draw(t, "more"))
				l.Ack(first, last, o)
				l.Detect(now, o)
			}
			flying := 0
			for n := range open {
				switch {
				case o.acked[n] > 1 || o.lost[n] > 1:
					t.Fatalf("packet %d: acknowledged %d times, lost %d times", n, o.acked[n], o.lost[n])
				case o.acked[n] == 0 && o.lost[n] == 0:
					flying++
				}
			}
			if got := l.InFlight(0) + l.InFlight(1) + l.InFlight(2); got != 10*flying || l.Waiting() != (flying > 0) {
				t.Fatalf("%d bytes in flight, want %d", got, 10*flying)
			}
			if flying > 0 && l.OldestSent() > now {
				t.Fatal("the oldest is in the future")
			}
		}
	})
}

// rounds lets w see count round trips of rtt, with so many packets lost in each.
func rounds(w *Window, r *RTT, now *clock.Mono, number *uint64, count, lost int, rtt time.Duration) {
	for range count {
		*now = now.Add(rtt)
		r.Sample(*now, rtt, 0)
		w.Sampled(*now, *number, *number+10, r, 0)
		*number += 10
		for range lost {
			w.Lost()
		}
		for range 10 {
			w.Acked(1000)
		}
		w.Limited()
	}
}

func TestWindowFollowsTheQueue(t *testing.T) {
	var r RTT
	now, number := clock.Mono(1), uint64(0)
	w := NewWindow(1000)
	rounds(&w, &r, &now, &number, 10, 0, 100*time.Microsecond)
	start := w.Bytes()
	if !w.Starting() || start < 80000 {
		t.Fatalf("the window is %d after ten rounds of the start", start)
	}
	rounds(&w, &r, &now, &number, 2, 0, 250*time.Microsecond)
	if w.Starting() || w.Bytes() >= start/2+start/10 {
		t.Errorf("the window is %d with a queue of 150 µs, was %d", w.Bytes(), start)
	}
	rounds(&w, &r, &now, &number, 5, 0, 100*time.Microsecond) // also closes and opens once
	before := w.Bytes()
	rounds(&w, &r, &now, &number, 10, 0, 100*time.Microsecond)
	if got := w.Bytes() - before; got < 7000 || got > 10000 {
		t.Errorf("ten rounds without a queue add %d, want some 9 datagrams", got)
	}
}

func TestWindowForgivesSeldomLoss(t *testing.T) {
	for lost, want := range map[int]bool{0: true, 5: false} { // per ten packets
		var r RTT
		now, number := clock.Mono(1), uint64(0)
		w := NewWindow(1000)
		rounds(&w, &r, &now, &number, 5, 0, 100*time.Microsecond)
		rounds(&w, &r, &now, &number, 1, 0, 300*time.Microsecond) // ends the start
		before := w.Bytes()
		rounds(&w, &r, &now, &number, 95, lost, 100*time.Microsecond)
		if grew := w.Bytes() > before; grew != want {
			t.Errorf("%d of 15 lost: from %d to %d", lost, before, w.Bytes())
		}
	}
}

func TestWindowCollapsesAndComesBack(t *testing.T) {
	var r RTT
	now, number := clock.Mono(1), uint64(0)
	w := NewWindow(1000)
	rounds(&w, &r, &now, &number, 10, 0, 100*time.Microsecond)
	before := w.Bytes()
	w.Collapse()
	if w.Bytes() != WindowMin*1000 {
		t.Errorf("collapsed to %d", w.Bytes())
	}
	rounds(&w, &r, &now, &number, 10, 0, 100*time.Microsecond)
	if w.Bytes() < before/2 {
		t.Errorf("back at %d of %d after ten rounds", w.Bytes(), before)
	}
}

// Over any time, what the pacer lets through is the rate and one burst.
func TestPacerKeepsTheRate(t *testing.T) {
	var p Pacer
	var r RTT
	r.Sample(1, time.Millisecond, 0)
	w := NewWindow(1000)
	w.bytes, w.starting = 100_000, false // 125 bytes per µs
	const granularity = 100 * time.Microsecond
	now, sent := clock.Mono(1), 0
	for end := now.Add(100 * time.Millisecond); now < end; {
		ok, at := p.Ready(now, &w, &r, granularity)
		if !ok {
			if at.Sub(now) < granularity {
				t.Fatalf("asks to come back in %v", at.Sub(now))
			}
			now = at
			continue
		}
		p.Sent(1000)
		sent += 1000
	}
	if sent < 12_400_000 || sent > 12_600_000 {
		t.Errorf("%d bytes in 100 ms, want 12.5 million", sent)
	}
}

package wire

import (
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/internal/invariants"
)

// duo is two connected ends in one process: datagrams go from one to the other
// at once, in order, and time stands still but for a microsecond per turn.
type duo struct {
	end   [2]*Conn
	now   clock.Mono
	buf   []byte
	event Event                  // the one that got is called for
	got   func(to int, e *Event) // called for messages and answers
	sent  [2]int                 // datagrams
	span  time.Duration          // of a turn
}

// pooled lends the same few buffers again and again.
type pooled struct {
	spare []*pooledBuf
}

type pooledBuf struct {
	p *pooled
	b []byte
	n int
}

func (b *pooledBuf) Bytes() []byte { return b.b[:b.n] }
func (b *pooledBuf) Release()      { b.p.spare = append(b.p.spare, b) }

func (p *pooled) alloc(n int) Buffer {
	if last := len(p.spare) - 1; last >= 0 && cap(p.spare[last].b) >= n {
		b := p.spare[last]
		p.spare = p.spare[:last]
		b.n = n
		return b
	}
	return &pooledBuf{p, make([]byte, max(n, 8192)), n}
}

func newDuo(tb testing.TB, datagram int, plain bool) *duo {
	tb.Helper()
	d := &duo{now: clock.Mono(time.Second), buf: make([]byte, 0, 9000), span: time.Microsecond}
	cfg := func(i int) Config {
		return Config{
			Handshake: &fakeHandshake{client: i == 0, plain: plain}, LocalID: ConnID(1 + i),
			DatagramMax: datagram, Alloc: new(pooled).alloc,
		}
	}
	c, err := NewClient(cfg(0), d.now)
	if err != nil {
		tb.Fatal(err)
	}
	d.end[0] = c
	n := c.Produce(d.now, 0, d.buf)
	if d.end[1], err = NewServer(cfg(1), d.now, d.buf[:n], 0); err != nil {
		tb.Fatal(err)
	}
	for range 20000 {
		d.turn()
	}
	for i, c := range d.end {
		if s := c.Stats(); !s.Up || s.Datagram != datagram {
			tb.Fatalf("end %d: %+v", i, s)
		}
	}
	return d
}

// turn moves everything once from each end to the other.
func (d *duo) turn() {
	d.now = d.now.Add(d.span)
	for i, c := range d.end {
		if c.Deadline() <= d.now {
			c.Tick(d.now)
			d.drain(i)
		}
		for {
			n := c.Produce(d.now, 0, d.buf)
			if n == 0 {
				break
			}
			d.sent[i]++
			d.end[1-i].Receive(d.now, 0, d.buf[:n])
			d.drain(1 - i)
		}
	}
}

func (d *duo) drain(i int) {
	for {
		var ok bool
		if d.event, ok = d.end[i].NextEvent(); !ok {
			return
		}
		if d.got != nil && (d.event.Kind == EventMessage || d.event.Kind == EventResponse) {
			d.got(i, &d.event)
		}
	}
}

// requester returns a function that sends a request with data, which is
// answered with answer at once, and waits for that.
func (d *duo) requester(tb testing.TB, data, answer [][]byte) func() {
	done := false
	d.got = func(to int, e *Event) {
		if e.Kind == EventResponse {
			done = true
		} else if _, err := d.end[to].Send(d.now, Outgoing{Kind: Response, InReplyTo: e.ID, Data: answer}); err != nil {
			tb.Fatal(err)
		}
		e.Message.Release()
	}
	return func() {
		done = false
		if _, err := d.end[0].Send(d.now, Outgoing{Kind: Request, Data: data}); err != nil {
			tb.Fatal(err)
		}
		for !done {
			d.turn()
		}
	}
}

func benchmarkRequest(b *testing.B, datagram int) {
	d := newDuo(b, datagram, true)
	request := d.requester(b, [][]byte{content(4096, 0, 1)}, [][]byte{content(64, 1, 1)})
	before := d.sent
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		request()
	}
	b.ReportMetric(float64(d.sent[0]+d.sent[1]-before[0]-before[1])/float64(b.N), "packets/op")
}

// A request of 4 KiB and its answer of 64 bytes, both ends in this process,
// without AEAD: two packets or more, each produced once and received once.
func BenchmarkRequest4K(b *testing.B)      { benchmarkRequest(b, 8900) }
func BenchmarkRequest4KSmall(b *testing.B) { benchmarkRequest(b, 1472) }

// BenchmarkStream4K is 4 KiB notices, 32 at a time.
func BenchmarkStream4K(b *testing.B) {
	d := newDuo(b, 4500, true)
	data := [][]byte{content(4096, 0, 1)}
	got := 0
	d.got = func(_ int, e *Event) { got++; e.Message.Release() }
	before := d.sent
	b.ReportAllocs()
	b.SetBytes(4096)
	b.ResetTimer()
	for sent := 0; got < b.N; {
		for sent < b.N && sent < got+32 {
			if _, err := d.end[0].Send(d.now, Outgoing{Kind: Notice, Data: data}); err != nil {
				b.Fatal(err)
			}
			sent++
		}
		d.turn()
	}
	b.ReportMetric(float64(d.sent[0]+d.sent[1]-before[0]-before[1])/float64(b.N), "packets/op")
}

// No message and no packet costs an allocation, once everything has grown.
func TestNothingAllocates(t *testing.T) {
	if invariants.Enabled {
		return // with invariants on, the compiler keeps values on the heap that are not in a release
	}
	for _, datagram := range []int{1472, 8900} {
		d := newDuo(t, datagram, true)
		answer := [][]byte{content(64, 1, 1)}
		for _, size := range []int{64, 4096, 100000} {
			request := d.requester(t, [][]byte{content(size/2, 0, 1), content(size-size/2, 0, 2)}, answer)
			for range 2000 {
				request()
			}
			if n := testing.AllocsPerRun(2000, request); n != 0 {
				t.Errorf("a request of %d bytes in datagrams of %d allocates %.1f times", size, datagram, n)
			}
		}
	}
}

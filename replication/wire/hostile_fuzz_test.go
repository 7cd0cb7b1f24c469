package wire

import (
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
)

// hostileWindow is small, so that a hostile peer reaches every limit.
const hostileWindow = 16

// hostile connects two ends, of which the second will be driven by a fuzzer.
func hostile(tb testing.TB) *duo {
	tb.Helper()
	d := &duo{now: clock.Mono(time.Second), buf: make([]byte, 0, 9000), span: 100 * time.Microsecond}
	for i := range d.end {
		cfg := Config{
			Handshake: &fakeHandshake{client: i == 0}, LocalID: ConnID(1 + i), DatagramMax: 8900,
			WindowMessages: hostileWindow, WindowBytes: MessageMax, SendMessages: 16, Requests: 16,
		}
		var err error
		if i == 0 {
			d.end[0], err = NewClient(cfg, d.now)
		} else {
			n := d.end[0].Produce(d.now, 0, d.buf)
			d.end[1], err = NewServer(cfg, d.now, d.buf[:n], 0)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	for range 50 {
		d.turn()
	}
	return d
}

// bounded checks that a peer has not made c keep more than it is allowed to.
func bounded(t *testing.T, c *Conn) {
	t.Helper()
	in, pieces := &c.in, 0
	in.partial.each(func(m *inMsg) {
		if len(m.have) > spansMax {
			t.Fatalf("%d spans of a message", len(m.have))
		}
		pieces++
	})
	waiting := 0
	for _, ch := range in.channels {
		for m := ch.waiting; m != nil; m = m.next {
			waiting++
		}
	}
	switch {
	case in.held.Messages > hostileWindow || in.held.Bytes > MessageMax:
		t.Fatalf("%d messages of %d bytes held", in.held.Messages, in.held.Bytes)
	case pieces+waiting > hostileWindow:
		t.Fatalf("%d partial, %d waiting", pieces, waiting)
	case len(in.channels) > packet.ChannelMax+1:
		t.Fatalf("%d channels", len(in.channels))
	case c.acks.count > packet.RangesMax:
		t.Fatalf("%d ranges", c.acks.count)
	}
}

// FuzzReceive gives arbitrary datagrams to a client, a server and an
// established connection. None is authentic, so nothing may come of them.
func FuzzReceive(f *testing.F) {
	d := &duo{now: clock.Mono(time.Second), buf: make([]byte, 0, 9000)}
	c, err := NewClient(Config{Handshake: &fakeHandshake{client: true}, LocalID: 1}, d.now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d.buf[:c.Produce(d.now, 0, d.buf)])
	f.Add(AppendReset(nil, 2, [16]byte{}))
	f.Add(AppendRetry(nil, Route{Source: 1}, []byte("token")))
	f.Add(AppendRefusal(nil, Route{Source: 1}))
	h := packet.Header{Type: packet.TypeData, Number: 3, Dest: 1}
	f.Add(append(h.Append(nil), make([]byte, 60)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := hostile(t)
		before := d.end[0].Stats().RxPackets
		for i := range d.end {
			d.end[i].Receive(d.now, 0, append([]byte(nil), b...))
			for {
				e, ok := d.end[i].NextEvent()
				if !ok {
					break
				}
				if e.Kind != EventDown || len(b) != packet.HeaderLen+ResetTokenLen {
					t.Fatalf("event %d out of nothing", e.Kind)
				}
			}
		}
		if got := d.end[0].Stats().RxPackets; got != before {
			t.Fatal("a packet was taken that nobody sealed")
		}
		fresh, err := NewClient(Config{Handshake: &fakeHandshake{client: true}, LocalID: 1}, d.now)
		if err != nil {
			t.Fatal(err)
		}
		fresh.Receive(d.now, 0, append([]byte(nil), b...))
		fresh.Produce(d.now, 0, d.buf)
		if s, err := NewServer(Config{Handshake: &fakeHandshake{}, LocalID: 2}, d.now, append([]byte(nil), b...), 0); err == nil {
			s.Produce(d.now, 0, d.buf)
		}
	})
}

// FuzzPeer plays a peer that has the keys: each chunk of the input is sealed as
// the frames of a packet. The connection must stay within its limits and either go on
// or end with ErrProtocol, and tell so.
func FuzzPeer(f *testing.F) {
	add := func(packets ...[]byte) {
		var b []byte
		for _, p := range packets {
			b = append(b, byte(len(p)>>8), byte(len(p)))
			b = append(b, p...)
		}
		f.Add(b)
	}
	message := func(m packet.Message) []byte {
		return append(packet.AppendMessageHead(nil, &m, len(m.Data)), m.Data...)
	}
	add(message(packet.Message{ID: 1, Kind: 2, Total: 4, Data: []byte("abcd")}), packet.AppendPing(nil))
	add(message(packet.Message{ID: 1, Kind: 1, Total: 1 << 20, Offset: 5, Data: []byte("abcd")}))
	add(message(packet.Message{ID: 2, Kind: 1, Channel: 7, Sequence: 1, Total: 1, Data: []byte("b")}),
		message(packet.Message{ID: 1, Kind: 1, Channel: 7, Sequence: 0, Total: 1, Data: []byte("a")}))
	add(message(packet.Message{ID: 1, Kind: 3, InReplyTo: 1, Total: 2, Data: []byte("ok")}))
	add(packet.AppendCancel(nil, &packet.Cancel{ID: 3, Started: true, Total: 100, Channel: 1, Sequence: 5}))
	add(packet.AppendAck(nil, []packet.Range{{First: 4, Last: 6}, {First: 0, Last: 1}}, time.Millisecond))
	add(packet.AppendCredit(nil, packet.FrameCredit, packet.Credit{Bytes: 1 << 40, Messages: 1 << 40}))
	add(packet.AppendCredit(nil, packet.FrameBlocked, packet.Credit{Bytes: 1 << 20, Messages: 16}))
	add(packet.AppendChallenge(nil, packet.FrameChallenge, 7), packet.AppendChallenge(nil, packet.FrameResponse, 7))
	add(packet.AppendClose(nil, packet.CloseDone, "bye"))
	f.Fuzz(func(t *testing.T, input []byte) {
		d := hostile(t)
		c, peer := d.end[0], d.end[1]
		for range 4 {
			if _, err := c.Send(d.now, Outgoing{Kind: Request, Data: [][]byte{content(3000, 0, 1)}}); err != nil {
				t.Fatal(err)
			}
		}
		var kept []Message
		down := error(nil)
		for len(input) >= 2 && down == nil {
			n := min(int(input[0])<<8|int(input[1]), len(input)-2, 8000)
			frames := input[2 : 2+n]
			input = input[2+n:]
			dr := draft{b: append(d.buf[:packet.HeaderLen], frames...), head: packet.HeaderLen, flags: 1}
			size := peer.finish(&dr, 0, &peer.paths[0])
			d.now = d.now.Add(50 * time.Microsecond)
			c.Receive(d.now, 0, d.buf[:size])
			for {
				e, ok := c.NextEvent()
				if !ok {
					break
				}
				switch e.Kind {
				case EventMessage, EventResponse:
					kept = append(kept, e.Message)
				case EventDown:
					down = e.Err
				default:
				}
			}
			bounded(t, c)
			if len(kept) > hostileWindow {
				t.Fatalf("%d messages delivered and not released", len(kept))
			}
			for i := 0; c.Produce(d.now, 0, d.buf[:0]) > 0; i++ {
				if i > 1000 {
					t.Fatal("never stops sending")
				}
			}
			if len(kept) > 0 && n%3 == 0 {
				kept[0].Release()
				kept = kept[1:]
			}
		}
		for end := d.now.Add(2 * time.Second); down == nil && d.now < end; {
			d.now = max(d.now.Add(time.Microsecond), min(c.Deadline(), end))
			c.Tick(d.now)
			for i := 0; c.Produce(d.now, 0, d.buf[:0]) > 0; i++ {
				if i > 1000 {
					t.Fatal("never stops sending")
				}
			}
			for {
				e, ok := c.NextEvent()
				if !ok {
					break
				}
				if e.Kind == EventDown {
					down = e.Err
				}
			}
		}
		if down == nil {
			t.Fatal("a peer that says no more was not found out")
		}
	})
}

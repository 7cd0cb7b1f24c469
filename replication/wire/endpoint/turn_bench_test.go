package endpoint

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"blockd.dev/afxdp/link"
)

// handoff is one end of a Link that costs next to nothing: what is sent changes
// hands. Both ends are driven by one goroutine.
type handoff struct {
	local   netip.AddrPort
	far     *handoff
	spare   [][]byte
	arrived [][]byte
}

const handoffBuffers = 1024

func newHandoff(a, b netip.AddrPort) (*handoff, *handoff) {
	x, y := &handoff{local: a}, &handoff{local: b}
	x.far, y.far = y, x
	for range handoffBuffers {
		x.spare, y.spare = append(x.spare, make([]byte, 8972)), append(y.spare, make([]byte, 8972))
	}
	return x, y
}

func (h *handoff) Kind() link.Kind           { return link.Sim }
func (h *handoff) LocalAddr() netip.AddrPort { return h.local }
func (h *handoff) MaxDatagram() int          { return 8972 }
func (h *handoff) RxHoldMax() int            { return handoffBuffers }
func (h *handoff) Wait(time.Duration) error  { return nil }
func (h *handoff) Wake()                     {}
func (h *handoff) Stats() link.Stats         { return link.Stats{} }
func (h *handoff) Close() error              { return nil }

func (h *handoff) Reserve(bufs []link.TxBuf) int {
	n := min(len(bufs), len(h.spare))
	for i := range n {
		last := len(h.spare) - 1
		bufs[i] = link.TxBuf{Data: h.spare[last][:0]}
		h.spare = h.spare[:last]
	}
	return n
}

func (h *handoff) ReleaseTx(bufs []link.TxBuf) {
	for i := range bufs {
		h.spare = append(h.spare, bufs[i].Data)
	}
}

func (h *handoff) Send(bufs []link.TxBuf) error {
	for i := range bufs {
		h.far.arrived = append(h.far.arrived, bufs[i].Data)
	}
	return nil
}

func (h *handoff) Recv(bufs []link.RxBuf) (int, error) {
	n := min(len(bufs), len(h.arrived))
	for i := range n {
		bufs[i] = link.RxBuf{Data: h.arrived[i], Peer: h.far.local}
	}
	h.arrived = slices.Delete(h.arrived, 0, n)
	return n, nil
}

func (h *handoff) ReleaseRx(bufs []link.RxBuf) {
	for i := range bufs {
		h.far.spare = append(h.far.spare, bufs[i].Data[:0])
	}
}

// BenchmarkTurns is a request of 4 KiB and its answer of 64 bytes, both pumps on this
// goroutine: what two nodes cost without links, and without waiting for them.
func BenchmarkTurns(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(map[int]string{1: "one", 32: "many"}[depth], func(b *testing.B) { benchmarkTurns(b, depth) })
	}
}

func benchmarkTurns(b *testing.B, depth int) {
	answer := [][]byte{make([]byte, 64)}
	cfg := func(c *Config) {
		c.Handler = func(r *Request) { _ = r.Reply(answer) }
		c.Wire.Alloc = newPool().alloc
	}
	links := [2]*handoff{}
	links[0], links[1] = newHandoff(at("10.0.0.1:1"), at("10.0.0.2:1"))
	var pumps [2]*pump
	var nodes [2]*node
	for i, id := range []string{"a", "b"} {
		nodes[i] = open(b, id, cfg)
		pumps[i] = newPump(nodes[i].Endpoint, links[i])
		nodes[i].Endpoint.mu.pumps = []*pump{pumps[i]}
		nodes[i].dialer.Store(pumps[i])
	}
	peer := nodes[0].Peer("b", links[1].local)
	turn := func() {
		for _, p := range pumps {
			if _, err := p.turn(false); err != nil {
				b.Fatal(err)
			}
		}
	}
	for start := time.Now(); !peer.Up() || time.Since(start) < 50*time.Millisecond; { // and the longest datagram is found
		turn()
	}
	done := 0
	data := [][]byte{make([]byte, 4096)}
	for range depth {
		call := &Call{Data: data}
		call.Done = func(c *Call) {
			if c.Err != nil {
				b.Fatal(c.Err)
			}
			c.Response.Release()
			if done++; done+depth <= b.N {
				if err := peer.Go(c); err != nil {
					b.Fatal(err)
				}
			}
		}
		if err := peer.Go(call); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for done < max(b.N, depth) {
		turn()
	}
	b.StopTimer()
	if s := peer.Stats().Wire; s.TxLost > 0 && s.Up {
		b.Errorf("lost %d packets, which this link never does", s.TxLost)
	}
}

package endpoint

import (
	"encoding/binary"
	"testing"

	"blockd.dev/afxdp/link"
)

// paths is how many addresses the only connection of n has a path to.
func (n *node) paths(t *testing.T) (count int) {
	t.Helper()
	conns := n.allConns()
	if len(conns) != 1 {
		t.Fatalf("%d connections, want 1", len(conns))
	}
	c := conns[0]
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.mu.paths {
		if c.mu.paths[i].remote.IsValid() {
			count++
		}
	}
	return count
}

// Who knows the ID of a connection, and no more, takes none of its paths, from
// however many addresses.
func TestForgedDatagramsTakeNoPaths(t *testing.T) {
	a, b := udpPair(t, nil)
	ask(t, a.Peer("b"), 10)
	before := b.paths(t)
	id := b.allConns()[0].id
	const strangers = 20
	for i := range strangers {
		stranger := udp(t, "127.0.0.1:0")
		bufs := make([]link.TxBuf, 1)
		if stranger.Reserve(bufs) != 1 {
			t.Fatal("no buffer")
		}
		data := bufs[0].Data[:1200]
		binary.BigEndian.PutUint64(data, 6<<60|uint64(1000+i))
		binary.BigEndian.PutUint64(data[8:], uint64(id))
		bufs[0].Data, bufs[0].Peer = data, b.addr
		if err := stranger.Send(bufs); err != nil {
			t.Fatal(err)
		}
		if err := stranger.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// What a asks now arrives behind them.
	ask(t, a.Peer("b"), 4096)
	if got := b.Peer("a").Stats().Wire.RxInvalid; got < strangers {
		t.Errorf("%d invalid datagrams were counted, want %d at least", got, strangers)
	}
	if got := b.paths(t); got != before {
		t.Errorf("%d paths, %d before the strangers came", got, before)
	}
}

package serve

import (
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/replication/message"
	"blockd.dev/replication/wire/endpoint"
)

// TestForwardsHaveRoom: what is forwarded to a node waits where it would fill the window, and is started in its turn.
func TestForwardsHaveRoom(t *testing.T) {
	tr := NewTransport(TransportConfig{Peer: func(string) *endpoint.Peer { return nil }}) // what is started ends at once
	ended := 0
	next := func(bytes int) *call {
		c := tr.newCall()
		c.forwarded = &message.Forwarded{
			Node: "b", Request: message.Host{Op: blockdev.OpWrite, Data: make([]byte, bytes)}, Done: func(*message.Forwarded) { ended++ },
		}
		c.forwards = tr.forwardsTo("b")
		return c
	}
	half := next(forwardsBytes / 2)
	same, more := next(forwardsBytes/2), next(1)
	if !half.forwards.enter(half) || !half.forwards.enter(same) {
		t.Fatal("there is no room for what fits")
	}
	if more.forwards.enter(more) {
		t.Fatal("there is room for more than fits")
	}
	none := next(0)
	if none.forwards.enter(none) {
		t.Fatal("one that takes nothing goes before one that waits")
	}
	half.forwards.leave(half)
	if ended != 2 {
		t.Fatalf("%d of 2 that waited were started when there was room", ended)
	}
	same.forwards.leave(same)

	var all []*call
	for range forwardsMessages {
		c := next(0)
		if !c.forwards.enter(c) {
			t.Fatalf("there is no room after %d", len(all))
		}
		all = append(all, c)
	}
	if c := next(0); c.forwards.enter(c) {
		t.Errorf("there is room for more than %d", len(all))
	}
	ended = 0
	for _, c := range all {
		c.forwards.leave(c)
	}
	if f := tr.forwardsTo("b"); ended != 1 || f.messages != 0 || f.bytes != 0 || len(f.waiting) != 0 {
		t.Errorf("%d ended; at the end there are %+v", ended, f)
	}
}

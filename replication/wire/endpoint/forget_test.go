package endpoint

import (
	"context"
	"testing"
)

// A node that was removed loses its connection, and is not dialed again.
func TestForgottenPeersAreLeftAlone(t *testing.T) {
	a, b := udpPair(t, nil)
	_, from := a.await(t, 0, PeerUp)
	b.await(t, 0, PeerUp)
	a.Forget("b")
	a.Forget("nobody")
	a.await(t, from, PeerDown)
	b.await(t, 0, PeerDown)
	if a.Peer("b").Up() {
		t.Error("it is connected again")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Peer("b").Call(ctx, 0, []byte("x")); err == nil {
		t.Error("a call to it was answered")
	}
}

package serve

import (
	"testing"

	"blockd.dev/replication/replica"
	"blockd.dev/replication/wire/endpoint"
)

// TestHostsOfOwnersElsewhere: changes that an owner elsewhere wants are for hosts, and nothing else is.
func TestHostsOfOwnersElsewhere(t *testing.T) {
	for _, c := range []struct {
		kind      replica.Kind
		status    replica.Status
		elsewhere bool
		want      bool
	}{
		{replica.Write, replica.OK, true, true},
		{replica.Clear, replica.OK, true, true},
		{replica.Write, replica.OK, false, false}, // its owner hears it
		{replica.Write, replica.OldSession, true, false},
		{replica.Read, replica.OK, true, false},
		{replica.Stable, replica.OK, true, false},
		{replica.Copy, replica.OK, true, false},
	} {
		a := &asked{ok: true, q: replica.Request{Kind: c.kind}, resp: replica.Response{Status: c.status}}
		if c.elsewhere {
			a.net = &endpoint.Request{}
		}
		if got := a.fromAfar(); got != c.want {
			t.Errorf("a request of kind %d, status %d, of an owner elsewhere: %v: %v, want %v", c.kind, c.status, c.elsewhere, got, c.want)
		}
	}
}

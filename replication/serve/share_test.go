package serve

import (
	"testing"

	"blockd.dev/replication/replica"
	"blockd.dev/replication/volume"
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
		h := &hosted{share: &volume.Share{}, ended: []*asked{answered1(c.kind, c.status, c.elsewhere)}}
		if h.tell(); h.share.Hosts(owners.Now()) != c.want {
			t.Errorf("a request of kind %d, status %d, of an owner elsewhere: %v: hosts %v, want %v", c.kind, c.status, c.elsewhere, !c.want, c.want)
		}
	}
}

// TestOwnersElsewhereHearOfHosts: with the answers to what they copy to here, if there are any hosts.
func TestOwnersElsewhereHearOfHosts(t *testing.T) {
	share := &volume.Share{}
	told := func() bool {
		a := answered1(replica.Copy, replica.OK, true)
		h := &hosted{share: share, ended: []*asked{a}}
		h.tell()
		return a.resp.Hosts
	}
	if told() {
		t.Error("the node has no hosts, and says so of some")
	}
	share.Saw(owners.Now())
	if !told() {
		t.Error("the node has hosts, and does not say so")
	}
}

func answered1(kind replica.Kind, status replica.Status, elsewhere bool) *asked {
	a := &asked{ok: true, q: replica.Request{Kind: kind}, resp: replica.Response{Status: status}}
	if elsewhere {
		a.net = &endpoint.Request{}
	}
	return a
}

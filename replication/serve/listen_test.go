package serve

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
	"blockd.dev/replication/volume"
	"blockd.dev/replication/wire/endpoint"
)

// steady is a clock that goes on by a millisecond with each reading.
type steady struct{ at atomic.Int64 }

func (c *steady) Now() clock.Mono { return clock.Mono(c.at.Add(int64(time.Millisecond))) }

// newHeard is a host that has a session, and whose disk has heard hosts while nothing was copied.
func newHeard(t *testing.T) (h *host, c *steady, heard func() []int64) {
	h, c = newHost(t), &steady{}
	h.svc.cfg.Clock, h.svc.cfg.Listener = c, volume.NewListener(volume.Bound{})
	h.fence(7, 1)
	h.want("versions", h.ask(replica.Request{Kind: replica.Versions, Len: store64K}), replica.OK)
	c.at.Add(int64(time.Second)) // until nobody feels that any more
	for range 30 {
		h.want("read", h.ask(replica.Request{Kind: replica.Read, Len: 4096}), replica.OK)
	}
	return h, c, func() []int64 { return h.svc.ears[target.Disk].Told(clock.Mono(c.at.Load())) }
}

const store64K = 64 << 10

// TestDiskHearsHosts: what hosts wait for at a disk is heard, and nothing else; what is copied elsewhere is
// told of that.
func TestDiskHearsHosts(t *testing.T) {
	h, _, heard := newHeard(t)
	if got := heard(); !slices.Equal(got, []int64{0, 0, 0}) {
		t.Fatalf("before anything is copied it tells %v", got)
	}
	h.want("versions", h.ask(replica.Request{Kind: replica.Versions, Len: store64K}), replica.OK)
	h.want("read", h.ask(replica.Request{Kind: replica.Read, Len: 4096}), replica.OK)
	h.want("write", h.ask(replica.Request{Kind: replica.Write, Len: 4096, Data: make([]byte, 4096), Ver: replica.Version{Epoch: 7, Seq: 1}}), replica.OK)
	h.want("read to be copied", h.ask(replica.Request{Kind: replica.Read, Len: store64K, Ver: replica.NoVersion}), replica.OK)
	if got := heard(); len(got) != 3 || got[0] != 2 {
		t.Errorf("a read and a write of hosts, and one that nobody waits for: it tells %v", got)
	}

	r := h.svc.replicas[target]
	for _, a := range []*asked{
		{ok: true, q: replica.Request{Kind: replica.Copy}, resp: replica.Response{Status: replica.OK}},
		{ok: true, net: &endpoint.Request{}, q: replica.Request{Kind: replica.Copy}, resp: replica.Response{Status: replica.OK}},
	} {
		r.listen(a)
		if told := len(a.resp.Differ) == 3 && a.resp.Differ[0] == 2; told != (a.net != nil) {
			t.Errorf("the answer to a copy, from another node: %v, tells %v", a.net != nil, a.resp.Differ)
		}
	}
}

// TestOwnersElsewhereAskForSilence: then this node copies nothing, and hosts are heard without that.
func TestOwnersElsewhereAskForSilence(t *testing.T) {
	h, _, heard := newHeard(t)
	h.want("versions", h.ask(replica.Request{Kind: replica.Versions, Len: store64K}), replica.OK)
	h.want("stable", h.ask(replica.Request{Kind: replica.Stable, Len: int64(time.Second)}), replica.OK)
	for range 5 {
		h.want("read", h.ask(replica.Request{Kind: replica.Read, Len: 4096}), replica.OK)
	}
	if got := heard(); len(got) != 3 || got[0] != 0 {
		t.Errorf("in a pause it hears %v", got)
	}
}

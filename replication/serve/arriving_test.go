package serve

import (
	"bytes"
	"testing"

	"blockd.dev/blockdev/store"
	"blockd.dev/replication/replica"
)

// An extent that is moved to a disk is cleared there by the first Fence since
// the move began, over all its spans, and what else there is stays. Later Fences keep what
// has been copied.
func TestArrivingExtentsAreCleared(t *testing.T) {
	h := newHost(t)
	h.fence(4, 1)
	data := bytes.Repeat([]byte("data"), 1024)
	const first, last, beyond = store.ExtentBytes, 2*store.ExtentBytes - 65536, 2 * store.ExtentBytes
	seq := uint64(0)
	write := func(off int64) {
		seq++
		h.want("write", h.ask(replica.Request{Kind: replica.Write, Off: off, Len: 4096, Data: data, Ver: replica.Version{Epoch: h.epoch, Seq: seq}, Stable: seq - 1}), replica.OK)
	}
	there := func(off int64) bool {
		m := h.ask(replica.Request{Kind: replica.Read, Off: off, Len: 4096})
		h.want("read", m, replica.OK)
		defer m.Release()
		if cleared := m.Response.Vers[0] == (replica.Version{}); cleared != (len(m.Response.Data) == 0) {
			t.Errorf("at %d: %d bytes of version %v", off, len(m.Response.Data), m.Response.Vers[0])
		}
		return len(m.Response.Data) > 0
	}
	arrives := func(epoch, session, since uint64) {
		h.epoch, h.session = epoch, session
		m := h.ask(replica.Request{Kind: replica.Fence, Gen: since, Arriving: []replica.Range{{Off: first, Len: store.ExtentBytes}}})
		h.want("fence", m, replica.OK)
		h.boot = m.Response.Boot
	}
	for _, off := range []int64{0, first, last, beyond} {
		write(off)
	}
	write(0) // so that the watermark is above the others
	arrives(5, 1, 5)
	if there(first) || there(last) || !there(0) || !there(beyond) {
		t.Errorf("there at the first and last region of the extent %v and %v, before and behind it %v and %v; want only what is around it",
			there(first), there(last), there(0), there(beyond))
	}
	write(last)
	for _, f := range [][2]uint64{{5, 2}, {6, 1}} {
		if arrives(f[0], f[1], 5); !there(last) {
			t.Errorf("what has arrived is gone after session %d of epoch %d", f[1], f[0])
		}
	}
	if arrives(7, 1, 7); there(last) {
		t.Error("what an earlier move has left is still there when another one begins")
	}
}

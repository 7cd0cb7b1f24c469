package nvmetcp_test

import (
	"encoding/binary"
	"runtime"
	"testing"

	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/nvmetcp/pdu"
)

// An idle connection costs little: 10,000 of them must be possible. The
// test's own side of each is counted too.
func TestIdleConnectionsAreSmall(t *testing.T) {
	const conns, limit = 200, 32 << 10
	b := newBed(t, nvmetcp.Limits{}, nil)
	inUse := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	before := inUse()
	list := make([]*wire, conns)
	for i := range list {
		w := b.wire()
		w.init(pdu.IC{})
		capsule := connectCapsule(31)
		binary.LittleEndian.PutUint16(capsule[8+2:], uint16(i))
		w.send(capsule)
		if s := w.response(); s != nvme.Success {
			t.Fatal(s)
		}
		list[i] = w
	}
	each := (inUse() - before) / conns
	t.Logf("%d bytes per connection, with both sides", each)
	if each > limit && !raceEnabled {
		t.Errorf("an idle connection takes %d bytes, more than %d", each, limit)
	}
}

package volume

import (
	"testing"
	"time"

	"blockd.dev/replication/replica"
)

// TestRebuildCounts: what was compared, and what was sent; a hole is no data.
func TestRebuildCounts(t *testing.T) {
	b := begins(t, testConfig, Member{InSync, 1}, Member{InSync, 1}, Member{Rebuilding, 2})
	b.fenced(ok, 0, 1, 2)
	b.o.Meta(b.now, View{Revision: 2, Epoch: b.o.epoch, Members: []Member{{InSync, 1}, {InSync, 1}, {Rebuilding, 3}}})
	const hole, data = 0, 96
	for end := b.now.Add(time.Second); b.now < end && b.o.conns[2].re.phase != entering; b.pass(5 * time.Millisecond) {
		for len(b.sent) > 0 {
			s := b.sent[0]
			b.sent = b.sent[1:]
			resp := replica.Response{Status: replica.OK}
			switch s.q.Kind {
			case replica.Versions:
				resp.Vers = make([]replica.Version, (s.q.Len+31)/32)
			case replica.Confirm:
				for _, differs := range []int64{hole, data} {
					if s.q.Off <= differs && differs < s.q.Off+s.q.Len {
						resp.Differ = append(resp.Differ, differs)
					}
				}
			case replica.Read:
				if s.q.Off == data {
					resp.Data = make([]byte, s.q.Len)
				}
			default:
			}
			b.answer(s, resp)
		}
	}
	if s := b.o.Status(); b.o.conns[2].re.phase != entering || s.Compared != 128 || s.Copied != 32 {
		t.Errorf("phase %d: compared %d bytes, copied %d; want all 128, and the 32 that are no hole", b.o.conns[2].re.phase, s.Compared, s.Copied)
	}
}

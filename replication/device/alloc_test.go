package device_test

import (
	"testing"
	"time"

	"blockd.dev/blockdev"
)

// What is done for each request on this side of the transport allocates nothing
// once the pools are warm: with the owner here, and forwarded.
func TestRequestsAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("earned: the race detector makes pools forget at random")
	}
	for _, where := range []string{"owner", "forwarded"} {
		for _, op := range []blockdev.Op{blockdev.OpWrite, blockdev.OpUnmap} {
			s := newStage(t, time.Hour)
			s.atOnce = true
			if where == "owner" {
				s.own(1)
			} else {
				s.v.Forward("b")
			}
			ended := 0
			r := &blockdev.Request{Op: op, Length: 4096, Data: [][]byte{make([]byte, 4096)}, Done: func(*blockdev.Request) { ended++ }}
			batch := []*blockdev.Request{r}
			n := testing.AllocsPerRun(500, func() { s.v.Submit(batch) })
			if n != 0 || ended != 501 || r.Err != nil {
				t.Errorf("%s, %s: %v allocations, %d of 501 requests ended, the last with %v", where, op, n, ended, r.Err)
			}
		}
	}
}

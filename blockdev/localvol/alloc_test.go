//go:build !race

package localvol

// Allocations are not counted under the race detector, where sync.Pool throws
// away at random.

import (
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
)

// TestAlignedPathDoesNotAllocate asserts what the package comment promises.
func TestAlignedPathDoesNotAllocate(t *testing.T) {
	v := benchVolume(t, 16<<20)
	for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite} {
		load(t, v, op, 8, 2000, 4096)
		r := &blockdev.Request{Op: op, Length: 4096, Data: [][]byte{disk.NewAligned(4096)}}
		done := make(chan struct{}, 1)
		r.Done = func(*blockdev.Request) { done <- struct{}{} }
		batch := []*blockdev.Request{r}
		if n := testing.AllocsPerRun(2000, func() {
			r.Offset = (r.Offset + 12288) % (16 << 20)
			v.Submit(batch)
			<-done
		}); n != 0 {
			t.Errorf("%s: %v allocations per request", op, n)
		}
	}
}

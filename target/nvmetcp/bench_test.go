package nvmetcp_test

import (
	"fmt"
	"sync"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/target/nvmetcp"
)

// BenchmarkRead: 4 KiB reads of a RAM device through the wire, host and target
// in one process. The whole of both sides is in the time.
func BenchmarkRead(b *testing.B) { benchmark(b, blockdev.OpRead) }

// BenchmarkWrite is the same with writes in capsules.
func BenchmarkWrite(b *testing.B) { benchmark(b, blockdev.OpWrite) }

func benchmark(b *testing.B, op blockdev.Op) {
	for _, shape := range []struct{ queues, depth int }{{1, 1}, {1, 32}, {4, 32}, {1, 128}} {
		b.Run(fmt.Sprintf("%dx%d", shape.queues, shape.depth), func(b *testing.B) {
			bed := newBed(b, nvmetcp.Limits{}, nil)
			cfg := bed.config()
			cfg.Queues, cfg.Depth = 1, shape.depth+1
			var wg sync.WaitGroup
			left := make([]int, shape.queues)
			b.ReportAllocs()
			b.ResetTimer()
			for q := range shape.queues {
				n := bed.namespace(bed.dial(cfg))
				left[q] = b.N/shape.queues + 1
				wg.Add(shape.depth)
				batch := make([]*blockdev.Request, shape.depth)
				for i := range batch {
					r := &blockdev.Request{Op: op, Offset: int64(i) << 12, Length: 4096, Data: [][]byte{make([]byte, 4096)}}
					again := []*blockdev.Request{r}
					r.Done = func(r *blockdev.Request) { // one goroutine per queue: its reader
						if left[q]--; left[q] <= 0 {
							wg.Done()
							return
						}
						n.Submit(again)
					}
					batch[i] = r
				}
				n.Submit(batch)
			}
			wg.Wait()
		})
	}
}

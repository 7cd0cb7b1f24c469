package device_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"blockd.dev/blockdev"
)

// Three nodes in this process, over UDP on loopback, with disks in memory: what
// a request costs in all of them together.
//
//	go test ./replication/device -bench . -run '^$' -benchmem
func BenchmarkDevice(b *testing.B) {
	for _, bench := range []struct {
		name  string
		op    blockdev.Op
		at    int // 0 owns the volume
		depth int
	}{
		{"write4K-qd1", blockdev.OpWrite, 0, 1},
		{"write4K-qd32", blockdev.OpWrite, 0, 32},
		{"read4K-qd1", blockdev.OpRead, 0, 1},
		{"read4K-qd32", blockdev.OpRead, 0, 32},
		{"forwarded-write4K-qd1", blockdev.OpWrite, 1, 1},
		{"forwarded-write4K-qd32", blockdev.OpWrite, 1, 32},
		{"forwarded-read4K-qd1", blockdev.OpRead, 1, 1},
	} {
		b.Run(bench.name, func(b *testing.B) {
			c := newCluster(b, options{memory: true})
			c.meta.grant(c.nodes[0])
			v := c.nodes[bench.at].vol
			if err := blockdev.WriteAt(v, make([]byte, 1<<20), 0); err != nil {
				b.Fatal(err)
			}
			load(b, v, bench.op, bench.depth)
		})
	}
}

// load keeps depth requests of 4 KiB in flight until there were b.N.
func load(b *testing.B, v blockdev.Device, op blockdev.Op, depth int) {
	var mu sync.Mutex
	var all sync.WaitGroup
	rng := rand.New(rand.NewPCG(1, 1))
	left := b.N
	took := make([]time.Duration, 0, b.N)
	type job struct {
		blockdev.Request
		began time.Time
		batch [1]*blockdev.Request
	}
	next := func(j *job) bool {
		mu.Lock()
		defer mu.Unlock()
		if left == 0 {
			return false
		}
		left--
		j.Offset = rng.Int64N(volumeBytes/blockBytes) * blockBytes
		return true
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range depth {
		j := &job{}
		j.Op, j.Length, j.Data, j.Tag = op, blockBytes, [][]byte{make([]byte, blockBytes)}, j
		for i := range j.Data[0] {
			j.Data[0][i] = byte(i)
		}
		j.batch[0] = &j.Request
		j.Done = func(r *blockdev.Request) {
			j := r.Tag.(*job)
			if r.Err != nil {
				b.Error(r.Err)
			}
			mu.Lock()
			took = append(took, time.Since(j.began))
			mu.Unlock()
			if !next(j) {
				all.Done()
				return
			}
			j.began = time.Now()
			v.Submit(j.batch[:])
		}
		if !next(j) {
			break
		}
		all.Add(1)
		j.began = time.Now()
		v.Submit(j.batch[:])
	}
	all.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "IOPS")
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-us")
}

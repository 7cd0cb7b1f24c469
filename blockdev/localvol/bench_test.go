package localvol

import (
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/store"
)

// benchVolume is a filled volume on a file. BLOCKD_BENCH_DIR may name a directory
// on the disk to measure.
func benchVolume(b testing.TB, sizeBytes int64) *Volume {
	path := filepath.Join(b.TempDir(), "disk")
	if _, err := disk.Create(path, sizeBytes*3/2+(96<<20)); err != nil {
		b.Fatal(err)
	}
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close() })
	v := newVolume(b, d, store.Options{}, Options{SizeBytes: sizeBytes})
	p := disk.NewAligned(1 << 20)
	for i := range p {
		p[i] = byte(i * 7)
	}
	for off := int64(0); off < sizeBytes; off += int64(len(p)) {
		if err := blockdev.WriteAt(v, p, off); err != nil {
			b.Fatal(err)
		}
	}
	return v
}

// load keeps depth requests in flight until n are done. Each Done submits the
// next one.
func load(b testing.TB, v *Volume, op blockdev.Op, depth, n int, size int64) {
	blocks := uint64(v.Geometry().SizeBytes / size)
	var left atomic.Int64
	left.Store(int64(n))
	done := make(chan error, depth)
	for i := range depth {
		rng := rand.New(rand.NewPCG(uint64(i), 2))
		r := &blockdev.Request{Op: op, Length: size, Data: [][]byte{disk.NewAligned(int(size))}}
		batch := []*blockdev.Request{r}
		r.Done = func(r *blockdev.Request) {
			if r.Err != nil || left.Add(-1) < 0 {
				done <- r.Err
				return
			}
			r.Offset = int64(rng.Uint64N(blocks)) * size
			v.Submit(batch)
		}
		r.Done(r)
	}
	for range depth {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVolume(b *testing.B) {
	v := benchVolume(b, 512<<20)
	for _, c := range []struct {
		name  string
		op    blockdev.Op
		depth int
		size  int64
	}{
		{"read4k/QD1", blockdev.OpRead, 1, 4096},
		{"read4k/QD32", blockdev.OpRead, 32, 4096},
		{"write4k/QD1", blockdev.OpWrite, 1, 4096},
		{"write4k/QD32", blockdev.OpWrite, 32, 4096},
		{"write16k/QD8", blockdev.OpWrite, 8, 16 << 10},
		{"write64k/QD8", blockdev.OpWrite, 8, 64 << 10},
		{"write1m/QD4", blockdev.OpWrite, 4, 1 << 20},
		{"read1m/QD4", blockdev.OpRead, 4, 1 << 20},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(c.size)
			b.ReportAllocs()
			before := v.s.Stats()
			load(b, v, c.op, c.depth, b.N, c.size)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "IOPS")
			if c.op == blockdev.OpWrite {
				b.StopTimer() // what is still to go home belongs to these writes
				if err := v.s.Checkpoint(); err != nil {
					b.Fatal(err)
				}
				st := v.s.Stats()
				st.HostWriteBytes -= before.HostWriteBytes
				st.DataBytes -= before.DataBytes
				st.LogWriteBytes -= before.LogWriteBytes
				st.HomeBytes -= before.HomeBytes
				st.MetaBytes -= before.MetaBytes
				b.ReportMetric(st.WriteAmplification(), "write-amp")
				b.ReportMetric(float64(b.N)/float64(st.Batches-before.Batches), "writes/batch")
			}
		})
	}
}

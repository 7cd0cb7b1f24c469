package localvol

import (
	"math/rand/v2"
	"path/filepath"
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

// load keeps depth requests in flight until n are done.
func load(b testing.TB, v *Volume, op blockdev.Op, depth, n int, size int64) {
	blocks := v.Geometry().SizeBytes / size
	free := make(chan *blockdev.Request, depth)
	rng := rand.New(rand.NewPCG(1, 2))
	for range depth {
		r := &blockdev.Request{Op: op, Length: size, Data: [][]byte{disk.NewAligned(int(size))}}
		r.Done = func(r *blockdev.Request) { free <- r }
		free <- r
	}
	var one [1]*blockdev.Request
	for range n {
		r := <-free
		if r.Err != nil {
			b.Fatal(r.Err)
		}
		r.Offset = rng.Int64N(blocks) * size
		one[0] = r
		v.Submit(one[:])
	}
	for range depth {
		if r := <-free; r.Err != nil {
			b.Fatal(r.Err)
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

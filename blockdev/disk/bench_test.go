package disk_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"blockd.dev/blockdev/disk"
)

// benchFile opens the file that BLOCKD_BENCH_FILE names (written full, so that
// writes change no metadata), or makes one of 64 MiB.
func benchFile(b *testing.B, o disk.Options) disk.Disk {
	b.Helper()
	path := os.Getenv("BLOCKD_BENCH_FILE")
	if path == "" {
		path = filepath.Join(b.TempDir(), "disk")
		if _, err := disk.Create(path, 64<<20); err != nil {
			b.Fatal(err)
		}
	}
	d, err := disk.Open(path, o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close() })
	return d
}

// BenchmarkRandom is 4 KiB at random offsets with depth I/Os in flight, each
// submitted by the Done of the one before it.
func BenchmarkRandom(b *testing.B) {
	for _, driver := range []string{disk.DriverURing, disk.DriverPread} {
		for _, kind := range []struct {
			name  string
			op    disk.Op
			dsync bool
		}{{"read", disk.Read, false}, {"dsync-write", disk.Write, true}} {
			for _, depth := range []int{1, 32} {
				name := driver + "/" + kind.name + map[int]string{1: "/qd1", 32: "/qd32"}[depth]
				b.Run(name, func(b *testing.B) {
					d := benchFile(b, disk.Options{Driver: driver})
					chain(b, d, kind.op, kind.dsync, depth)
				})
				b.Run(name+"-goroutines", func(b *testing.B) {
					d := benchFile(b, disk.Options{Driver: driver})
					goroutines(b, d, kind.op, kind.dsync, depth)
				})
			}
		}
	}
}

func benchIO(op disk.Op, dsync bool) *disk.IO {
	return &disk.IO{Op: op, Dsync: dsync, Bufs: [][]byte{disk.NewAligned(blk)}}
}

const blk = disk.BlockBytes

func chain(b *testing.B, d disk.Disk, op disk.Op, dsync bool, depth int) {
	blocks := d.SizeBytes() / blk
	end := make(chan struct{}, depth)
	var batch []*disk.IO
	for i := range depth {
		io := benchIO(op, dsync)
		self := []*disk.IO{io}
		rng := rand.New(rand.NewPCG(uint64(i), rand.Uint64()))
		left := b.N/depth + 1
		io.Done = func(io *disk.IO) {
			if io.Err != nil {
				b.Error(io.Err)
			}
			if left--; left <= 0 {
				end <- struct{}{}
				return
			}
			io.Off = rng.Int64N(blocks) * blk
			d.Submit(self)
		}
		batch = append(batch, io)
	}
	b.ReportAllocs()
	b.ResetTimer()
	d.Submit(batch)
	for range depth {
		<-end
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "IOPS")
}

func goroutines(b *testing.B, d disk.Disk, op disk.Op, dsync bool, depth int) {
	blocks := d.SizeBytes() / blk
	end := make(chan struct{}, depth)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range depth {
		go func() {
			io, done := benchIO(op, dsync), make(chan struct{}, 1)
			batch := []*disk.IO{io}
			rng := rand.New(rand.NewPCG(uint64(i), rand.Uint64()))
			io.Done = func(*disk.IO) { done <- struct{}{} }
			for range b.N/depth + 1 {
				io.Off = rng.Int64N(blocks) * blk
				d.Submit(batch)
				<-done
			}
			end <- struct{}{}
		}()
	}
	for range depth {
		<-end
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "IOPS")
}

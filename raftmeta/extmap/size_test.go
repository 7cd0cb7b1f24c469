package extmap

import (
	"bufio"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heapBytes is what the heap holds after a collection.
func heapBytes() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// A sixteenth of 16 Mi extents, as three copies and as the widest code, stays
// well within the 64 bytes per extent of the design. (An extent of a code with
// 8 data shards covers 512 MiB.)
func TestMemoryPerExtent(t *testing.T) {
	for p, most := range map[Policy]float64{{Replicas: 3}: 12, {Data: 8, Parity: 4}: 36} {
		const extents = 1 << 20
		before := heapBytes()
		m := filled(t, extents, p)
		per := float64(heapBytes()-before) / extents
		t.Logf("%s: %.1f bytes per extent", p, per)
		if per > most {
			t.Errorf("%s: %.1f bytes per extent, want under %.0f", p, per, most)
		}
		runtime.KeepAlive(m)
	}
}

func TestExtentDoesNotAllocate(t *testing.T) {
	v := filled(t, 1000, Policy{Replicas: 3}).Volume(VolumeID{1})
	if n := testing.AllocsPerRun(100, func() { v.Extent(700); v.Layout().Locate(5 << 20) }); n != 0 {
		t.Errorf("a lookup allocates %g times", n)
	}
}

func BenchmarkExtent(b *testing.B) {
	v := filled(b, 1<<20, Policy{Replicas: 3}).Volume(VolumeID{1})
	i, sum := uint32(1), Disk(0)
	for b.Loop() {
		i = i*1664525 + 1013904223
		e, _ := v.Extent(i >> 12)
		sum += e.Disks[0]
	}
	runtime.KeepAlive(sum)
}

// threadTime is the CPU time of the present thread, which what else runs on the
// machine does not add to.
func threadTime(b *testing.B) time.Duration {
	runtime.LockOSThread() // for the rest of the benchmark
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPebibyte builds, writes, reads and scans a map of 16 Mi extents of
// three copies, once. BLOCKD_EXTMAP_FULL=1 asks for it; else it has 1 Mi.
func BenchmarkPebibyte(b *testing.B) {
	extents := uint32(1 << 20)
	if os.Getenv("BLOCKD_EXTMAP_FULL") != "" {
		extents = 1 << 24
	}
	for b.Loop() {
		before := heapBytes()
		start := time.Now()
		m := filled(b, extents, Policy{Replicas: 3})
		b.ReportMetric(time.Since(start).Seconds(), "build-s")
		b.ReportMetric(float64(heapBytes()-before)/float64(extents), "B/extent")

		start = time.Now()
		n, err := m.WriteTo(io.Discard)
		b.ReportMetric(time.Since(start).Seconds(), "write-s")
		b.ReportMetric(float64(n)/(1<<20), "snapshot-MiB")

		r, w := io.Pipe()
		go func() { // ends when the map is written
			_, err := m.WriteTo(w)
			w.CloseWithError(err)
		}()
		start = time.Now()
		back, err2 := Read(bufio.NewReaderSize(r, 1<<20))
		b.ReportMetric(time.Since(start).Seconds(), "restore-s")
		if err != nil || err2 != nil || back.Hash() != m.Hash() {
			b.Fatal(err, err2)
		}

		start = time.Now()
		found, _, _ := m.OnDisk(501, Ref{}, make([]Ref, 0, extents))
		b.ReportMetric(time.Since(start).Seconds(), "scan-s")
		if len(found) == 0 {
			b.Fatal("the scan found nothing")
		}

		v, i, sum := m.Volume(VolumeID{1}), uint32(1), Disk(0)
		cpu := threadTime(b)
		const lookups = 1 << 22
		for range lookups {
			i = i*1664525 + 1013904223
			e, _ := v.Extent(i % extents)
			sum += e.Disks[0]
		}
		b.ReportMetric(float64(threadTime(b)-cpu)/lookups, "lookup-cpu-ns")
		runtime.KeepAlive(sum)
	}
}

package device_test

import (
	"syscall"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/store"
)

// BenchmarkRebuild gives one of three nodes an empty disk and waits until it has all of
// the volume again: what that costs in all of them together.
//
//	go test ./replication/device -bench Rebuild -run '^$'
func BenchmarkRebuild(b *testing.B) {
	for _, bench := range []struct {
		name  string
		bytes int // of each write that the volume was filled by: neighbours have its version
	}{
		{"written-by-256K", 256 << 10},
		{"written-by-64K", 64 << 10},
	} {
		b.Run(bench.name, func(b *testing.B) {
			c := newCluster(b, options{memory: true, failover: true})
			c.meta.grant(c.nodes[0])
			data := make([]byte, bench.bytes)
			for i := range data {
				data[i] = byte(i)
			}
			for off := int64(0); off < volumeBytes; off += int64(len(data)) {
				if err := blockdev.WriteAt(c.nodes[0].vol, data, off); err != nil {
					b.Fatal(err)
				}
			}
			var used time.Duration
			b.SetBytes(volumeBytes)
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				c.replaceDisk(c.nodes[2])
				b.StartTimer()
				before := processorTime(b)
				c.await("the rebuild", c.meta.settled)
				used += processorTime(b) - before
			}
			b.ReportMetric(float64(used.Microseconds())/float64(b.N)/(volumeBytes/1e6), "cpu-us/MB")
		})
	}
}

// replaceDisk has n lose its disk, and waits until the first data has been copied back.
func (c *cluster) replaceDisk(n *node) {
	n.close()
	c.await("the loss", func() bool { return !c.meta.settled() })
	before := c.copied()
	clear(n.mem)
	if err := store.Format(n.mem, store.FormatOptions{}); err != nil {
		c.Fatal(err)
	}
	n.start()
	n.connect()
	c.await("the first copy", func() bool { return c.copied() > before })
}

// copied is what the owner has sent to bring copies back, in bytes.
func (c *cluster) copied() uint64 {
	return c.nodes[0].vol.Status().Volume.Copied
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

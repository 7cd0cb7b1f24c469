package daemon

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/store"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
)

// rot flips a bit wherever the disk of a node has block, in the log too.
func rot(t *testing.T, n *testNode, block []byte) {
	t.Helper()
	on := n.Daemon().disks[0]
	if err := on.store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	io := func(op disk.Op, off int64, p []byte) {
		done := make(chan error, 1)
		on.disk.Submit([]*disk.IO{{Op: op, Off: off, Bufs: [][]byte{p}, Done: func(io *disk.IO) { done <- io.Err }}})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	p, found := disk.NewAligned(1<<20), false
	for off := int64(0); off < on.disk.SizeBytes(); off += int64(len(p)) {
		io(disk.Read, off, p)
		for b := range slices.Chunk(p, disk.BlockBytes) {
			if bytes.Equal(b, block) {
				b[1000] ^= 4
				io(disk.Write, off, p)
				found = true
			}
		}
	}
	if !found {
		t.Fatalf("the disk of %s has not the block", n.cfg.Name)
	}
}

// stored does an op with the copy of a node, behind the back of the owner.
func stored(t *testing.T, n *testNode, id catalog.ID, kind store.OpKind, off int64, p []byte) error {
	t.Helper()
	s := n.Daemon().disks[0].store
	v, err := s.OpenVolume(id)
	if err != nil {
		t.Fatal(err)
	}
	defer s.CloseVolume(v)
	done := make(chan struct{})
	op := &store.Op{Kind: kind, Vol: v, Off: off, Len: len(p), Data: [][]byte{p}, Done: func(*store.Op) { close(done) }}
	s.Submit([]*store.Op{op})
	<-done
	return op.Err
}

// wantEqualCopies compares 64 MiB of all copies.
func wantEqualCopies(t *testing.T, nodes []*testNode, id catalog.ID) {
	t.Helper()
	first, other := disk.NewAligned(1<<20), disk.NewAligned(1<<20)
	for off := int64(0); off < 64<<20; off += 1 << 20 {
		for i, n := range nodes {
			p := other
			if i == 0 {
				p = first
			}
			if err := stored(t, n, id, store.OpRead, off, p); err != nil {
				t.Fatalf("the copy of %s at %d: %v", n.cfg.Name, off, err)
			}
			if i > 0 && !bytes.Equal(first, other) {
				t.Fatalf("the copies of %s and %s differ at %d", nodes[0].cfg.Name, n.cfg.Name, off)
			}
		}
	}
}

// metric is the sum of a metric with all of these label values.
func metric(t *testing.T, n *testNode, name string, labels ...string) (sum float64) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newCollector(n.Daemon()))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			has := slices.DeleteFunc(slices.Clone(labels), func(want string) bool {
				for _, l := range m.GetLabel() {
					if l.GetValue() == want {
						return true
					}
				}
				return false
			})
			if f.GetName() == name && len(has) == 0 {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// wantEvent is for an event of a kind that says all of these words.
func wantEvent(t *testing.T, n *testNode, kind string, words ...string) {
	t.Helper()
	list, _ := n.Daemon().events.after(0)
	var of []string
	for _, e := range list {
		if e.kind != kind {
			continue
		}
		of = append(of, e.subject+": "+e.message)
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(of[len(of)-1], w) }) {
			return
		}
	}
	t.Errorf("no event %s of %s says %q: %q", kind, n.cfg.Name, words, of)
}

// What one disk has got wrong is repaired from the others: by hosts that read
// it, by the scrub of the volume where none does, and at once by the scrub of the
// disk where its node owns the volume. Hosts go on meanwhile.
func TestWrongCopiesAreRepaired(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	id := sharedVolumeOn(t, a, nodes, "v")
	owner := ownerOf(t, nodes, id)
	others := slices.DeleteFunc(slices.Clone(nodes), func(n *testNode) bool { return n == owner })
	v, dev := owner.Daemon().shared.Load().sharedVolume(id), volumeDevice(t, owner.Daemon(), "v")
	block := func(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "block %010d", i), disk.BlockBytes/16) }
	const mib = 1 << 20
	for i := range 3 {
		if err := blockdev.WriteAt(dev, block(i), int64(i)*mib+8192); err != nil {
			t.Fatal(err)
		}
	}

	rot(t, owner, block(0))
	until(t, "reads have repaired the owner's copy", func() bool { // each but those that a slow disk has others asked for
		got := make([]byte, disk.BlockBytes)
		if err := blockdev.ReadAt(dev, got, 8192); err != nil || !bytes.Equal(got, block(0)) {
			t.Fatalf("a read of what one disk has wrong: %v", err)
		}
		return v.Status().Volume.Repairs > 0
	})
	if n := metric(t, owner, "blockd_volume_repairs_total", "v"); n == 0 {
		t.Error("the metric does not count the repair")
	}
	wantEqualCopies(t, nodes, id)

	rot(t, others[0], block(1))
	if err := stored(t, others[1], id, store.OpWrite, 2*mib+8192, block(7)); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var writes atomic.Int64
	var load sync.WaitGroup
	load.Go(func() {
		for i := 10; !stop.Load(); i++ {
			if err := writeAsHosts(dev, block(i), int64(i%64)*mib+32768); err != nil {
				t.Error(err)
				return
			}
			writes.Add(1)
		}
	})
	v.scrubOnce(t.Context())
	before := writes.Load()
	until(t, "hosts go on", func() bool { return writes.Load() > before })
	stop.Store(true)
	load.Wait()
	if before == 0 {
		t.Error("no host wrote during the scrub")
	}
	wantEvent(t, owner, "volume.scrub", "v: at byte 1048576:", "of node "+others[0].cfg.Name, "could not be read")
	wantEvent(t, owner, "volume.scrub", "v: at byte 2097152:", "of node "+others[1].cfg.Name, "differed from most in 4KiB")
	for name, want := range map[string]float64{"unreadable": 1, "different": 1, "lost": 0} {
		if n := metric(t, owner, "blockd_volume_scrub_regions_total", "v", name); n != want {
			t.Errorf("the metric has %v of %s", n, name)
		}
	}
	if rounds, n := metric(t, owner, "blockd_volume_scrub_rounds_total"), metric(t, owner, "blockd_volume_scrub_bytes_total"); rounds != 1 || n != 64*mib {
		t.Errorf("%v rounds, %v bytes", rounds, n)
	}
	wantEqualCopies(t, nodes, id)

	// The disks' scrubs: of the owner's disk, and of another's.
	rot(t, owner, block(0))
	owner.Daemon().scrubOnce(t.Context(), owner.Daemon().disks[0])
	wantEvent(t, owner, "scrub.error", "volume v at byte", "written again from the others")
	wantEqualCopies(t, nodes, id)
	rot(t, others[0], block(1))
	others[0].Daemon().scrubOnce(t.Context(), others[0].Daemon().disks[0])
	wantEvent(t, others[0], "scrub.error", "volume v at byte", "node that owns the volume")
	v.scrubOnce(t.Context())
	wantEqualCopies(t, nodes, id)
	if !slices.ContainsFunc(owner.Daemon().diagnose(), func(f *blockdv1.Finding) bool {
		return f.GetSubject() == "scrub of volume v" && f.GetLevel() == string(levelWarning)
	}) {
		t.Error("the doctor says nothing of it")
	}
}

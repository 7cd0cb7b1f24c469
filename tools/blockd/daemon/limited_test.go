package daemon

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

// load keeps reads outstanding at a device until it is stopped.
type load struct {
	ended, busy, failed atomic.Int64
	stopped             atomic.Bool
	left                chan struct{} // of each request, once stopped
	depth               int
}

func startLoad(dev blockdev.Device, depth, bytes int) *load {
	l := &load{depth: depth, left: make(chan struct{}, depth)}
	for i := range depth {
		r := &blockdev.Request{Op: blockdev.OpRead, Offset: int64(i * bytes), Length: int64(bytes), Data: [][]byte{make([]byte, bytes)}}
		batch := []*blockdev.Request{r}
		r.Done = func(r *blockdev.Request) {
			switch {
			case r.Err == nil:
				l.ended.Add(1)
			case errors.Is(r.Err, blockdev.ErrBusy):
				l.busy.Add(1)
			default:
				l.failed.Add(1)
			}
			if l.stopped.Load() {
				l.left <- struct{}{}
				return
			}
			go dev.Submit(batch)
		}
		dev.Submit(batch)
	}
	return l
}

func (l *load) stop() {
	l.stopped.Store(true)
	for range l.depth {
		<-l.left
	}
}

// loads are under one limit.
type loads struct {
	of    []*load
	since time.Time // before the limit was set
	from  int64     // requests that had ended then
}

// countedFrom begins to count, before a limit is set.
func countedFrom(of ...*load) *loads {
	l := &loads{of: of, since: time.Now()}
	l.from = l.ended()
	return l
}

// ended is how many requests of all loads have ended since.
func (l *loads) ended() (n int64) {
	for _, of := range l.of {
		n += of.ended.Load()
	}
	return n - l.from
}

// want waits until another count of requests have ended, and compares all that have with what
// may have in the time: the limit a second, what a bucket holds, and more that may have
// gone before. A busy machine does not come up to it; that nothing keeps requests from it is
// for the tests of package qos, with a time of their own.
func (l *loads) want(t *testing.T, what string, count int64, perSecond, more float64) {
	t.Helper()
	to := l.ended() + count
	until(t, what+": requests end", func() bool { return l.ended() >= to })
	got, took := l.ended(), time.Since(l.since).Seconds()
	if most := perSecond*(took+0.1) + more; float64(got) > most {
		t.Errorf("%s: %d in %.1f s, want at most %.0f", what, got, took, most)
	}
}

// The hosts of a volume share its limit, over both protocols; a change holds at once for
// what waits; other volumes of the same connections go on meanwhile.
func TestLimitsOfAVolume(t *testing.T) {
	t.Parallel()
	d := start(t, testConfig(t.TempDir()))
	defer stop(t, d)
	h := attach(t, d)
	mustCtl(t, d, "volume", "create", "w", "--size", "64MiB")
	mustCtl(t, d, "map", "w", "any")
	h.told(0, 4, 0x3f0e)
	other, err := h.nvme.Namespace(2)
	if err != nil {
		t.Fatal(err)
	}
	held := countedFrom()
	mustCtl(t, d, "volume", "set", "v", "--iops", "100")
	scsi, nvme := startLoad(h.scsi, 32, 4096), startLoad(h.ns, 32, 4096)
	held.of = []*load{scsi, nvme}
	held.want(t, "100 operations", 200, 100, 0)
	if scsi.ended.Load() == 0 || nvme.ended.Load() == 0 {
		t.Errorf("iSCSI has had %d and NVMe %d", scsi.ended.Load(), nvme.ended.Load())
	}
	mustCtl(t, d, "volume", "set", "v", "--iops", "10")
	held = countedFrom(scsi, nvme)
	for n := int64(0); n < 20 || n < 2*held.ended(); n++ { // behind those that are held it would be one after each of them
		if err := blockdev.ReadAt(other, make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
		if held.ended() > 300 {
			t.Fatalf("while 300 reads ended of those that are held, only %d did of a volume without limits", n)
		}
	}
	dev := volumeDevice(t, d, "v")
	if s := dev.limiter.Stats(); s.Now == 0 || s.Held < 50 {
		t.Errorf("%+v", s)
	}

	held = countedFrom(scsi, nvme)
	mustCtl(t, d, "volume", "set", "v", "--iops", "none", "--bandwidth", "1MiB")
	held.want(t, "1 MiB", 900, 256, 64)
	mustCtl(t, d, "volume", "set", "v", "--bandwidth", "none")
	until(t, "nothing waits", func() bool { return dev.limiter.Stats().Now == 0 })
	if dev.limiter.Bounded() {
		t.Error("it is limited still")
	}
	scsi.stop()
	nvme.stop()
	if n := scsi.failed.Load() + scsi.busy.Load() + nvme.failed.Load() + nvme.busy.Load(); n != 0 {
		t.Errorf("%d requests have failed", n)
	}
}

// A host that goes away takes what it has waiting with it, and a node that stops does
// not wait for what is held, which goes in the order in which it came: one MiB a second.
func TestHeldRequestsEndWithTheirHost(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.ArenaSize = 128 << 20 // what is held keeps its buffer
	d := start(t, cfg)
	h := attach(t, d)
	mustCtl(t, d, "volume", "set", "v", "--bandwidth", "1MiB")
	dev := volumeDevice(t, d, "v")
	scsi := startLoad(h.scsi, 32, 1<<20) // half a minute's worth
	until(t, "iSCSI requests wait", func() bool { return dev.limiter.Stats().Now > 20 })
	nvme := startLoad(h.ns, 60, 256<<10) // and a quarter
	until(t, "NVMe commands wait", func() bool { return dev.limiter.Stats().Now > 32+40 })
	nvme.stopped.Store(true)
	h.nvme.Close()
	until(t, "the NVMe host's are gone", func() bool { return dev.limiter.Stats().Now <= 32 })
	if done := scsi.ended.Load(); done >= 32 {
		t.Errorf("they are gone after %d of those before them, as if they had been done", done)
	}
	scsi.stopped.Store(true)
	left, begin := dev.limiter.Stats().Now, time.Now()
	stop(t, d)
	if took := time.Since(begin); took >= time.Duration(left)*time.Second {
		t.Errorf("the stop took %v with %d MiB held, as if they had been done", took, left)
	}
}

// Limits are shown and kept, tried without effect, refused with words, and counted.
func TestLimitsAreShown(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	d := start(t, cfg)
	type shown struct {
		Limits struct {
			IOPS           uint64 `json:"iops"`
			BytesPerSecond uint64 `json:"bytes_per_second"`
			BurstSeconds   uint32 `json:"burst_seconds"`
		} `json:"limits"`
	}
	v := mustJSON[shown](t, d, "volume", "create", "v", "--size", "64MiB", "--iops", "100", "--bandwidth", "10MiB", "--burst", "30s")
	if v.Limits.IOPS != 100 || v.Limits.BytesPerSecond != 10<<20 || v.Limits.BurstSeconds != 30 {
		t.Errorf("created with %+v", v)
	}
	if out := mustCtl(t, d, "volume", "set", "v", "--iops", "700", "--dry-run"); !strings.Contains(out, "iops 100, bytes/s 10485760, burst 30 s to iops 700") {
		t.Errorf("--dry-run says %s", out)
	}
	refused(t, d, "want 10 to", "volume", "set", "v", "--iops", "1")
	refused(t, d, "no volume \"w\"", "volume", "set", "w", "--iops", "100")
	refused(t, d, "give --iops or --bandwidth too", "volume", "create", "w", "--size", "64MiB", "--burst", "3s")
	mustCtl(t, d, "volume", "set", "v", "--burst", "1m")
	if out := mustCtl(t, d, "audit"); !strings.Contains(out, "volume.limit") || !strings.Contains(out, "burst 60 s") {
		t.Errorf("the audit log:\n%s", out)
	}
	stop(t, d)
	d = start(t, cfg)
	defer stop(t, d)
	if v := mustJSON[shown](t, d, "volume", "show", "v"); v.Limits.IOPS != 100 || v.Limits.BurstSeconds != 60 {
		t.Errorf("after a restart %+v", v)
	}
	if out := mustCtl(t, d, "volume", "show", "v"); !strings.Contains(out, "100 iops, 10MiB/s, burst 1m0s") {
		t.Errorf("shown as\n%s", out)
	}
	if !volumeDevice(t, d, "v").limiter.Bounded() {
		t.Error("after a restart it is not limited")
	}
	_, metrics := get(t, d, "/metrics")
	for _, want := range []string{`blockd_volume_limit_per_second{of="operations",volume="v"} 100`, `blockd_volume_held_total{volume="v"} 0`,
		`blockd_volume_held_seconds_total{volume="v"} 0`, `blockd_volume_held_requests{volume="v"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// The limit of a volume with several copies is that of all nodes together, whoever owns it,
// and what is forwarded does not wait in the owner's memory for all of it.
func TestLimitsAreTheVolumes(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	id := sharedVolumeOn(t, a, nodes, "v")
	client := a.client()
	set := func(iops uint64) {
		t.Helper()
		if _, err := blockdv1connect.NewVolumeServiceClient(client, nodes[1].url()).SetVolumeLimits(t.Context(),
			connect.NewRequest(&blockdv1.SetVolumeLimitsRequest{Name: "v", Iops: &iops})); err != nil {
			t.Fatal(err)
		}
	}
	owner, held := ownerOf(t, nodes, id), countedFrom()
	set(100)
	for _, n := range nodes {
		held.of = append(held.of, startLoad(volumeDevice(t, n.Daemon(), "v"), 32, 4096))
	}
	held.want(t, "through three nodes", 250, 100, 0)
	for i, n := range nodes {
		s := volumeDevice(t, n.Daemon(), "v").limiter.Stats()
		if held.of[i].ended.Load() == 0 || s.Held == 0 {
			t.Errorf("%s has had %d, %+v", n.cfg.Name, held.of[i].ended.Load(), s)
		}
	}

	var next *testNode
	for _, n := range nodes {
		if n != owner {
			next = n
		}
	}
	if _, err := blockdv1connect.NewLeaseServiceClient(client, nodes[0].url()).MoveLease(t.Context(),
		connect.NewRequest(&blockdv1.MoveLeaseRequest{Volume: "v", To: next.cfg.Name})); err != nil {
		t.Fatal(err)
	}
	until(t, "another node owns it", func() bool { return ownerOf(t, nodes, id) == next })
	held.want(t, "with another owner", 400, 100, 110) // its bucket, and a second in which its timer is late
	set(0)
	for _, n := range nodes {
		until(t, "nothing waits at "+n.cfg.Name, func() bool { return volumeDevice(t, n.Daemon(), "v").limiter.Stats().Now == 0 })
	}
	for i, l := range held.of {
		l.stop()
		if l.failed.Load() != 0 || l.busy.Load() != 0 {
			t.Errorf("%s: %d have failed, %d were told to come again", nodes[i].cfg.Name, l.failed.Load(), l.busy.Load())
		}
	}
	for _, n := range nodes {
		n.Daemon().shared.Load().held.nodes.Range(func(node, of any) bool {
			if of := of.(*heldOf); of.messages.Load() != 0 || of.bytes.Load() != 0 {
				t.Error(fmt.Errorf("%s still counts %d messages of %v", n.cfg.Name, of.messages.Load(), node))
			}
			return true
		})
	}
}

// What nodes forward may not fill the windows that everything else between them needs.
func TestWhatIsHeldOfANodeIsBounded(t *testing.T) {
	var h heldFor
	n := 0
	for h.take("a", 64<<10) {
		n++
	}
	if n != heldBytesMax/(64<<10) || !h.take("b", 64<<10) {
		t.Errorf("%d of 64 KiB are held of a node", n)
	}
	for range n {
		h.give("a", 64<<10)
	}
	for n = 0; h.take("a", 0); {
		n++
	}
	if n != heldMessagesMax {
		t.Errorf("%d messages are held of a node", n)
	}
}

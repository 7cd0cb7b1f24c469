package pump

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/ram"
	"blockd.dev/target/iscsi"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/scsi"
	"blockd.dev/tools/blockbench/iscsihost"
)

// watched counts what a device is asked for.
type watched struct {
	blockdev.Device
	asked chan blockdev.Request
}

func (w *watched) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		select {
		case w.asked <- *r:
		default: // the first ones suffice
		}
	}
	w.Device.Submit(batch)
}

func newDisk(t *testing.T) (*watched, *arena.Arena) {
	t.Helper()
	a, err := arena.New(arena.Config{SizeBytes: 64 << 20, HugePages: arena.Off})
	if err != nil {
		t.Fatal(err)
	}
	d, err := ram.New(ram.Config{SizeBytes: 8 << 20, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(a.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	})
	return &watched{d, make(chan blockdev.Request, 64)}, a
}

func listen(t *testing.T, serve func(net.Listener) error, shutdown func(context.Context) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = shutdown(ctx) // whatever is still connected is cut off
		if err := <-served; !errors.Is(err, nvmetcp.ErrClosed) && !errors.Is(err, iscsi.ErrClosed) {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func nvmeTarget(t *testing.T) (*watched, func(Access) (Dialer, Shape, error)) {
	t.Helper()
	disk, a := newDisk(t)
	const nqn = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111"
	id := nvme.VolumeID{1}
	sub, err := nvme.NewSubsystem(nvme.Config{NQN: nqn, Serial: "1", AnyView: nvme.View{1: id},
		Namespaces: []nvme.NamespaceConfig{{ID: id, Name: "v", Device: disk}}}, nvme.Deps{Arena: a})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	srv, err := nvmetcp.New(nvmetcp.Config{Subsystem: sub, Arena: a})
	if err != nil {
		t.Fatal(err)
	}
	addr := listen(t, func(ln net.Listener) error { return srv.Serve(ln, 1) }, srv.Shutdown)
	return disk, func(x Access) (Dialer, Shape, error) { return NVMe(addr, nqn, 1, x) }
}

func iscsiTarget(t *testing.T) (*watched, func(Access) (Dialer, Shape, error)) {
	t.Helper()
	disk, a := newDisk(t)
	const iqn = "iqn.2026-01.dev.blockd:pump-test"
	id := scsi.UnitID{1}
	target, err := scsi.NewTarget(scsi.TargetConfig{Name: iqn, AnyView: scsi.View{0: id},
		Units: []scsi.UnitConfig{{ID: id, Name: "v", Device: disk}}}, scsi.Deps{Arena: a})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Close)
	srv, err := iscsi.New(iscsi.Config{TargetName: iqn, Target: target, Arena: a})
	if err != nil {
		t.Fatal(err)
	}
	addr := listen(t, func(ln net.Listener) error { return srv.Serve(ln, 1) }, srv.Shutdown)
	return disk, func(x Access) (Dialer, Shape, error) {
		return ISCSI(iscsihost.Config{Address: addr, Target: iqn}, x)
	}
}

// Both protocols' requests are what was asked for, in the
// range, and every one is answered: with a depth as large as iSCSI's command
// window, and for requests that take several PDUs to answer.
func TestClientsOfRealTargets(t *testing.T) {
	for name, start := range map[string]func(*testing.T) (*watched, func(Access) (Dialer, Shape, error)){"nvme": nvmeTarget, "iscsi": iscsiTarget} {
		for _, spin := range []bool{false, true} {
			for _, x := range []Access{
				{Bytes: 4096, Depth: 128}, {Bytes: 4096, Depth: 8, Write: true}, {Bytes: 512 << 10, Depth: 4},
			} {
				x.Range = 4 << 20
				t.Run(fmt.Sprintf("%s, %+v, spinning %v", name, x, spin), func(t *testing.T) {
					disk, dialer := start(t)
					dial, shape, err := dialer(x)
					if err != nil {
						t.Fatal(err)
					}
					res, err := Run(t.Context(), dial, shape, 2, 50*time.Millisecond, spin)
					if err != nil || res.Ops < 2 || res.P50 <= 0 {
						t.Errorf("%+v, %v", res, err)
					}
					for len(disk.asked) > 0 {
						r := <-disk.asked
						if r.Length < 4096 {
							continue // a login looks at the first block
						}
						if (r.Op == blockdev.OpWrite) != x.Write || r.Length != int64(x.Bytes) || r.Offset%r.Length != 0 || r.Offset+r.Length > x.Range {
							t.Fatalf("a %v of %d bytes at %d", r.Op, r.Length, r.Offset)
						}
					}
				})
			}
		}
	}
}

// A write whose data does not fit its command is refused before it is sent.
func TestLongWritesAreRefused(t *testing.T) {
	for name, start := range map[string]func(*testing.T) (*watched, func(Access) (Dialer, Shape, error)){"nvme": nvmeTarget, "iscsi": iscsiTarget} {
		_, dialer := start(t)
		dial, shape, err := dialer(Access{Bytes: 1 << 20, Range: 4 << 20, Depth: 1, Write: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), dial, shape, 1, time.Millisecond, false); err == nil || !strings.Contains(err.Error(), "at most") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Requests go all over the range, and not beyond.
func TestPlacesCoverTheRange(t *testing.T) {
	x := Access{Bytes: 8192, Range: 10 * 8192}
	p := x.places(512)
	seen := map[uint64]bool{}
	for range 1000 {
		seen[p.next()] = true
	}
	for i := range uint64(10) {
		if !seen[i*16] {
			t.Errorf("nothing goes to block %d", i*16)
		}
	}
	if len(seen) != 10 {
		t.Errorf("%d places: %v", len(seen), seen)
	}
}

func TestAccessBeyondAnyTargetIsRefused(t *testing.T) {
	for _, x := range []Access{{}, {Bytes: 100, Range: 1 << 20, Depth: 1}, {Bytes: 8192, Range: 4096, Depth: 1}, {Bytes: 2 << 20, Range: 4 << 20, Depth: 1}} {
		if _, _, err := NVMe("", "", 1, x); err == nil {
			t.Errorf("%+v was taken for NVMe", x)
		}
		if _, _, err := ISCSI(iscsihost.Config{}, x); err == nil {
			t.Errorf("%+v was taken for iSCSI", x)
		}
	}
}

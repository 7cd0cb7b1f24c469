package nvmehost_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/devtest"
	"blockd.dev/blockdev/ram"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/nvmetcp/nvmehost"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const subNQN = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111"

// serve starts a target with one namespace and returns its address.
func serve(t testing.TB, d blockdev.Device, limits nvmetcp.Limits) (addr string, a *arena.Arena) {
	t.Helper()
	a, err := arena.New(arena.Config{SizeBytes: 64 << 20, HugePages: arena.Off})
	if err != nil {
		t.Fatal(err)
	}
	id := nvme.VolumeID{1}
	sub, err := nvme.NewSubsystem(nvme.Config{
		NQN: subNQN, Serial: "1", Namespaces: []nvme.NamespaceConfig{{ID: id, Name: "v", Device: d}}, AnyView: nvme.View{1: id},
	}, nvme.Deps{Arena: a})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := nvmetcp.New(nvmetcp.Config{Subsystem: sub, Arena: a, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln, 1) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil && !errors.Is(err, nvmetcp.ErrClosed) {
			t.Error(err)
		}
		sub.Close()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String(), a
}

func ramDevice(t testing.TB, cfg ram.Config) *ram.Device {
	t.Helper()
	d, err := ram.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// A RAM device behind the wire passes the conformance suite of devices, in
// every shape the wire can take.
func TestDeviceConformanceOverTheWire(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg    nvmehost.Config
		limits nvmetcp.Limits
		block  int
	}{
		"plain":               {block: 512},
		"4096, three queues":  {block: 4096, cfg: nvmehost.Config{Queues: 3}},
		"digests, aligned":    {block: 512, cfg: nvmehost.Config{HeaderDigest: true, DataDigest: true, HPDA: 31, Queues: 2}},
		"flow control, R2T":   {block: 512, cfg: nvmehost.Config{SQFlow: true, NoInline: true, Depth: 16}},
		"small PDUs, digests": {block: 512, cfg: nvmehost.Config{DataDigest: true, NoInline: true}, limits: nvmetcp.Limits{MaxH2CData: 4096, BufferBytes: 1 << 20}},
	} {
		t.Run(name, func(t *testing.T) {
			devtest.Run(t, func(t *testing.T) (blockdev.Device, *arena.Arena) {
				addr, _ := serve(t, ramDevice(t, ram.Config{SizeBytes: 8 << 20, BlockSize: tc.block}), tc.limits)
				cfg := tc.cfg
				cfg.Addr, cfg.SubNQN, cfg.HostNQN = addr, subNQN, "nqn.2014-08.org.nvmexpress:uuid:host"
				cfg.HostID[0] = 1
				h, err := nvmehost.Dial(cfg)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(h.Close)
				n, err := h.Namespace(1)
				if err != nil {
					t.Fatal(err)
				}
				return n, nil
			})
		})
	}
}

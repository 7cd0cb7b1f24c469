package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/internal/clock"
	"blockd.dev/replication/device"
	"blockd.dev/replication/message"
	"blockd.dev/replication/replica"
	replicated "blockd.dev/replication/volume"
	"blockd.dev/target/iscsi"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/target/scsi"
	"blockd.dev/tools/blockbench/iscsihost"
)

const (
	goneIQN = "iqn.2026-01.dev.blockd:gone"
	goneNQN = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111"
)

// A write waits for an owner, its connection is reset, and then there is an owner:
// the write must not be done, since its host may have sent it by another path, and newer
// ones. Late and Patience, which would end it too, are an hour here.
func TestAWriteDoesNotOutliveItsConnection(t *testing.T) {
	for name, serve := range map[string]func(*testing.T, blockdev.Device) (dial func(addr string) blockdev.Device, addr string){
		"NVMe/TCP": serveNVMe, "iSCSI": serveISCSI,
	} {
		t.Run(name, func(t *testing.T) {
			one := &oneReplica{}
			v, err := device.New(device.Config{
				ID: [16]byte{1}, SizeBytes: 64 << 20, BlockSize: 4096, Layout: oneExtent{}, MinInSync: 1, Transport: one, Meta: one,
				Patience: time.Hour, Late: time.Hour,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = v.Close() })
			seen := &tap{Device: newMeter(unshared{v}, func(error) {})}
			dial, addr := serve(t, seen)
			t.Cleanup(v.Leave) // a server's end waits for its requests

			path := newResetter(t, addr)
			host := dial(path.addr())
			ended := make(chan struct{})
			lost := &blockdev.Request{Op: blockdev.OpWrite, Length: 4096, Data: [][]byte{bytes.Repeat([]byte{1}, 4096)}, Done: func(*blockdev.Request) { close(ended) }}
			host.Submit([]*blockdev.Request{lost})
			until(t, "the write to wait for an owner", func() bool { return v.Status().Waiting == 1 })
			gone := seen.last.Load().Gone
			if gone == nil || gone.Load() {
				t.Fatalf("while the connection is there: %v", gone)
			}
			path.reset()
			<-ended
			if lost.Err == nil {
				t.Fatal("the host was told that its write is done")
			}
			until(t, "the end of the connection to be known", gone.Load)

			l := &goneLease{until: clock.Boot{}.Now().Add(time.Hour)}
			members := device.Members{View: replicated.View{Revision: 1, Epoch: 1, Members: []replicated.Member{{Sync: replicated.InSync}}}, Disks: []uint16{1}}
			if err := v.Own(l, 0, members, 0); err != nil {
				t.Fatal(err)
			}
			if err := blockdev.WriteAt(dial(addr), bytes.Repeat([]byte{2}, 4096), 4096); err != nil {
				t.Fatalf("by another connection: %v", err)
			}
			if got := one.changes(); len(got) != 1 || got[0] != 4096 {
				t.Errorf("the replica got writes at %v, want that of the other connection only, at 4096", got)
			}
		})
	}
}

func serveNVMe(t *testing.T, d blockdev.Device) (func(addr string) blockdev.Device, string) {
	mem := goneArena(t)
	id := nvme.VolumeID{1}
	sub, err := nvme.NewSubsystem(nvme.Config{NQN: goneNQN, Serial: "1",
		Namespaces: []nvme.NamespaceConfig{{ID: id, Name: "v", Device: d}}, AnyView: nvme.View{1: id}}, nvme.Deps{Arena: mem})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	srv, err := nvmetcp.New(nvmetcp.Config{Subsystem: sub, Arena: mem})
	if err != nil {
		t.Fatal(err)
	}
	addr := goneListen(t, func(ln net.Listener) error { return srv.Serve(ln, 1) }, srv.Shutdown)
	return func(addr string) blockdev.Device {
		h, err := nvmehost.Dial(nvmehost.Config{Addr: addr, SubNQN: goneNQN, HostNQN: "nqn.2014-08.org.nvmexpress:uuid:22222222-2222-4222-8222-222222222222", HostID: [16]byte{1}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Close)
		n, err := h.Namespace(1)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}, addr
}

func serveISCSI(t *testing.T, d blockdev.Device) (func(addr string) blockdev.Device, string) {
	mem := goneArena(t)
	id := scsi.UnitID{1}
	target, err := scsi.NewTarget(scsi.TargetConfig{Name: goneIQN, AnyView: scsi.View{0: id},
		Units: []scsi.UnitConfig{{ID: id, Name: "v", Device: d}}}, scsi.Deps{Arena: mem})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Close)
	srv, err := iscsi.New(iscsi.Config{TargetName: goneIQN, Target: target, Arena: mem})
	if err != nil {
		t.Fatal(err)
	}
	addr := goneListen(t, func(ln net.Listener) error { return srv.Serve(ln, 1) }, srv.Shutdown)
	return func(addr string) blockdev.Device {
		s, err := iscsihost.Dial(t.Context(), iscsihost.Config{Address: addr, Target: goneIQN})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}, addr
}

func goneArena(t *testing.T) *arena.Arena {
	mem, err := arena.New(arena.Config{SizeBytes: 64 << 20, HugePages: arena.Off})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mem.Close() })
	return mem
}

func goneListen(t *testing.T, serve func(net.Listener) error, shutdown func(context.Context) error) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = serve(ln) // ends with the shutdown
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		<-done
	})
	return ln.Addr().String()
}

// resetter passes connections on to a server, and resets its side of them at once.
type resetter struct {
	net.Listener
	mu   sync.Mutex
	ends []*net.TCPConn
	all  sync.WaitGroup
}

func newResetter(t *testing.T, to string) *resetter {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &resetter{Listener: ln}
	r.all.Go(func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = from.Close()
				return
			}
			r.mu.Lock()
			r.ends = append(r.ends, server.(*net.TCPConn), from.(*net.TCPConn))
			r.mu.Unlock()
			for _, c := range [2][2]net.Conn{{from, server}, {server, from}} {
				r.all.Go(func() { _, _ = io.Copy(c[0], c[1]) })
			}
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		r.reset()
		r.all.Wait()
	})
	return r
}

func (r *resetter) addr() string { return r.Addr().String() }

func (r *resetter) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.ends {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	r.ends = nil
}

// tap shows the last request that passed.
type tap struct {
	blockdev.Device
	last atomic.Pointer[blockdev.Request]
}

func (d *tap) Submit(batch []*blockdev.Request) {
	d.last.Store(batch[len(batch)-1])
	d.Device.Submit(batch)
}

// unshared is a volume as the daemon's meter wants it.
type unshared struct{ *device.Volume }

func (unshared) Resize(int64) error                              { return nil }
func (unshared) NextMapped(_, limit int64) (bool, int64, error)  { return true, limit, nil }
func (unshared) Provisioning() (usedBytes, availableBytes int64) { return 0, 64 << 20 }

type oneExtent struct{}

func (oneExtent) SizeBytes() int64 { return 64 << 20 }
func (oneExtent) Locate(addr int64) (extent uint32, offset, run int64) {
	return 0, addr, 64<<20 - addr
}

type goneLease struct{ until clock.Mono }

func (l *goneLease) Deadline() clock.Mono { return l.until }

// oneReplica answers at once, and notes what it is told to change.
type oneReplica struct {
	mu   sync.Mutex
	offs []int64
}

func (r *oneReplica) Propose([16]byte, replicated.Proposal) {}
func (r *oneReplica) Forward(*message.Forwarded)            { panic("there is no other node") }

func (r *oneReplica) Send(m *message.Sent) {
	q := &m.Request
	m.Lost, m.Response = false, replica.Response{ID: q.ID, Status: replica.OK, Epoch: q.Epoch, Boot: 1}
	switch {
	case q.Kind == replica.Read:
		m.Response.Vers = make([]replica.Version, (q.Off+q.Len-1)>>16-q.Off>>16+1)
	case q.Kind.Changes():
		r.mu.Lock()
		r.offs = append(r.offs, q.Off)
		r.mu.Unlock()
	}
	m.Done(m)
}

func (r *oneReplica) changes() []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.offs
}

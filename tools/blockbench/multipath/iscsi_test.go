package multipath

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/ram"
	"blockd.dev/target/access"
	"blockd.dev/target/iscsi"
	"blockd.dev/target/scsi"
	"blockd.dev/tools/blockbench/iscsihost"
)

// An iSCSI path is what its target port group says, also after that has changed; and one
// that is unavailable refuses what another may do.
func TestISCSIPathFollowsItsGroup(t *testing.T) {
	const name = "iqn.2026-01.dev.blockd:multipath-test"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	memory, err := arena.New(arena.Config{SizeBytes: 96 << 20, HugePages: arena.Off})
	must(err)
	disk, err := ram.New(ram.Config{SizeBytes: 1 << 20, BlockSize: 4096})
	must(err)
	unit := scsi.UnitConfig{ID: scsi.UnitID{1}, Name: "v", Device: disk}
	config := func(state access.State) scsi.TargetConfig {
		unit.Access = state
		return scsi.TargetConfig{Name: name, AnyView: scsi.View{0: unit.ID}, Units: []scsi.UnitConfig{unit},
			Ports: []scsi.PortConfig{{RelativeID: 7, Group: 3}}}
	}
	target, err := scsi.NewTarget(config(access.NonOptimized), scsi.Deps{Arena: memory})
	must(err)
	server, err := iscsi.New(iscsi.Config{TargetName: name, Target: target, Arena: memory})
	must(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l, 7) }()
	s, err := ISCSI(iscsihost.Config{Address: l.Addr().String(), Target: name, Timeout: 20 * time.Second}, nil)(t.Context())
	must(err)
	if s.Optimized() {
		t.Error("a path that is not optimized says that it is")
	}
	b := make([]byte, 4096)
	must(target.Configure(config(access.Optimized)))
	must(blockdev.ReadAt(s, b, 0)) // meets the unit attention
	until(t, s.Optimized)
	must(target.Configure(config(access.Inaccessible)))
	if err := blockdev.ReadAt(s, b, 0); !isPathRelated(err) {
		t.Errorf("a read by a path that is unavailable: %v", err)
	}
	until(t, func() bool { return !s.Optimized() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = server.Shutdown(ctx) // at once
	<-s.Gone()
	must(s.Close())
	if err := <-served; !errors.Is(err, iscsi.ErrClosed) {
		t.Error(err)
	}
	target.Close()
	must(errors.Join(memory.Close(), disk.Close()))
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/fault"
	"blockd.dev/blockdev/ram"
	"blockd.dev/target/iscsi"
	"blockd.dev/target/scsi"
)

// target serves a RAM device behind a fault injector and returns its URL.
func target(t *testing.T) (url string, faults *fault.Device) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mem, err := arena.New(arena.Config{SizeBytes: 64 << 20, HugePages: arena.Off})
	must(err)
	disk, err := ram.New(ram.Config{SizeBytes: 8 << 20, BlockSize: 4096})
	must(err)
	faults = fault.New(disk, nil)
	const name = "iqn.2026-01.dev.blockd:bench-test"
	id := scsi.UnitID{1}
	tgt, err := scsi.NewTarget(scsi.TargetConfig{Name: name, AnyView: scsi.View{0: id},
		Units: []scsi.UnitConfig{{ID: id, Name: "v", Device: faults}}}, scsi.Deps{Arena: mem})
	must(err)
	srv, err := iscsi.New(iscsi.Config{TargetName: name, Target: tgt, Arena: mem})
	must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln, 1) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = srv.Shutdown(ctx)
		if err := <-served; !errors.Is(err, iscsi.ErrClosed) {
			t.Error(err)
		}
		tgt.Close()
		if err := errors.Join(faults.Close(), mem.Close(), disk.Close()); err != nil {
			t.Error(err)
		}
	})
	return "iscsi://" + ln.Addr().String() + "/" + name + "/0", faults
}

func blockbench(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return blockbenchUntil(t.Context(), args...)
}

// blockbenchUntil is blockbench, and an interrupt of it when ctx ends.
func blockbenchUntil(ctx context.Context, args ...string) (string, error) {
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&bytes.Buffer{})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return out.String(), err
}

func TestLoadIsMeasuredAndVerified(t *testing.T) {
	url, _ := target(t)
	journal := filepath.Join(t.TempDir(), "j")
	out, err := blockbench(t, "iscsi", url, "--verify", "--journal", journal, "--zeroed", "--runtime", "200ms", "--connections", "2",
		"--bs", "4K:2,16K", "--mix", "read:4,write:4,unmap,write-zeroes,compare-and-write,flush", "--data-digest", "-o", "json")
	var rep report
	if jsonErr := json.Unmarshal([]byte(out), &rep); errors.Join(err, jsonErr) != nil {
		t.Fatal(err, jsonErr, out)
	}
	if v := rep.Verified; rep.Ops == 0 || rep.Connections != 2 || len(rep.ByOp) != 6 || !v.Complete || v.Checked < 2048 || v.Writes == 0 || v.Open != 0 {
		t.Errorf("%+v %+v", rep, rep.Verified)
	}
	if out, err := blockbench(t, "verify", "--journal", journal, url); err != nil || !strings.Contains(out, "all hold what they must") {
		t.Error(out, err)
	}
	if out, err := blockbench(t, "iscsi", url, "--runtime", "50ms", "--progress", "on"); err != nil || !strings.Contains(out, "randread 4k qd32") {
		t.Error(out, err)
	}
}

// A write that is lost on the way to the medium is found, and is no ordinary
// failure. The load is interrupted once the write is lost, ten seconds before its
// place would be written again.
func TestLostWriteEndsTheProgramWithAStatusOfItsOwn(t *testing.T) {
	url, faults := target(t)
	journal := filepath.Join(t.TempDir(), "j")
	lost, err := faults.AddText("write nth=50 lost")
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	go func() {
		defer interrupt()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for lost.Hits() == 0 && ctx.Err() == nil {
			<-tick.C
		}
	}()
	out, err := blockbenchUntil(ctx, "iscsi", url, "--verify", "--journal", journal, "--zeroed", "--runtime", "1m", "--sequential", "--read-percent", "0",
		"--bs", "4K", "--range", "8MiB", "--depth", "1", "--rate", "200")
	var data dataError
	if !errors.As(err, &data) || !strings.Contains(out, "lost write: the block at") || !strings.Contains(out, "violations") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestArgumentsAreChecked(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("DHHC-1:xx:"), 0o600); err != nil {
		t.Fatal(err)
	}
	const u, v = "iscsi://127.0.0.1:1/iqn.2026-01.dev.blockd:x/0", "nvme://127.0.0.1:1/nqn.2026-01.dev.blockd:x/1"
	for _, tc := range []struct{ want, args string }{
		{"go together", "iscsi " + u + " --verify"},
		{"go together", "nvme " + v + " --journal j"},
		{"needs --verify", "iscsi " + u + " --mix compare-and-write"},
		{"--bs", "iscsi " + u + " --bs 4X"},
		{"--connections", "iscsi " + u + " --connections 0"},
		{"--progress", "iscsi " + u + " --progress maybe"},
		{"output format", "iscsi " + u + " -o xml"},
		{"output format", "verify --journal j -o xml " + u},
		{"--range", "iscsi " + u + " --range x"},
		{"want iscsi://", "iscsi http://x"},
		{"want nvme://", "nvme " + u},
		{"NSID", "nvme nvme://h/nqn/0"},
		{"want iscsi://", "verify --journal j ftp://x"},
		{"journal", "verify " + u},
		{"DH-HMAC-CHAP", "nvme " + v + " --dhchap-key-file " + key},
		{"refused", "iscsi " + u},
		{"refused", "nvme " + v},
		{"--only", "suite --only other"},
	} {
		if out, err := blockbench(t, strings.Fields(tc.args)...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want words with %q; printed %s", tc.args, err, tc.want, out)
		}
	}
}

package daemon

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/target/reservation"
	"blockd.dev/tools/blockbench/iscsihost"
)

// isIn reports whether a goroutine is in a method.
func isIn(method string) bool {
	b := make([]byte, 4<<20)
	return strings.Contains(string(b[:runtime.Stack(b, true)]), "daemon.(*"+method+"(")
}

// held takes a lock, and gives it back when it is let go, or the test ends and the daemon wants it.
func held(t *testing.T, mu sync.Locker) (letGo func()) {
	mu.Lock()
	letGo = sync.OnceFunc(mu.Unlock)
	t.Cleanup(letGo)
	return letGo
}

// Who configures the target late, because others were at it, shows hosts what the catalog
// is then, not what it was before: nobody might do so after it.
func TestTheNewestStateIsConfigured(t *testing.T) {
	d := start(t, testConfig(t.TempDir()))
	mustCtl(t, d, "volume", "create", "v", "--size", "64MiB")
	do := func(cmd *catalogpb.Command) {
		t.Helper()
		if _, err := d.do(nil, cmd); err != nil {
			t.Fatal(err)
		}
	}
	id := newID()
	// The reconciler comes to the end of this change, and no further.
	reconcile := held(t, &d.applied.mu)
	do(&catalogpb.Command{Kind: &catalogpb.Command_CreateHost{CreateHost: &catalogpb.CreateHost{Id: id[:], Name: "h", Iqn: "iqn.2026-01.example:h"}}})
	until(t, "the reconciler to be there", func() bool { return isIn("applied).set") })
	configure := held(t, &d.configuring)
	configured := make(chan error, 1)
	go func() { configured <- d.configureTarget() }()
	until(t, "it waits", func() bool { return isIn("Daemon).configureTarget") })
	do(&catalogpb.Command{Kind: &catalogpb.Command_MapVolume{MapVolume: &catalogpb.MapVolume{Volume: "v", Host: catalog.AnyHost}}})
	configure()
	if err := <-configured; err != nil {
		t.Error(err)
	}
	s, err := iscsihost.Dial(t.Context(), iscsihost.Config{Address: d.ISCSIAddresses()[0], Target: d.catalog.State().IQN})
	reconcile()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A volume whose reservations can't be read is told of and kept from hosts, and those that come
// after it are configured. It is back with the next change after they can be read.
func TestUnreadableReservationsStopOneVolume(t *testing.T) {
	cfg := testConfig(t.TempDir())
	d := start(t, cfg)
	add := func(d *Daemon, name string) catalog.Volume {
		t.Helper()
		mustCtl(t, d, "volume", "create", name, "--size", "64MiB")
		mustCtl(t, d, "map", name, "any")
		return *d.catalog.State().Volume(name)
	}
	bad := add(d, "bad")
	fenced := &reservation.Command{Op: reservation.OpRegister, From: reservation.NVMe(testHostNQN, [16]byte{1}), NewKey: 7, Persist: reservation.PersistOn}
	if _, err := d.reservations.Apply(t.Context(), reservation.VolumeID(bad.ID), fenced); err != nil {
		t.Fatal(err)
	}
	stop(t, d)
	file := filepath.Join(cfg.Data, "reservations", reservation.VolumeID(bad.ID).String()+".reservations")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, whole[1:], 0o600); err != nil {
		t.Fatal(err)
	}

	d = start(t, cfg)
	seen := func(v catalog.Volume, want bool) {
		t.Helper()
		iqn, nqn := d.catalog.State().IQN, d.catalog.State().NQN
		i, err := iscsihost.Dial(t.Context(), iscsihost.Config{Address: d.ISCSIAddresses()[0], Target: iqn, LUN: uint16(v.LUN)})
		if (err == nil) != want {
			t.Errorf("iSCSI host and volume %s: %v", v.Name, err)
		}
		if err == nil {
			if err := i.Close(); err != nil {
				t.Error(err)
			}
		}
		h, err := nvmehost.Dial(nvmehost.Config{Addr: d.nvme.ports[0].Addr().String(), SubNQN: nqn, HostNQN: testHostNQN, HostID: [16]byte{1}})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		ns, err := h.Namespace(v.NSID())
		if err == nil {
			err = blockdev.WriteAt(ns, make([]byte, 512), 0)
		}
		if (err == nil) != want {
			t.Errorf("NVMe host and volume %s: %v", v.Name, err)
		}
	}
	state := func() (state, reason string) {
		v := mustJSON[map[string]any](t, d, "volume", "show", "bad")
		reason, _ = v["reason"].(string)
		return v["state"].(string), reason
	}
	good := add(d, "good")
	if state, reason := state(); state != "failed" || !strings.Contains(reason, file) {
		t.Errorf("blockctl says %s, %q", state, reason)
	}
	refused(t, d, "something is broken", "doctor")
	seen(bad, false)
	seen(good, true)

	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	next := add(d, "next")
	if state, reason := state(); state != "online" || reason != "" {
		t.Errorf("blockctl says %s, %q, though the reservations can be read", state, reason)
	}
	for _, v := range []catalog.Volume{bad, good, next} {
		seen(v, true)
	}
}

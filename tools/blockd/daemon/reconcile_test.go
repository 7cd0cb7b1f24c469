package daemon

import (
	"runtime"
	"strings"
	"sync"
	"testing"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
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

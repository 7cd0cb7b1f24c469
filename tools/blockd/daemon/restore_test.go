package daemon

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

func backup(t *testing.T, a admin, n *testNode) []byte {
	t.Helper()
	stream, err := blockdv1connect.NewClusterServiceClient(a.client(), n.url()).BackupMeta(t.Context(), connect.NewRequest(&blockdv1.BackupMetaRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for stream.Receive() {
		b.Write(stream.Msg().GetChunk())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A backup brings the state back where it was, and on a machine that has nothing
// but the disk and a copy of the cluster keys. A damaged one is refused, and harms nothing.
func TestRestore(t *testing.T) {
	t.Parallel()
	n := startTestNode(t, clusterConfig(t, 1))
	a := initCluster(t, n)
	hosts := blockdv1connect.NewHostServiceClient(a.client(), n.url())
	if _, err := hosts.CreateHost(t.Context(), connect.NewRequest(&blockdv1.CreateHostRequest{Name: "h", Iqn: "iqn.2026-01.dev.blockd:h",
		Chap: &blockdv1.Chap{User: "u", Secret: "a-secret-of-the-host"}})); err != nil {
		t.Fatal(err)
	}
	if _, err := createVolume(t.Context(), a.client(), n.url(), "v", "1"); err != nil {
		t.Fatal(err)
	}
	file := backup(t, a, n)
	if bytes.Contains(file, []byte("a-secret-of-the-host")) {
		t.Error("the backup has a secret in the clear")
	}
	if _, err := createVolume(t.Context(), a.client(), n.url(), "later", "2"); err != nil {
		t.Fatal(err)
	}
	n.stop()

	damaged := bytes.Clone(file)
	damaged[len(damaged)/2]++
	if _, err := Restore(n.cfg, bytes.NewReader(damaged), ""); err == nil {
		t.Error("a damaged backup was restored")
	}
	n.start()
	if n.Daemon().catalog.State().Volume("later") == nil {
		t.Fatal("a refused restore changed the state")
	}
	n.stop()

	check := func() {
		t.Helper()
		d := n.Daemon()
		until(t, "the restore is in the audit log", func() bool {
			for _, e := range d.catalog.State().Audits {
				if e.Action == "cluster.restore" && strings.HasPrefix(e.Actor, "local:") && e.Source == "local" && strings.Contains(e.Detail, "from a backup of 2") {
					return true
				}
			}
			return false
		})
		until(t, "and nowhere else", func() bool { _, err := os.Stat(d.data.join(fileBrought)); return errors.Is(err, os.ErrNotExist) })
		s := d.catalog.State()
		if s.Volume("v") == nil || s.Volume("later") != nil || d.plane.group.Incarnation() < 2 {
			t.Errorf("not the state of the backup: %+v, incarnation %d", s.Volumes, d.plane.group.Incarnation())
		}
		if h, err := d.catalog.Unseal(s.Host("h")); err != nil || h.Chap.Secret != "a-secret-of-the-host" {
			t.Errorf("the host's secret: %v", err)
		}
		if v, err := createVolume(t.Context(), a.client(), n.url(), "new", "3"); err != nil || v.GetState() != "online" {
			t.Errorf("%v: %v", v, err)
		}
	}
	if _, err := Restore(n.cfg, bytes.NewReader(file), ""); err != nil {
		t.Fatal(err)
	}
	n.start()
	check()
	n.stop()

	old := n.cfg.Data
	n.cfg.Data = t.TempDir()
	if _, err := Restore(n.cfg, bytes.NewReader(file), ""); err == nil {
		t.Error("restored without keys")
	}
	if err := os.Rename(filepath.Join(old, "disk0"), filepath.Join(n.cfg.Data, "disk0")); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(n.cfg, bytes.NewReader(file), filepath.Join(old, dirPKI, "cluster.keys")); err != nil {
		t.Fatal(err)
	}
	n.start()
	check()
}

// The last node of a cluster that has lost the others is made one of its own.
func TestRecover(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	if _, err := createVolume(t.Context(), a.client(), nodes[0].url(), "v", "1"); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if err := n.Daemon().catalog.Barrier(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		n.stop()
	}
	last := nodes[2]
	if err := Recover(last.cfg); err != nil {
		t.Fatal(err)
	}
	last.start()
	if last.Daemon().catalog.State().Volume("v") == nil {
		t.Error("the volume is gone from the catalog")
	}
	if _, err := blockdv1connect.NewPoolServiceClient(a.client(), last.url()).CreatePool(t.Context(), connect.NewRequest(&blockdv1.CreatePoolRequest{Name: "p", Media: "ram"})); err != nil {
		t.Errorf("it takes no changes: %v", err)
	}
}

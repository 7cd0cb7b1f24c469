//go:build e2e

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

// answers asks blockd on a node something, and gives it that long.
func answers(t *testing.T, c *Cluster, name string, patience time.Duration) error {
	t.Helper()
	client, address, err := c.Client(name)
	must(t, err)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = blockdv1connect.NewHostServiceClient(client, address).ListHosts(ctx, connect.NewRequest(&blockdv1.ListHostsRequest{}))
	return err
}

const patience = 30 * time.Second

// TestPauseAndResume: a paused node accepts connections, as the kernel does
// that for it, and answers nothing until it is resumed.
func TestPauseAndResume(t *testing.T) {
	c := idle(t, Config{Nodes: 2})
	must(t, answers(t, c, "n1", patience))
	must(t, c.Pause("n1"))
	expectState(t, c, "n1", "paused")
	if err := answers(t, c, "n1", 300*time.Millisecond); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Errorf("a paused node: %v, want no answer in time", err)
	}
	must(t, answers(t, c, "n2", patience))
	must(t, c.Resume("n1"))
	expectState(t, c, "n1", "running")
	must(t, answers(t, c, "n1", patience))
}

func expectState(t *testing.T, c *Cluster, name, want string) {
	t.Helper()
	st, err := c.Status()
	must(t, err)
	for _, n := range st.Nodes {
		if n.Name == name && n.State != want {
			t.Errorf("%s is %s, want %s", name, n.State, want)
		}
	}
}

// TestKillStopAndRestart: the process is gone, another comes, with the same data.
func TestKillStopAndRestart(t *testing.T) {
	c := idle(t, Config{Nodes: 1})
	for name, end := range map[string]func() error{
		"kill":              func() error { return c.Kill("n1") },
		"stop":              func() error { return c.Stop(patience, "n1") },
		"kill while paused": func() error { return errors.Join(c.Pause("n1"), c.Kill("n1")) },
	} {
		host := strings.ReplaceAll(name, " ", "-")
		_, err := c.Ctl(t.Context(), "n1", "host", "add", host, "--iqn", "iqn.2026-01.dev.blockd.test:"+host)
		must(t, err)
		before := places(t, c)["n1"].Process
		must(t, end())
		expectState(t, c, "n1", "gone")
		// Until it is waited for it is a zombie, which is gone, too.
		if started, state, err := stat(before.PID); err == nil && started == before.Start && state != 'Z' {
			t.Errorf("%s: process %d is still there, in state %c", name, before.PID, state)
		}
		if err := c.Resume("n1"); !errors.Is(err, errGone) {
			t.Errorf("%s: resume: %v, want that it does not run", name, err)
		}
		must(t, c.Restart(t.Context(), "n1"))
		out, err := c.Ctl(t.Context(), "n1", "host", "list")
		must(t, err)
		if !strings.Contains(out, host) {
			t.Errorf("%s: the host is gone after the restart:\n%s", name, out)
		}
	}
	must(t, c.Restart(t.Context(), "n1")) // while it runs
	must(t, answers(t, c, "n1", patience))
}

// volume makes one on n1 and returns its URL for QEMU's tools.
func volume(t *testing.T, c *Cluster) string {
	t.Helper()
	for _, args := range [][]string{{"volume", "create", "v", "--size", "16MiB"}, {"map", "v", "any"}} {
		_, err := c.Ctl(t.Context(), "n1", args...)
		must(t, err)
	}
	out, err := c.Ctl(t.Context(), "n1", "-o", "json", "volume", "show", "v")
	must(t, err)
	var v struct{ IQN string }
	must(t, json.Unmarshal([]byte(out), &v))
	return "iscsi://" + places(t, c)["n1"].ISCSI[0] + "/" + v.IQN + "/0"
}

// qemuIO does I/O from the initiators' place. The tool tells of failed I/O by its status.
func qemuIO(t *testing.T, c *Cluster, url, command string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd, err := c.Command(ctx, HostName, "qemu-io", "-f", "raw", "-c", command, url)
	must(t, err)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

// TestDiskErrors reach the host as errors, and end when the rules do and the
// node is started again; what was acknowledged before is still there.
func TestDiskErrors(t *testing.T) {
	c := idle(t, Config{Nodes: 1})
	url := volume(t, c)
	must(t, qemuIO(t, c, url, "write -P 7 0 64k"))
	if err := c.DiskFaults("n1", "scribble"); err == nil {
		t.Error("a rule that there is not was accepted")
	}
	must(t, c.DiskFaults("n1", "write err=EIO"))
	if err := qemuIO(t, c, url, "write -P 8 64k 64k"); err == nil {
		t.Error("a write to a disk that fails succeeded")
	}
	must(t, c.DiskFaults("n1"))
	must(t, c.Restart(t.Context(), "n1"))
	must(t, qemuIO(t, c, url, "read -P 7 0 64k"))
	must(t, qemuIO(t, c, url, "write -P 9 0 64k"))
	must(t, c.DiskFaults("n1", "read err=EIO"))
	if err := qemuIO(t, c, url, "read 0 64k"); err == nil {
		t.Error("a read from a disk that fails succeeded")
	}
}

// TestDiskFull: what the disks have never held can't be written, what they hold can be read, and room
// that is given back is used.
func TestDiskFull(t *testing.T) {
	c := idle(t, Config{Nodes: 1})
	url := volume(t, c)
	must(t, qemuIO(t, c, url, "write -P 7 0 64k"))
	must(t, c.DiskFull("n1", true))
	st, err := c.Status()
	must(t, err)
	if !st.Nodes[0].DiskFull {
		t.Error("the status says nothing of the full disk")
	}
	file := filepath.Join(places(t, c)["n1"].Data(), "more")
	if err := os.WriteFile(file, []byte("x"), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a new file: %v, want ENOSPC", err)
	}
	if err := qemuIO(t, c, url, "write -P 8 0 8M"); err == nil {
		t.Error("8 MiB were written to a full disk")
	}
	must(t, qemuIO(t, c, url, "read -P 7 0 64k"))
	must(t, c.DiskFull("n1", false))
	must(t, c.Restart(t.Context(), "n1"))
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	must(t, qemuIO(t, c, url, "write -P 8 0 8M"))
}

// The clock of one node is set, and set again, and that of the other is not; what measures times goes on, so
// the node goes on, too.
func TestSetClock(t *testing.T) {
	c := New(t, Config{Nodes: 2, Standalone: true})
	// differ has a node log something, and returns how far its clock is ahead.
	differ := func(node, pool string) time.Duration {
		t.Helper()
		if _, err := c.Ctl(t.Context(), node, "pool", "create", pool); err != nil {
			t.Fatal(err)
		}
		events, err := c.Events(time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Node == node && e.Kind == "pool.create" && e.Subject == pool {
				return time.Until(e.Time).Round(time.Minute)
			}
		}
		t.Fatalf("%s has not logged that it made pool %s: %v", node, pool, events)
		return 0
	}
	for i, ahead := range []time.Duration{0, time.Hour, -400 * 24 * time.Hour, 0} {
		if err := c.SetClock(ahead, "n1"); err != nil {
			t.Fatal(err)
		}
		if got := differ("n1", fmt.Sprint("p", i)); got != ahead {
			t.Errorf("n1's clock is ahead by %v, not %v", got, ahead)
		}
		if got := differ("n2", fmt.Sprint("p", i)); got != 0 {
			t.Errorf("n2's clock is ahead by %v", got)
		}
	}
	if err := c.SetClock(time.Hour, "n1"); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	if got := differ("n1", "last"); got != 0 {
		t.Errorf("a node that was started again is ahead by %v", got)
	}
}

//go:build e2e

package vmtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"blockd.dev/target/auth"
	"blockd.dev/testenv/node"
)

const hostNQN = "nqn.2014-08.org.nvmexpress:uuid:6e1c0f3a-51c5-4a2c-8f0d-0123456789ab"

// nvmeEnv is what scripts/nvme.sh wants to know.
func nvmeEnv(n *node.Node, v node.Volume, more map[string]string) map[string]string {
	env := map[string]string{
		"NVME_PORT": n.NVMePort(0), "DISCOVERY_PORT": n.DiscoveryPort(), "HOSTNQN": hostNQN,
		"NQN": v.NQN, "NSID": strconv.Itoa(v.NSID), "UUID": v.UUID,
	}
	for k, val := range more {
		env[k] = val
	}
	return env
}

// TestNVMeAttach: the Linux host over NVMe/TCP: discovery, queues and digests in
// several shapes, nvme-cli's commands, verified I/O, discard, file systems.
func TestNVMeAttach(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		blockSize, sizeMiB int
		shapes, fileSystem string
	}{
		{512, 64, "-g -d -i,1,-Q,16", "ext4"},
		{4096, 320, "-G -i,4", "xfs"},
	} {
		t.Run(strconv.Itoa(c.blockSize), func(t *testing.T) {
			t.Parallel()
			n := startNode(t)
			v := createVolume(t, n, "disk", c.sizeMiB, c.blockSize)
			r := run{node: n, env: nvmeEnv(n, v, map[string]string{"SHAPES": c.shapes, "FILESYSTEM": c.fileSystem})}
			r.machine.Processors = 2
			r.script(t, "nvme_attach", v)
		})
	}
}

// TestNVMeLive: what a connected host is told: the discovery log changes,
// namespaces come, go and grow, without a reconnect.
func TestNVMeLive(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx := t.Context()
	for _, args := range [][]string{
		{"volume", "create", "first", "--size", "64MiB", "--block-size", "4096"},
		{"volume", "create", "second", "--size", "64MiB", "--block-size", "512"},
	} {
		if _, err := n.Ctl(ctx, args...); err != nil {
			t.Fatal(err)
		}
	}
	first, err := n.ShowVolume(ctx, "first")
	if err != nil {
		t.Fatal(err)
	}
	other, err := n.ShowVolume(ctx, "second")
	if err != nil {
		t.Fatal(err)
	}
	r := run{node: n, env: nvmeEnv(n, first, map[string]string{
		"FIRST": first.UUID, "SECOND": other.UUID, "GROWN": strconv.Itoa(96 * mib)})}
	r.call = func(ctx context.Context, words []string) (string, error) {
		if len(words) < 2 || words[0] != "ctl" {
			return "", fmt.Errorf("no such call: %q", words)
		}
		return n.Ctl(ctx, words[1:]...)
	}
	r.script(t, "nvme_live", first)
}

// TestNVMeReserve: reservations between two NVMe hosts, kept over a restart of
// blockd, and between NVMe and iSCSI.
func TestNVMeReserve(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	v := createVolume(t, n, "disk", 64, 4096)
	r := run{node: n, env: nvmeEnv(n, v, nil), call: restart(n)}
	r.machine.KernelArgs = []string{"nvme_core.multipath=N"}
	r.script(t, "nvme_reserve", v)
}

// TestNVMeMultipath: two ports, two network cards, native multipath: a path goes
// away and returns under verified load, and so do both.
func TestNVMeMultipath(t *testing.T) {
	t.Parallel()
	n, err := node.Start(t.Context(), node.Config{DataDir: t.TempDir(), Portals: 2})
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, n)
	v := createVolume(t, n, "disk", 64, 4096)
	r := run{node: n, env: nvmeEnv(n, v, map[string]string{"NVME_PORT2": n.NVMePort(1)})}
	r.machine.Cards = 2
	r.call = func(ctx context.Context, words []string) (string, error) {
		if len(words) != 1 || words[0] != "crash" {
			return "", fmt.Errorf("no such call: %q", words)
		}
		if err := n.Kill(); err != nil {
			return "", err
		}
		return "", n.Restart(ctx)
	}
	r.script(t, "nvme_multipath", v)
}

// TestNVMeAuthentication: a host with a key is let in with it and by no other
// means.
func TestNVMeAuthentication(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx := t.Context()
	dir := t.TempDir()
	keys := map[string]string{}
	for _, name := range []string{"KEY", "CTRL_KEY", "WRONG_KEY"} {
		k, err := auth.NewDHKey(32, auth.DHSHA256)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(k+"\n"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = k
	}
	for _, args := range [][]string{
		{"volume", "create", "disk", "--size", "64MiB", "--block-size", "4096"},
		{"host", "add", "secure", "--nqn", hostNQN, "--dhchap-key-file", filepath.Join(dir, "KEY")},
		{"map", "disk", "secure"},
	} {
		if _, err := n.Ctl(ctx, args...); err != nil {
			t.Fatal(err)
		}
	}
	v, err := n.ShowVolume(ctx, "disk")
	if err != nil {
		t.Fatal(err)
	}
	r := run{node: n, env: nvmeEnv(n, v, keys)}
	r.call = func(ctx context.Context, words []string) (string, error) {
		if len(words) != 2 || words[0] != "mutual" {
			return "", fmt.Errorf("no such call: %q", words)
		}
		return n.Ctl(ctx, "host", "set", "secure", "--dhchap-key-file", filepath.Join(dir, "KEY"),
			"--dhchap-ctrl-key-file", filepath.Join(dir, "CTRL_KEY"))
	}
	r.script(t, "nvme_auth", v)
}

// TestNVMeCrash is TestCrash over NVMe/TCP: the host reconnects by itself.
func TestNVMeCrash(t *testing.T) {
	t.Parallel()
	crash(t, "nvme_crash", func(n *node.Node, raw, fs node.Volume) map[string]string {
		return nvmeEnv(n, raw, map[string]string{"FS_UUID": fs.UUID})
	})
}

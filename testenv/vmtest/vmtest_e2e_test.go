//go:build e2e

package vmtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"blockd.dev/testenv/node"
	"blockd.dev/testenv/vm"
)

const mib = 1 << 20

// initiator is the name that a guest logs in with, and second the other name
// that reserve.sh takes.
const (
	initiator = "iqn.2026-01.dev.blockd:guest"
	second    = "iqn.2026-01.dev.blockd:second"
)

// stopPatience is how long blockd may take to stop. It gives hosts 4 s to let go,
// and closes its disks after that, on a machine that may be busy.
const stopPatience = 20 * time.Second

// run is one script against one blockd.
type run struct {
	node *node.Node
	env  map[string]string
	call func(ctx context.Context, words []string) (string, error)
	time time.Duration
	// machine is what the guest has that others have not.
	machine vm.Config
}

func startNode(t *testing.T) *node.Node {
	t.Helper()
	n, err := node.Start(t.Context(), node.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, n)
	return n
}

// stopAtEnd stops blockd after the test, and shows the end of its log when that
// failed.
func stopAtEnd(t *testing.T, n *node.Node) {
	t.Helper()
	t.Cleanup(func() {
		if err := n.Stop(stopPatience); err != nil {
			t.Error(err)
		}
		if !t.Failed() {
			return
		}
		all, err := os.CreateTemp("", "blockd-vm-blockd-*.log")
		if err == nil {
			_, err = all.WriteString(n.Log())
			err = errors.Join(err, all.Close())
		}
		if err != nil {
			t.Error(err)
			return
		}
		t.Logf("blockd's log ends with this (all of it: %s):\n%s", all.Name(), lastLines(n.Log(), 30))
	})
}

// lastLines is the end of a text.
func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

func createVolume(t *testing.T, n *node.Node, name string, sizeMiB, blockSize int) node.Volume {
	t.Helper()
	v, err := n.CreateVolume(t.Context(), name, fmt.Sprintf("%dMiB", sizeMiB), blockSize)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// script runs scripts/NAME.sh after the prelude, and fails the test when the
// script or the guest's kernel is not content.
func (r run) script(t *testing.T, name string, v node.Volume) {
	t.Helper()
	var text strings.Builder
	parts := []string{"prelude", name}
	if strings.HasPrefix(name, "nvme_") {
		parts = []string{"prelude", "nvme", name}
	}
	for _, part := range parts {
		b, err := os.ReadFile(filepath.Join("scripts", part+".sh"))
		if err != nil {
			t.Fatal(err)
		}
		text.Write(b)
	}
	env := map[string]string{
		"PORT": r.node.Port(0), "IQN": v.IQN, "LUN": strconv.Itoa(v.LUN),
		"SIZE": strconv.FormatInt(v.SizeBytes, 10), "BLOCK_SIZE": strconv.Itoa(v.BlockSize),
		"INITIATOR": initiator,
	}
	for k, val := range r.env {
		env[k] = val
	}
	c := r.machine
	c.Script, c.Env = text.String(), env
	c.Timeout = max(r.time, 15*time.Minute) // TestAttach took 8 with a load of 25 on two processors
	step, failed := "before its first step", ""
	c.OnLine = func(line string) {
		t.Log(line)
		switch {
		case strings.HasPrefix(line, "FAILED: ") && failed == "":
			failed = "; " + line
		case strings.HasPrefix(line, "== ") && failed == "":
			step = "at the step '" + strings.TrimPrefix(line, "== ") + "'"
		}
	}
	c.OnCall = r.call
	result, err := vm.Run(t.Context(), c)
	t.Logf("%s: boot %.1f s, whole run %.1f s", name, result.Boot.Seconds(), result.Elapsed.Seconds())
	if err == nil {
		return
	}
	if result.ExitCode < 1 { // the script has not shown what the kernel said
		if console, cerr := os.ReadFile(result.ConsolePath); cerr == nil {
			t.Logf("the guest's console ends with\n%s", lastLines(string(console), 25))
		}
	}
	t.Errorf("%s, %s%s: %v", name, step, failed, err)
}

// TestAttach: discovery, login, verified I/O, discard, ext4, xfs, growing the
// volume while it is mounted, logout; with both block sizes.
func TestAttach(t *testing.T) {
	t.Parallel()
	for _, blockSize := range []int{512, 4096} {
		t.Run(strconv.Itoa(blockSize), func(t *testing.T) {
			t.Parallel()
			n := startNode(t)
			v := createVolume(t, n, "disk", 320, blockSize)
			r := run{node: n, env: map[string]string{"GROWN": strconv.Itoa(400 * mib)}}
			r.call = func(ctx context.Context, words []string) (string, error) {
				if len(words) != 2 || words[0] != "resize" {
					return "", fmt.Errorf("no such call: %q", words)
				}
				return n.Ctl(ctx, "volume", "resize", "disk", "--size", words[1])
			}
			r.script(t, "attach", v)
		})
	}
}

// TestNegotiation: digests, bursts and segments in all shapes.
func TestNegotiation(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	run{node: n}.script(t, "negotiation", createVolume(t, n, "disk", 64, 4096))
}

// TestSG: sg3_utils' view.
func TestSG(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	run{node: n}.script(t, "sg", createVolume(t, n, "disk", 64, 512))
}

// TestCHAP: a host with a secret is let in with it and by no other means.
func TestCHAP(t *testing.T) {
	t.Parallel()
	const user, secret = "alice", "a-secret-of-20-chars"
	const mutualUser, mutualSecret = "blockd", "another-secret-of-25-char"
	n := startNode(t)
	ctx := t.Context()
	ctl := func(args ...string) {
		t.Helper()
		if _, err := n.Ctl(ctx, args...); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name, content string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ctl("volume", "create", "disk", "--size", "64MiB", "--block-size", "4096")
	ctl("host", "add", "secure", "--iqn", initiator, "--chap-user", user, "--chap-secret-file", file("secret", secret))
	ctl("map", "disk", "secure")
	v, err := n.ShowVolume(ctx, "disk")
	if err != nil {
		t.Fatal(err)
	}
	mutual := file("mutual", mutualSecret)
	r := run{node: n, env: map[string]string{
		"CHAP_USER": user, "CHAP_SECRET": secret, "MUTUAL_USER": mutualUser, "MUTUAL_SECRET": mutualSecret,
	}}
	r.call = func(ctx context.Context, words []string) (string, error) {
		if len(words) != 2 || words[0] != "mutual" {
			return "", fmt.Errorf("no such call: %q", words)
		}
		return n.Ctl(ctx, "host", "set", "secure", "--mutual-chap-user", mutualUser, "--mutual-chap-secret-file", mutual)
	}
	r.script(t, "chap", v)
}

// TestReserve: persistent reservations between two initiators, kept over a
// restart of blockd.
func TestReserve(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	v := createVolume(t, n, "disk", 64, 512)
	run{node: n, env: map[string]string{"SECOND": second}, call: restart(n)}.script(t, "reserve", v)
}

// restart answers `host restart`: it stops blockd as an administrator would, and
// starts it again.
func restart(n *node.Node) func(ctx context.Context, words []string) (string, error) {
	return func(ctx context.Context, words []string) (string, error) {
		if len(words) != 1 || words[0] != "restart" {
			return "", fmt.Errorf("no such call: %q", words)
		}
		if err := n.Stop(stopPatience); err != nil {
			return "", err
		}
		return "", n.Restart(ctx)
	}
}

// TestCrash: blockd is killed with SIGKILL while fio writes with verification;
// after each restart the initiator carries on, and all that was acknowledged
// is there. BLOCKD_E2E_KILLS says how many times, BLOCKD_E2E_SEED repeats the
// choice of moments.
func TestCrash(t *testing.T) {
	t.Parallel()
	crash(t, "crash", func(_ *node.Node, _, fs node.Volume) map[string]string {
		return map[string]string{"FS_LUN": strconv.Itoa(fs.LUN)}
	})
}

// crash runs a script that writes while it asks for crashes.
func crash(t *testing.T, script string, env func(n *node.Node, raw, fs node.Volume) map[string]string) {
	t.Helper()
	kills := number(t, "BLOCKD_E2E_KILLS", 10)
	seed := number(t, "BLOCKD_E2E_SEED", time.Now().UnixNano()%1e9)
	t.Logf("%d kills, seed %d", kills, seed)
	rnd := rand.New(rand.NewPCG(uint64(seed), 1))

	n := startNode(t)
	createVolume(t, n, "raw", 64, 4096)
	fs := createVolume(t, n, "fs", 64, 512)
	raw, err := n.ShowVolume(t.Context(), "raw")
	if err != nil {
		t.Fatal(err)
	}
	done := int64(0)
	r := run{
		node: n,
		env:  env(n, raw, fs),
		time: time.Duration(kills)*30*time.Second + 3*time.Minute,
	}
	r.env["KILLS"] = strconv.FormatInt(kills, 10)
	r.call = func(ctx context.Context, words []string) (string, error) {
		if len(words) != 1 || words[0] != "crash" {
			return "", fmt.Errorf("no such call: %q", words)
		}
		// Some moment within the writing, and now and then a target that is
		// away for longer than a reconnect takes.
		if err := pause(ctx, time.Duration(rnd.IntN(400))*time.Millisecond); err != nil {
			return "", err
		}
		if err := n.Kill(); err != nil {
			return "", err
		}
		done++
		if rnd.IntN(4) == 0 {
			if err := pause(ctx, time.Duration(rnd.IntN(3000))*time.Millisecond); err != nil {
				return "", err
			}
		}
		start := time.Now()
		if err := n.Restart(ctx); err != nil {
			return "", err
		}
		t.Logf("kill %d: ready again after %v", done, time.Since(start).Round(time.Millisecond))
		return "", nil
	}
	r.script(t, script, raw)
	if done < kills {
		t.Errorf("blockd was killed %d times, want %d", done, kills)
	}
}

// pause lets time pass, which is what a crash at a random moment needs.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func number(t *testing.T, variable string, otherwise int64) int64 {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number from 1", variable, s)
	}
	return n
}

//go:build e2e

package conformance

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"blockd.dev/testenv/node"
)

// variant is one kind of volume that the judges see.
type variant struct {
	name      string
	media     string
	blockSize int
}

var variants = []variant{
	{"disk-512", "disk", 512},
	{"disk-4096", "disk", 4096},
	{"ram-512", "ram", 512},
	{"ram-4096", "ram", 4096},
}

// startNode starts a blockd with two portals and a volume, and stops it when
// the test ends.
func startNode(t *testing.T, v variant, size string) (*node.Node, node.Volume) {
	t.Helper()
	n, err := node.Start(t.Context(), node.Config{DataDir: t.TempDir(), Media: v.media, Portals: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(node.StopMax); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("blockd's log:\n%s", n.Log())
		}
	})
	vol, err := n.CreateVolume(t.Context(), "conformance", size, v.blockSize)
	if err != nil {
		t.Fatal(err)
	}
	return n, vol
}

// TestISCSITestCU runs the ALL family of libiscsi's tests with --dataloss,
// over two portals, on every kind of volume. BLOCKD_E2E_FAMILY narrows the
// family down while a failure is looked into; then only failures count.
func TestISCSITestCU(t *testing.T) {
	page, err := os.ReadFile("../../docs/CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := ParseAllowed(string(page))
	if err != nil {
		t.Fatal(err)
	}
	family := os.Getenv("BLOCKD_E2E_FAMILY")
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			n, vol := startNode(t, v, "256MiB")
			args := []string{"--dataloss", "-v"}
			if family != "" {
				args = append(args, "-t", family)
			} else {
				args = append(args, "-t", "ALL")
			}
			args = append(args, n.URL(0, vol), n.URL(1, vol))
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			output, toolErr := tool(ctx, t, "iscsi-test-cu", args...)
			run := ParseCUnit(output)
			t.Logf("iscsi-test-cu on %s:\n%s", v.name, run.Table())
			if family != "" {
				if run.Count(Failed)+run.Count(Unfinished) > 0 || len(run.Tests) == 0 {
					t.Errorf("%v\n%s", toolErr, output)
				}
				return
			}
			wrong := Judge(run, AllowedFor(allowed, v.blockSize))
			for _, w := range wrong {
				t.Error(w)
			}
			if ctx.Err() != nil {
				t.Errorf("iscsi-test-cu was not done in time: %v", toolErr)
			}
			if len(wrong) > 0 {
				keep := filepath.Join(os.TempDir(), "iscsi-test-cu-"+v.name+".log")
				if err := os.WriteFile(keep, []byte(output), 0o644); err == nil {
					t.Logf("the whole output is in %s", keep)
				}
			}
		})
	}
}

// tool runs a program in a scratch directory and returns what it printed on
// both streams, in order.
func tool(ctx context.Context, t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = t.TempDir()
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// mustTool is tool, where failing fails the test.
func mustTool(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := tool(ctx, t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

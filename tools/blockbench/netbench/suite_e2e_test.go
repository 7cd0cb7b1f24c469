//go:build e2e

package netbench_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"blockd.dev/tools/blockbench/netbench"
)

// The whole suite, as short as it gets: every case connects, xdp too, and is
// measured. Its figures are not looked at.
func TestSuiteRunsEveryCase(t *testing.T) {
	program := filepath.Join(t.TempDir(), "blockbench")
	if out, err := exec.Command("go", "build", "-o", program, "blockd.dev/tools/blockbench").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(program, "net", "suite", "--rounds", "1", "--runtime", "100ms", "-o", "json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var r netbench.Report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Cases) < 20 || len(r.Goals) < 9 || r.Raw.PingPong <= 0 || r.Raw.MBps <= 0 || r.Raw.PerCPU <= 0 {
		t.Errorf("%d cases, %d goals, raw %+v", len(r.Cases), len(r.Goals), r.Raw)
	}
	for _, c := range r.Cases {
		if c.Name != "idle" && c.Messages == 0 {
			t.Errorf("%s %s %s: nothing measured", c.Name, c.Kind, c.Poll)
		}
	}
}

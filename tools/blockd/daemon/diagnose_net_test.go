package daemon

import (
	"strings"
	"testing"
)

// TestDoctorLooksAtTheNetwork of the daemon's own machine, with its privileges.
func TestDoctorLooksAtTheNetwork(t *testing.T) {
	d := start(t, testConfig(t.TempDir()))
	out := mustCtl(t, d, "doctor")
	for _, row := range []string{"network kernel", "network locked memory", "network huge pages"} {
		if !strings.Contains(out, row) {
			t.Errorf("no row %q in\n%s", row, out)
		}
	}
}

package daemon

import "testing"

func TestErasureCodingIsRefused(t *testing.T) {
	t.Parallel()
	d := start(t, testConfig(t.TempDir()))
	defer stop(t, d)
	refused(t, d, "use --replicas 3, which survives the loss of as many disks and takes 3 bytes on disks for each of data, where it would take 1.5", "pool", "create", "p", "--ec", "4+2")
	for _, text := range []string{"4", "4+2+1", "1+1", "four+two", "4+0", " 4+2"} {
		refused(t, d, "want DATA+PARITY such as 4+2", "pool", "create", "p", "--ec", text)
	}
	if d.catalog.State().Pool("p") != nil {
		t.Error("there is such a pool")
	}
}

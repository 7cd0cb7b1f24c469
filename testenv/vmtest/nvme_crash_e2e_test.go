//go:build e2e && nvmecrash

package vmtest

import (
	"testing"

	"blockd.dev/testenv/node"
)

// TestNVMeCrash is TestCrash over NVMe/TCP: the host reconnects by itself. It
// is behind a tag of its own and not a part of `make test`: see docs/TESTING.md.
func TestNVMeCrash(t *testing.T) {
	crash(t, "nvme_crash", func(n *node.Node, raw, fs node.Volume) map[string]string {
		return nvmeEnv(n, raw, map[string]string{"FS_UUID": fs.UUID})
	})
}

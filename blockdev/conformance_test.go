package blockdev_test

import (
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/devtest"
)

// The device of the example is complete: it passes the conformance suite.
func TestMinimalDeviceConforms(t *testing.T) {
	devtest.Run(t, func(*testing.T) (blockdev.Device, *arena.Arena) {
		return &minimal{mem: make([]byte, 2<<20)}, nil
	})
}

package device_test

import (
	"fmt"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/devtest"
)

// The device passes the suite at its owner and at a node that forwards, with
// both block sizes. The tests of a configuration share a cluster: each begins
// with a volume that was unmapped.
func TestConformance(t *testing.T) {
	for at, name := range []string{"owner", "forwarded"} {
		for _, bs := range []int{512, 4096} {
			t.Run(fmt.Sprintf("%s-%d", name, bs), func(t *testing.T) {
				c := newCluster(t, options{blockSize: bs})
				c.meta.grant(c.nodes[0])
				v := c.nodes[at].vol
				devtest.Run(t, func(t *testing.T) (blockdev.Device, *arena.Arena) {
					v.SetReadOnly(false)
					if err := blockdev.Do(v, &blockdev.Request{Op: blockdev.OpUnmap, Length: volumeBytes}); err != nil {
						t.Fatal(err)
					}
					return v, nil
				})
			})
		}
	}
}

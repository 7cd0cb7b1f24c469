package device_test

import (
	"sync"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/replication/device"
)

// A node that keeps a copy forwards more than the window of its connection to the owner holds. The owner
// needs the answers of the copy, which come by that connection too.
func TestForwardedWritesLeaveRoomForAnswers(t *testing.T) {
	c := newCluster(t, options{blockSize: 4096, change: func(cfg *device.Config) { cfg.Late = time.Minute }}) // a slow machine takes seconds for all
	c.meta.grant(c.nodes[0])
	const length, count = 256 << 10, 96
	var all sync.WaitGroup
	batch := make([]*blockdev.Request, count)
	for i := range batch {
		all.Add(1)
		batch[i] = &blockdev.Request{
			Op: blockdev.OpWrite, Offset: int64(i) * length % volumeBytes, Length: length, Data: [][]byte{make([]byte, length)},
			Done: func(r *blockdev.Request) {
				if r.Err != nil {
					t.Error(r.Err)
				}
				all.Done()
			},
		}
	}
	c.nodes[1].vol.Submit(batch)
	all.Wait()
}

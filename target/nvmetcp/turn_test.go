package nvmetcp_test

import (
	"encoding/binary"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/nvmetcp/pdu"
)

// puttingOff is a device that does what it is asked at the end of the turn of who asks.
type puttingOff struct {
	blockdev.Device
	began chan struct{}
}

func (d *puttingOff) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		r.Soon.Do(taskFunc(func() {
			d.began <- struct{}{}
			d.Device.Submit([]*blockdev.Request{r})
		}))
	}
}

type taskFunc func()

func (f taskFunc) Do() { f() }

// What a device has put off until the reader has handed over all that came is done, also when the
// host ends the connection behind it; or the connection would wait for it for ever.
func TestWhatWasPutOffIsDoneWhenTheHostLeaves(t *testing.T) {
	dev := &puttingOff{began: make(chan struct{}, 1)}
	b := newBedOf(t, nvmetcp.Limits{}, nil, func(d blockdev.Device) blockdev.Device {
		dev.Device = d
		return dev
	})
	l := &pdu.Layout{}
	io := b.queueWire(noFlowControl)
	var write pdu.CapsuleCmd
	write.SQE[0], write.SQE[1], write.SQE[4], write.SQE[39] = nvme.OpWrite, 0x40, 1, 0x01
	data := make([]byte, 4096)
	binary.LittleEndian.PutUint32(write.SQE[32:], uint32(len(data)))
	binary.LittleEndian.PutUint16(write.SQE[48:], uint16(len(data)/b.device.Geometry().BlockSize-1))
	together := append(write.Append(nil, l, len(data)), data...)
	io.send((&pdu.TermReq{FromHost: true, Culprit: write.SQE[:24]}).Append(together))
	io.closed()
	select {
	case <-dev.began:
	case <-time.After(10 * time.Second):
		t.Fatal("a write that was put off is not done, and its connection can't end")
	}
}

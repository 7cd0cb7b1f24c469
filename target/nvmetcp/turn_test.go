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
	admin := b.wire()
	admin.init(pdu.IC{})
	admin.send(connectCapsule(31))
	var connected pdu.CapsuleResp
	if _, err := connected.Decode(admin.pdu()); err != nil {
		t.Fatal(err)
	}
	var enable pdu.CapsuleCmd
	enable.SQE[0], enable.SQE[1], enable.SQE[4], enable.SQE[44], enable.SQE[48], enable.SQE[50] = nvme.OpFabrics, 0x40, nvme.FabricsPropertySet, 0x14, 1, 0x46
	admin.send(enable.Append(nil, l, 0))
	if s := admin.response(); s != nvme.Success {
		t.Fatal(s)
	}
	io := b.wire()
	io.init(pdu.IC{})
	connect := connectCapsule(31)
	connect[8+42] = 1                                    // QID
	copy(connect[8+64+16:8+64+18], connected.CQE[:2])    // CNTLID
	binary.LittleEndian.PutUint32(connect[8+48:8+52], 0) // KATO
	io.send(connect)
	if s := io.response(); s != nvme.Success {
		t.Fatal(s)
	}
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

package scsi

import (
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/ram"
)

// SBC-3 §4.7.3.8: hosts of a thin unit are told once that its space is low, and
// again only after there was more; LBPERE=0 switches that off.
func TestSoftThreshold(t *testing.T) {
	const capacity, threshold = 32 << 20, 8 << 20
	thin, err := ram.New(ram.Config{SizeBytes: 64 << 20, CapacityBytes: capacity})
	if err != nil {
		t.Fatal(err)
	}
	b := newBed(t, func(c *TargetConfig) { c.Units[0].Device, c.Units[0].SoftThreshold = thin, threshold })
	const tur, soft = "00 00 00 00 00 00", "02/6/3807"
	other := b.attach("iqn.host-b")
	fill := func(op blockdev.Op, bytes int64) {
		t.Helper()
		r := &blockdev.Request{Op: op, Length: bytes}
		if op == blockdev.OpWrite {
			r.Data = [][]byte{make([]byte, bytes)}
		}
		if err := blockdev.Do(thin, r); err != nil {
			t.Fatal(err)
		}
		b.target.CheckSpace()
	}
	fill(blockdev.OpWrite, capacity-threshold-1<<20)
	b.want("00", tur)
	fill(blockdev.OpWrite, capacity-threshold)
	b.want(soft, tur)
	if r := b.start(other, 0, AttrSimple, fromHex(tur), nil).wait(); r.String() != soft {
		t.Errorf("the other host: %v", r)
	}
	fill(blockdev.OpWrite, capacity-threshold+1<<20)
	b.want("00", tur) // it has been told
	fill(blockdev.OpUnmap, 4<<20)
	fill(blockdev.OpWrite, capacity-threshold)
	b.want(soft, tur)

	p := b.want("00", "1a 08 5c 02 40 00").data[4:] // changeable: nothing
	if p[0] != 0x5c || p[1] != 2 || !zeroes([][]byte{p[4:]}) {
		t.Errorf("changeable: %x", p)
	}
	if p = b.want("00", "1a 08 1c 02 40 00").data[4:]; p[16] != 0x80 || p[17] != 1 || be32(p[20:]) != threshold>>thresholdShift {
		t.Errorf("logical block provisioning page: %x", p)
	}
	b.want("00", "15 10 00 00 10 00", fromHex("00000000 010a 00 00 00 00 00 00 00 00 0000")...) // LBPERE=0
	fill(blockdev.OpUnmap, 4<<20)
	fill(blockdev.OpWrite, capacity-threshold)
	b.want("00", tur)
}

// A unit without a threshold has no page for it.
func TestNoSoftThreshold(t *testing.T) {
	b := newBed(t)
	b.target.CheckSpace()
	b.want("00", "00 00 00 00 00 00")
	b.want("02/5/2400", "1a 08 1c 02 40 00")
}

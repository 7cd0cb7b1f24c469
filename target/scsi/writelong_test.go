package scsi

import (
	"fmt"
	"testing"

	"blockd.dev/blockdev"
)

// SBC-3 §5.40: WRITE LONG with WR_UNCOR makes one block unreadable, or with
// PBLOCK the physical block around it, until it is written.
func TestWriteLong(t *testing.T) {
	b := newBed(t)
	b.want("00", "2a 00 00 00 00 00 00 00 20 00", fill(32*bedBlock, 7)...)
	before := len(b.events)
	b.want("00", "3f 40 00 00 00 05 00 00 00 00")
	r := b.want("02/3/1100", "28 00 00 00 00 00 00 00 08 00")
	if lba := be32(r.sense[3:]); r.sense[0]&0x80 == 0 || lba != 5 {
		t.Errorf("the information field must be 5, the first bad block: %x", r.sense)
	}
	b.want("00", "28 00 00 00 00 06 00 00 02 00")
	b.want("02/3/1100", "2f 00 00 00 00 00 00 00 08 00") // VERIFY
	b.want("00", "2a 00 00 00 00 05 00 00 01 00", fill(bedBlock, 1)...)
	b.want("00", "28 00 00 00 00 00 00 00 08 00")

	b.want("00", "9f 71 00 00 00 00 00 00 00 0d 00 00 00 00 00 00") // PBLOCK: 8 to 15
	b.want("00", "28 00 00 00 00 00 00 00 08 00")
	b.want("00", "28 00 00 00 00 10 00 00 08 00")
	for lba := byte(8); lba < 16; lba++ {
		if r := b.do(fmt.Sprintf("28 00 00 00 00 %02x 00 00 01 00", lba)); r.String() != "02/3/1100" {
			t.Errorf("block %d: %v", lba, r)
		}
	}
	b.want("02/5/2400", "3f 00 00 00 00 05 00 00 00 00") // without WR_UNCOR
	b.want("02/5/2400", "3f c0 00 00 00 05 00 00 00 00") // COR_DIS
	b.want("02/5/2400", "3f 40 00 00 00 05 00 02 08 00") // a length
	b.want("02/5/2100", "3f 40 00 00 10 00 00 00 00 00")
	if n := len(b.events); n != before {
		t.Errorf("events: %v", b.events[before:])
	}
	if p := b.want("00", "12 01 86 00 40 00").data; p[6]&0x08 == 0 {
		t.Error("WU_SUP is not set")
	}
	b.ram.SetReadOnly(true)
	b.want("02/6/2a01", "00 00 00 00 00 00")
	b.want("02/7/2700", "3f 40 00 00 00 05 00 00 00 00")
}

// A device without it has no WRITE LONG.
func TestWriteLongIsOfferedByTheDevice(t *testing.T) {
	b := newBed(t, func(c *TargetConfig) { c.Units[0].Device = plainDevice{c.Units[0].Device} })
	b.want("02/5/2000", "3f 40 00 00 00 05 00 00 00 00")
	if p := b.want("00", "12 01 86 00 40 00").data; p[6]&0x08 != 0 {
		t.Error("WU_SUP is set")
	}
	if p := b.want("00", "a3 0c 01 3f 00 00 00 00 00 40 00 00").data; p[1]&7 != supportNo {
		t.Errorf("REPORT SUPPORTED OPERATION CODES says %x", p)
	}
}

// plainDevice is a device that can't poison.
type plainDevice struct{ blockdev.Device }

func (d plainDevice) Geometry() blockdev.Geometry {
	g := d.Device.Geometry()
	g.Poisons = false
	return g
}

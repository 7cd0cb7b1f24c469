package nvme

import (
	"testing"

	"blockd.dev/blockdev"
)

// plainDevice is a device that can't poison.
type plainDevice struct{ blockdev.Device }

func (d plainDevice) Geometry() blockdev.Geometry {
	g := d.Device.Geometry()
	g.Poisons = false
	return g
}

// NVM Command Set 1.0 §3.2.7: reads of the blocks end with Unrecovered Read
// Error, with Do Not Retry since only a write changes that; a write heals them;
// nobody is told of a device that failed.
func TestWriteUncorrectable(t *testing.T) {
	b := newBed(t)
	h := b.host
	h.want(Success, rw(OpWrite, 0, 8, 0), fill(8*bedBlock, 7), 0)
	before := len(b.events)
	h.want(Success, rw(OpWriteUncorrectable, 2, 3, 0), nil, 0)
	h.want(UnrecoveredReadError|DNR, rw(OpRead, 4, 1, 0), nil, bedBlock)
	h.want(UnrecoveredReadError|DNR, rw(OpRead, 0, 8, 0), nil, 8*bedBlock)
	h.want(UnrecoveredReadError|DNR, rw(OpVerify, 0, 8, 0), nil, 0)
	h.want(UnrecoveredReadError|DNR, rw(OpCompare, 2, 1, 0), fill(bedBlock, 7), 0)
	h.want(Success, rw(OpRead, 5, 3, 0), nil, 3*bedBlock)
	h.want(Success, rw(OpWrite, 2, 1, 0), fill(bedBlock, 9), 0)
	h.want(Success, rw(OpRead, 0, 3, 0), nil, 3*bedBlock)
	h.want(UnrecoveredReadError|DNR, rw(OpRead, 3, 1, 0), nil, bedBlock)
	h.want(Success, rw(OpWriteZeroes, 3, 2, 0), nil, 0)
	h.want(Success, rw(OpRead, 0, 8, 0), nil, 8*bedBlock)
	h.want(LBAOutOfRange|DNR, rw(OpWriteUncorrectable, bedBlocks-1, 2, 0), nil, 0)
	if n := len(b.events); n != before {
		t.Errorf("events: %v", b.events[before:])
	}
	b.ram.SetReadOnly(true)
	h.want(NamespaceWriteProtected, rw(OpWriteUncorrectable, 0, 1, 0), nil, 0)
}

// The command is there, in ONCS and in the Commands Supported and Effects log
// page, when the devices of all namespaces have it.
func TestWriteUncorrectableIsOfferedByTheDevice(t *testing.T) {
	for name, has := range map[string]bool{"with": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, func(c *Config, _ *Deps) {
				if !has {
					c.Namespaces[0].Device = plainDevice{c.Namespaces[0].Device}
				}
			})
			if oncs := le.Uint16(b.host.identify(cnsController, 0)[520:]); (oncs&2 != 0) != has {
				t.Errorf("ONCS is %#x", oncs)
			}
			effects := b.host.logPage(logEffects, 4096, 0, false)
			if listed := le.Uint32(effects[1024+4*int(OpWriteUncorrectable):]) != 0; listed != has {
				t.Errorf("listed in the effects log page: %v", listed)
			}
			want := Success
			if !has {
				want = InvalidOpcode | DNR
			}
			b.host.want(want, rw(OpWriteUncorrectable, 0, 1, 0), nil, 0)
		})
	}
}

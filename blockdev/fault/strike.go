package fault

import (
	"bytes"

	"blockd.dev/blockdev"
)

// sectorBytes is the unit of tearing.
const sectorBytes = 512

// strike does to r what the rule says.
func (d *Device) strike(r *blockdev.Request, rule *Rule, chance uint64) {
	switch rule.Kind {
	case KindError:
		blockdev.Complete(r, blockdev.NewError(rule.Err, r, -1, nil))
	case KindDelay:
		d.clock.AfterFunc(rule.Delay, func() { d.forward(r) })
	case KindTorn:
		d.tear(r, chance)
	case KindLost:
		blockdev.Complete(r, nil)
	case KindFlip:
		d.flip(r, chance)
	case KindHang:
		// judge has it in the list already, so that Hung never misses one.
	case KindGone:
		d.Vanish()
		blockdev.Complete(r, blockdev.NewError(blockdev.ErrGone, r, -1, nil))
	}
}

// forward submits r to the device below, unless that has gone meanwhile.
func (d *Device) forward(r *blockdev.Request) {
	d.mu.Lock()
	gone := d.gone
	d.mu.Unlock()
	if gone {
		blockdev.Complete(r, blockdev.NewError(blockdev.ErrGone, r, -1, nil))
		return
	}
	d.below.Submit([]*blockdev.Request{r})
}

// instead submits a request in place of r and calls then with its result.
func (d *Device) instead(r *blockdev.Request, op blockdev.Op, data [][]byte, then func(error)) {
	d.below.Submit([]*blockdev.Request{{
		Op: op, FUA: r.FUA, Offset: r.Offset, Length: r.Length, Data: data,
		Done: func(sub *blockdev.Request) { then(sub.Err) },
	}})
}

// tear writes some sectors of r over what was there, and fails r.
func (d *Device) tear(r *blockdev.Request, chance uint64) {
	old := make([]byte, r.Length)
	d.instead(r, blockdev.OpRead, [][]byte{old}, func(err error) {
		if err != nil {
			blockdev.Complete(r, err)
			return
		}
		fresh := bytes.Join(r.Data, nil)
		for off := 0; off < len(fresh); off += sectorBytes {
			if chance = mix(chance); chance&1 == 0 {
				copy(old[off:off+sectorBytes], fresh[off:])
			}
		}
		d.instead(r, blockdev.OpWrite, [][]byte{old}, func(err error) {
			blockdev.Complete(r, blockdev.NewError(blockdev.ErrIO, r, -1, err))
		})
	})
}

// flip inverts one bit on the way; the submitter's buffer of a write stays as
// it is.
func (d *Device) flip(r *blockdev.Request, chance uint64) {
	if r.Length == 0 {
		d.forward(r)
		return
	}
	bit := int64(chance % uint64(r.Length*8))
	if r.Op == blockdev.OpWrite {
		data := bytes.Join(r.Data, nil)
		data[bit/8] ^= 1 << (bit % 8)
		d.instead(r, blockdev.OpWrite, [][]byte{data}, func(err error) { blockdev.Complete(r, err) })
		return
	}
	d.instead(r, blockdev.OpRead, r.Data, func(err error) {
		if err == nil {
			at := int(bit / 8)
			for _, s := range r.Data {
				if at < len(s) {
					s[at] ^= 1 << (bit % 8)
					break
				}
				at -= len(s)
			}
		}
		blockdev.Complete(r, err)
	})
}

package nvme

import (
	"sync/atomic"

	"blockd.dev/blockdev"
)

// Bits of Dword 12 of commands with a range of blocks (NVM Command Set 1.0
// §3.2).
const (
	cdw12LR   uint32 = 1 << 31 // limited retry: a hint
	cdw12FUA  uint32 = 1 << 30
	cdw12PRI  uint32 = 0xf << 26 // protection information
	cdw12STC  uint32 = 1 << 24   // storage tag check
	cdw12DEAC uint32 = 1 << 25   // Write Zeroes
)

// extent decodes SLBA and NLB (0's based) and checks that the range lies on
// the namespace. Protection information is refused: no format has any.
func (c *Command) extent() Status {
	st := &c.state
	slba := c.cdq(10)
	cdw12 := c.cdw(12)
	blocks := uint64(cdw12&0xffff) + 1
	if cdw12&(cdw12PRI|cdw12STC) != 0 {
		return InvalidField | DNR
	}
	capacity := st.att.ns.blocks()
	if slba >= capacity || blocks > capacity-slba {
		return LBAOutOfRange | DNR
	}
	shift := st.att.ns.shift
	st.offset, st.length = int64(slba<<shift), int64(blocks<<shift)
	return Success
}

// transfer is extent for a command that moves the blocks.
func (c *Command) transfer(dir Direction) Status {
	if s := c.extent(); s != Success {
		return s
	}
	if c.state.length > MaxTransferBytes {
		return InvalidField | DNR
	}
	c.Dir, c.Length = dir, int(c.state.length)
	return Success
}

// writable says why the namespace can't be written.
func (ns *namespace) writable() Status {
	if ns.readOnly() {
		return NamespaceWriteProtected
	}
	return Success
}

// durable says whether a write must be durable before it completes.
func (c *Command) durable() bool {
	return c.cdw(12)&cdw12FUA != 0 || !c.state.att.ns.conf.Load().WriteCache || c.state.queue.ctrl.writeThrough.Load()
}

func prepareRead(c *Command) Status {
	c.Lends = c.state.att.ns.shape.Get().Lends
	return c.transfer(DirIn)
}

func read(c *Command) {
	st := &c.state
	if c.cdw(12)&cdw12FUA != 0 && st.att.ns.conf.Load().WriteCache {
		// FUA reads what is on the medium, so the cache goes there first.
		c.submit(blockdev.OpFlush, 0, 0, nil, readAfterFlush)
		return
	}
	c.submit(blockdev.OpRead, st.offset, st.length, c.Segments(), ioDone)
}

func readAfterFlush(r *blockdev.Request) {
	c := r.Tag.(*Command)
	if r.Err != nil {
		c.failIO(r.Err)
		return
	}
	c.submit(blockdev.OpRead, c.state.offset, c.state.length, c.Segments(), ioDone)
}

func prepareWrite(c *Command) Status {
	if s := c.state.att.ns.writable(); s != Success {
		return s
	}
	c.state.req.FUA = c.durable()
	return c.transfer(DirOut)
}

func write(c *Command) {
	st := &c.state
	c.submit(blockdev.OpWrite, st.offset, st.length, c.Data.Segs, ioDone)
}

func prepareWriteZeroes(c *Command) Status {
	st := &c.state
	if s := st.att.ns.writable(); s != Success {
		return s
	}
	st.req.FUA = c.durable()
	st.req.NoUnmap = c.cdw(12)&cdw12DEAC == 0
	return c.extent()
}

// writeZeroes has no limit but that of its field: the device stores no data.
func writeZeroes(c *Command) {
	st := &c.state
	c.submit(blockdev.OpWriteZeroes, st.offset, st.length, nil, ioDone)
}

// poisons reports whether Write Uncorrectable works on every namespace: ONCS
// speaks for all.
func (v *nsView) poisons() bool {
	for _, a := range v.list {
		if !a.ns.device.Geometry().Poisons {
			return false
		}
	}
	return len(v.list) > 0
}

// Write Uncorrectable (NVM Command Set 1.0 §3.2.7) makes blocks unreadable until
// they are written again. There is no limit but that of its field (WUSL is 0).
func prepareWriteUncorrectable(c *Command) Status {
	st := &c.state
	if !st.att.ns.device.Geometry().Poisons {
		return InvalidOpcode | DNR
	}
	if s := st.att.ns.writable(); s != Success {
		return s
	}
	st.req.FUA = !st.att.ns.conf.Load().WriteCache || st.queue.ctrl.writeThrough.Load()
	return c.extent()
}

func writeUncorrectable(c *Command) {
	c.submit(blockdev.OpPoison, c.state.offset, c.state.length, nil, ioDone)
}

// flush makes the writes of one namespace durable, or of all that the
// controller sees (NVMe Base 2.0 §7.1).
func flush(c *Command) {
	if c.state.att == nil {
		flushAll(c)
		return
	}
	c.submit(blockdev.OpFlush, 0, 0, nil, ioDone)
}

// flushAll flushes every namespace of the command's controller that may be
// written through it, and completes c when the last is done, with the first
// error.
func flushAll(c *Command) {
	list := c.state.queue.ctrl.view.Load().list
	var left atomic.Int32
	var failed atomic.Pointer[error]
	left.Store(1)
	finish := func() {
		if left.Add(-1) != 0 {
			return
		}
		if err := failed.Load(); err != nil {
			c.complete(c.statusOf(*err))
			return
		}
		c.good()
	}
	for _, a := range list {
		if a.accessible() != Success {
			continue
		}
		left.Add(1)
		a.ns.device.Submit([]*blockdev.Request{{Op: blockdev.OpFlush, Done: func(r *blockdev.Request) {
			if r.Err != nil {
				failed.CompareAndSwap(nil, &r.Err)
			}
			finish()
		}}})
	}
	finish()
}

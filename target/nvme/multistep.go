package nvme

import (
	"encoding/binary"

	"blockd.dev/blockdev"
)

// Compare (NVM Command Set 1.0 §3.2.1).

func prepareCompare(c *Command) Status { return c.transfer(DirOut) }

func compare(c *Command) {
	st := &c.state
	if w := c.newWork(st.length, []extent{{st.offset, st.length}}); w != nil {
		w.run(compareRead)
	}
}

func compareRead(w *work) {
	if w.next(chunkMax) {
		w.submit(blockdev.OpRead, w.list[0].offset, w.piece(), compareCheck)
	}
}

func compareCheck(w *work) {
	w.scr = w.buf.Slice(0, int(w.n), w.scr[:0])
	w.cmp = w.c.Data.Slice(int(w.done), int(w.n), w.cmp[:0])
	if differ(w.scr, w.cmp) {
		w.end(CompareFailure | DNR)
		return
	}
	w.advance()
	compareRead(w)
}

// Verify reads without giving the data away: checksums are checked (NVM
// Command Set 1.0 §3.2.6).

func prepareVerify(c *Command) Status { return c.extent() }

func verify(c *Command) {
	st := &c.state
	if w := c.newWork(st.length, []extent{{st.offset, st.length}}); w != nil {
		w.run(verifyRead)
	}
}

func verifyRead(w *work) {
	if w.next(chunkMax) {
		w.submit(blockdev.OpRead, w.list[0].offset, w.piece(), verifyNext)
	}
}

func verifyNext(w *work) {
	w.advance()
	verifyRead(w)
}

// Dataset Management (NVM Command Set 1.0 §3.2.3): of its attributes,
// Deallocate does something; the hints for read and write are taken and not
// used.

const (
	dsmRangeBytes        = 16
	dsmDeallocate uint32 = 1 << 2
)

func prepareDSM(c *Command) Status {
	ranges := int(c.cdw(10)&0xff) + 1
	if c.cdw(11)&dsmDeallocate != 0 {
		if s := c.state.att.ns.writable(); s != Success {
			return s
		}
	}
	return c.paramOut(ranges * dsmRangeBytes)
}

func datasetManagement(c *Command) {
	st := &c.state
	if c.cdw(11)&dsmDeallocate == 0 {
		c.good()
		return
	}
	ranges := int(c.cdw(10)&0xff) + 1
	capacity, shift := st.att.ns.blocks(), st.att.ns.shift
	list := make([]extent, 0, ranges)
	var b [dsmRangeBytes]byte
	// All are checked before the first is freed.
	for i := range ranges {
		c.Data.CopyOut(i*dsmRangeBytes, b[:])
		blocks, slba := uint64(binary.LittleEndian.Uint32(b[4:])), binary.LittleEndian.Uint64(b[8:])
		if slba > capacity || blocks > capacity-slba {
			c.complete(LBAOutOfRange | DNR)
			return
		}
		list = append(list, extent{int64(slba << shift), int64(blocks << shift)})
	}
	st.req.FUA = !st.att.ns.conf.Load().WriteCache || st.queue.ctrl.writeThrough.Load()
	if w := c.newWork(0, list); w != nil {
		w.run(deallocate)
	}
}

func deallocate(w *work) {
	if w.next(1 << 62) {
		w.submit(blockdev.OpUnmap, w.list[0].offset, nil, deallocated)
	}
}

func deallocated(w *work) {
	w.advance()
	deallocate(w)
}

// Copy with source ranges of format 0 (NVM Command Set 1.0 §3.2.2).

const (
	copyRangeBytes  = 32
	copyRanges      = 128  // MSRC + 1
	copyRangeBlocks = 4096 // MSSRL; MCL is the product of the two
)

func prepareCopy(c *Command) Status {
	st := &c.state
	if s := st.att.ns.writable(); s != Success {
		return s
	}
	cdw12 := c.cdw(12)
	ranges := int(cdw12&0xff) + 1
	switch {
	case cdw12>>8&0xf != 0: // descriptor format
		return InvalidField | DNR
	case cdw12&(cdw12PRI|cdw12STC) != 0 || cdw12>>12&0xf != 0:
		return InvalidField | DNR // protection information
	case ranges > copyRanges:
		return CommandSizeLimit | DNR
	}
	if slba := c.cdq(10); slba >= st.att.ns.blocks() {
		return LBAOutOfRange | DNR
	}
	return c.paramOut(ranges * copyRangeBytes)
}

func copyBlocks(c *Command) {
	st := &c.state
	ns := st.att.ns
	ranges := int(c.cdw(12)&0xff) + 1
	capacity := ns.blocks()
	list := make([]extent, 0, ranges)
	var b [copyRangeBytes]byte
	var total, largest uint64
	// All are checked before the first block is copied.
	for i := range ranges {
		c.Data.CopyOut(i*copyRangeBytes, b[:])
		slba := binary.LittleEndian.Uint64(b[8:])
		blocks := uint64(binary.LittleEndian.Uint16(b[16:])) + 1
		c.Result = uint64(i)
		if blocks > copyRangeBlocks {
			c.complete(CommandSizeLimit | DNR)
			return
		}
		if slba >= capacity || blocks > capacity-slba {
			c.complete(LBAOutOfRange | DNR)
			return
		}
		list = append(list, extent{int64(slba << ns.shift), int64(blocks << ns.shift)})
		total, largest = total+blocks, max(largest, blocks)
	}
	c.Result = 0
	sdlba := c.cdq(10)
	if sdlba >= capacity || total > capacity-sdlba { // it may have shrunk
		c.complete(LBAOutOfRange | DNR)
		return
	}
	st.offset = int64(sdlba << ns.shift)
	st.req.FUA = c.durable()
	if w := c.newWork(int64(largest<<ns.shift), list); w != nil {
		w.run(copyRead)
	}
}

func copyRead(w *work) {
	if w.next(chunkMax) {
		w.submit(blockdev.OpRead, w.list[0].offset, w.piece(), copyWrite)
	}
}

func copyWrite(w *work) {
	w.submit(blockdev.OpWrite, w.c.state.offset+w.done, w.piece(), copyNext)
}

func copyNext(w *work) {
	w.advance()
	copyRead(w)
}

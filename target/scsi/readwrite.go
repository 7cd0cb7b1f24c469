package scsi

import (
	"blockd.dev/blockdev"
	"blockd.dev/target/access"
)

// blockCommands move blocks (SBC-4 §5). DPO is evaluated and needs nothing
// done; FUA_NV, RELADR and the like are obsolete and let through.
var blockCommands = []command{
	{name: "READ (6)", cdb: "08 1f ff ff ff 00", ignored: "00 e0 00 00 00 00", access: accessRead, flags: flagMedium, prepare: prepareRead, execute: read},
	{name: "READ (10)", cdb: "28 18 ff ff ff ff 00 ff ff 00", ignored: "00 03 00 00 00 00 00 00 00 00", access: accessRead, flags: flagMedium | flagGroup, prepare: prepareRead, execute: read},
	{name: "READ (12)", cdb: "a8 18 ff ff ff ff ff ff ff ff 00 00", ignored: "00 03 00 00 00 00 00 00 00 00 00 00", access: accessRead, flags: flagMedium | flagGroup, prepare: prepareRead, execute: read},
	{name: "READ (16)", cdb: "88 18 ff ff ff ff ff ff ff ff ff ff ff ff 00 00", ignored: "00 03 00 00 00 00 00 00 00 00 00 00 00 00 00 00", access: accessRead, flags: flagMedium | flagGroup, prepare: prepareRead, execute: read},

	{name: "WRITE (6)", cdb: "0a 1f ff ff ff 00", ignored: "00 e0 00 00 00 00", access: accessWrite, flags: flagMedium, prepare: prepareWrite, execute: write},
	{name: "WRITE (10)", cdb: "2a 18 ff ff ff ff 00 ff ff 00", ignored: "00 03 00 00 00 00 00 00 00 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareWrite, execute: write},
	{name: "WRITE (12)", cdb: "aa 18 ff ff ff ff ff ff ff ff 00 00", ignored: "00 03 00 00 00 00 00 00 00 00 00 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareWrite, execute: write},
	{name: "WRITE (16)", cdb: "8a 18 ff ff ff ff ff ff ff ff ff ff ff ff 00 00", ignored: "00 03 00 00 00 00 00 00 00 00 00 00 00 00 00 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareWrite, execute: write},
	{name: "WRITE ATOMIC (16)", cdb: "9c 18 ff ff ff ff ff ff ff ff 00 00 ff ff 00 00", access: accessWrite, flags: flagMedium | flagGroup,
		supported: func(lu *LU) bool { return lu.atomicBlocks() > 0 }, prepare: prepareWriteAtomic, execute: write},

	{name: "WRITE AND VERIFY (10)", cdb: "2e 16 ff ff ff ff 00 ff ff 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareWriteVerify, execute: writeVerify},
	{name: "WRITE AND VERIFY (12)", cdb: "ae 16 ff ff ff ff ff ff ff ff 00 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareWriteVerify, execute: writeVerify},
	{name: "WRITE AND VERIFY (16)", cdb: "8e 16 ff ff ff ff ff ff ff ff ff ff ff ff 00 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareWriteVerify, execute: writeVerify},

	{name: "VERIFY (10)", cdb: "2f 16 ff ff ff ff 00 ff ff 00", access: accessRead, flags: flagMedium | flagGroup, prepare: prepareVerify, execute: verify},
	{name: "VERIFY (12)", cdb: "af 16 ff ff ff ff ff ff ff ff 00 00", access: accessRead, flags: flagMedium | flagGroup, prepare: prepareVerify, execute: verify},
	{name: "VERIFY (16)", cdb: "8f 16 ff ff ff ff ff ff ff ff ff ff ff ff 00 00", access: accessRead, flags: flagMedium | flagGroup, prepare: prepareVerify, execute: verify},

	{name: "ORWRITE (16)", cdb: "8b 18 ff ff ff ff ff ff ff ff ff ff ff ff 00 00", ignored: "00 02 00 00 00 00 00 00 00 00 00 00 00 00 00 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareWrite, execute: orWrite},
	{name: "COMPARE AND WRITE", cdb: "89 18 ff ff ff ff ff ff ff ff 00 00 00 ff 00 00", ignored: "00 02 00 00 00 00 00 00 00 00 00 00 00 00 00 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareCompareAndWrite, execute: compareAndWrite},

	{name: "WRITE LONG (10)", cdb: "3f 60 ff ff ff ff 00 ff ff 00", access: accessWrite, flags: flagMedium, supported: (*LU).poisons, prepare: prepareWriteLong, execute: writeLong},
	{name: "WRITE LONG (16)", cdb: "9f 71 ff ff ff ff ff ff ff ff 00 00 ff ff 00 00", access: accessWrite, flags: flagMedium, supported: (*LU).poisons, prepare: prepareWriteLong, execute: writeLong},

	{name: "PRE-FETCH (10)", cdb: "34 02 ff ff ff ff 00 ff ff 00", access: accessRead, flags: flagMedium | flagGroup, prepare: preparePreFetch, execute: preFetch},
	{name: "PRE-FETCH (16)", cdb: "90 02 ff ff ff ff ff ff ff ff ff ff ff ff 00 00", access: accessRead, flags: flagMedium | flagGroup, prepare: preparePreFetch, execute: preFetch},
	{name: "SYNCHRONIZE CACHE (10)", cdb: "35 02 ff ff ff ff 00 ff ff 00", ignored: "00 04 00 00 00 00 00 00 00 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareSynchronize, execute: synchronize},
	{name: "SYNCHRONIZE CACHE (16)", cdb: "91 02 ff ff ff ff ff ff ff ff ff ff ff ff 00 00", ignored: "00 04 00 00 00 00 00 00 00 00 00 00 00 00 00 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareSynchronize, execute: synchronize},
}

// extent reads LBA and number of blocks by the length of the CDB, and says
// where the number begins.
func (t *Task) extent() (lba uint64, blocks uint32, at int) {
	cdb := &t.state.cdb
	switch len(t.state.cmd.usage) {
	case 10:
		return uint64(be32(cdb[2:])), uint32(be16(cdb[7:])), 7
	case 16:
		return be64(cdb[2:]), be32(cdb[10:]), 10
	case 12:
		return uint64(be32(cdb[2:])), be32(cdb[6:]), 6
	}
	blocks = uint32(cdb[4])
	if blocks == 0 {
		blocks = 256 // SBC-4 §5.15, READ (6)
	}
	return uint64(be24(cdb[1:]) & 0x1fffff), blocks, 4
}

// locate checks that blocks at lba lie on the medium and notes where.
func (t *Task) locate(lba, blocks uint64) sense {
	st := &t.state
	lu := st.itl.lu
	capacity := lu.blocks()
	if lba >= capacity || blocks > capacity-lba {
		return illegal(ascLBAOutOfRange).withInfo(max(lba, min(capacity, lba+blocks)))
	}
	st.lba, st.blocks = lba, blocks
	st.offset, st.length = int64(lba<<lu.shift), int64(blocks<<lu.shift)
	return sense{}
}

// transfer decodes and checks the extent of a command that moves it.
func (t *Task) transfer(dir Direction) sense {
	st := &t.state
	lba, blocks, at := t.extent()
	if s := t.locate(lba, uint64(blocks)); !s.ok() {
		return s
	}
	if st.length > MaxTransferBytes {
		return badCDBByte(at)
	}
	if st.length > 0 {
		t.Dir, t.Length = dir, int(st.length)
	}
	return sense{}
}

// writable says why the unit can't be written.
func (lu *LU) writable() sense {
	if lu.mode.writeProtected() {
		return sense{key: keyDataProtect, asc: ascSoftwareWriteProtected}
	}
	switch p := lu.conf.Load().Protect; {
	case p == access.Permanent:
		return sense{key: keyDataProtect, asc: ascPermanentWriteProtect}
	case p.On():
		return sense{key: keyDataProtect, asc: ascWriteProtected}
	}
	if lu.shape.Get().ReadOnly {
		return sense{key: keyDataProtect, asc: ascWriteProtected}
	}
	return sense{}
}

// durable says whether a write must be durable before its status: always
// when there is no write cache (WCE=0), else when the CDB has FUA.
func (t *Task) durable(fua bool) bool { return fua || !t.state.itl.lu.mode.writeCache() }

// arrived is the whole blocks that the initiator sent for a write. When it
// announced fewer than the CDB has, those are written and the residual says
// what is missing (RFC 7143 §11.4.5.1).
func (t *Task) arrived() (data [][]byte, n int64) {
	if t.OutLen >= t.Length {
		return t.Data.Segs, int64(t.Length)
	}
	n = int64(t.OutLen) &^ int64(t.state.itl.lu.blockSize()-1)
	return t.Data.Slice(0, int(n), nil), n
}

// short ends t when the initiator sent less than the CDB asks for, for
// commands to which a part means something else.
func (t *Task) short() bool {
	if t.OutLen >= t.Length {
		return false
	}
	t.fail(illegal(ascInvalidFieldInIU))
	return true
}

func prepareRead(t *Task) sense {
	t.state.fua = len(t.state.cmd.usage) > 6 && t.state.cdb[1]&0x08 != 0
	t.Lends = t.state.itl.lu.shape.Get().Lends
	return t.transfer(DirIn)
}

func read(t *Task) {
	st := &t.state
	if t.Length == 0 {
		t.good()
		return
	}
	if st.fua && st.itl.lu.mode.writeCache() {
		// FUA reads what is on the medium, so the cache goes there first.
		t.submit(blockdev.OpFlush, 0, 0, nil, func(r *blockdev.Request) {
			if r.Err != nil {
				t.failIO(r.Err)
				return
			}
			t.submit(blockdev.OpRead, st.offset, st.length, t.Segments(), readDone)
		})
		return
	}
	t.submit(blockdev.OpRead, st.offset, st.length, t.Segments(), readDone)
}

func prepareWrite(t *Task) sense {
	st := &t.state
	if s := st.itl.lu.writable(); !s.ok() {
		return s
	}
	st.fua = t.durable(len(st.cmd.usage) > 6 && st.cdb[1]&0x08 != 0)
	return t.transfer(DirOut)
}

func write(t *Task) {
	st := &t.state
	data, n := t.arrived()
	if n == 0 {
		t.good()
		return
	}
	st.req.FUA = st.fua
	t.submit(blockdev.OpWrite, st.offset, n, data, ioDone)
}

func prepareWriteAtomic(t *Task) sense {
	st := &t.state
	lu := st.itl.lu
	if s := lu.writable(); !s.ok() {
		return s
	}
	st.fua = t.durable(st.cdb[1]&0x08 != 0)
	blocks := uint64(be16(st.cdb[12:]))
	if s := t.locate(be64(st.cdb[2:]), blocks); !s.ok() {
		return s
	}
	if blocks > uint64(lu.atomicBlocks()) {
		return badCDBByte(12)
	}
	if blocks > 0 {
		t.Dir, t.Length = DirOut, int(st.length)
	}
	return sense{}
}

func prepareCompareAndWrite(t *Task) sense {
	st := &t.state
	if s := st.itl.lu.writable(); !s.ok() {
		return s
	}
	st.fua = t.durable(st.cdb[1]&0x08 != 0)
	if s := t.locate(be64(st.cdb[2:]), uint64(st.cdb[13])); !s.ok() {
		return s
	}
	if st.length > 0 {
		t.Dir, t.Length = DirOut, int(2*st.length)
	}
	return sense{}
}

func compareAndWrite(t *Task) {
	st := &t.state
	if t.short() {
		return
	}
	if t.Expected > t.Length {
		t.fail(badCDBByte(13)) // it holds other data than the number of blocks says
		return
	}
	if t.Length == 0 {
		t.good()
		return
	}
	st.req.FUA = st.fua
	t.submit(blockdev.OpCompareAndWrite, st.offset, st.length, t.Data.Segs, ioDone)
}

// poisons reports whether the unit has WRITE LONG.
func (lu *LU) poisons() bool { return lu.device.Geometry().Poisons }

// Bits of byte 1 of WRITE LONG.
const (
	writeLongUncorrectable = 0x40 // WR_UNCOR
	writeLongPhysical      = 0x20 // PBLOCK
)

// prepareWriteLong takes WRITE LONG (SBC-3 §5.40) with WR_UNCOR only: it moves no
// data and makes a block, or with PBLOCK the physical block around it, unreadable
// until it is written. Blocks have no protection information or other bytes that
// a long write could set, so without WR_UNCOR there is nothing to do. COR_DIS is
// refused, as CRD_SUP=0 says.
func prepareWriteLong(t *Task) sense {
	st := &t.state
	lu := st.itl.lu
	if s := lu.writable(); !s.ok() {
		return s
	}
	if st.cdb[1]&writeLongUncorrectable == 0 {
		return badCDB(1, 6)
	}
	lba, length := uint64(be32(st.cdb[2:])), 7
	if len(st.cmd.usage) == 16 {
		lba, length = be64(st.cdb[2:]), 12
	}
	if be16(st.cdb[length:]) != 0 { // BYTE TRANSFER LENGTH
		return badCDBByte(length)
	}
	blocks := uint64(1)
	if st.cdb[1]&writeLongPhysical != 0 {
		if blocks = uint64(lu.device.Geometry().PhysicalBlockSize >> lu.shift); blocks < 2 {
			return badCDB(1, 5) // SBC-3: there is no more than one logical block in a physical one
		}
		if s := t.locate(lba, 1); !s.ok() {
			return s
		}
		lba -= lba % blocks
		blocks = min(blocks, lu.blocks()-lba)
	}
	return t.locate(lba, blocks)
}

func writeLong(t *Task) {
	st := &t.state
	st.req.FUA = t.durable(false)
	t.submit(blockdev.OpPoison, st.offset, st.length, nil, ioDone)
}

func preparePreFetch(t *Task) sense {
	lba, blocks, _ := t.extent()
	return t.rest(lba, uint64(blocks))
}

// rest is locate where 0 blocks mean all up to the end.
func (t *Task) rest(lba, blocks uint64) sense {
	if s := t.locate(lba, blocks); !s.ok() {
		return s
	}
	if blocks == 0 {
		return t.locate(lba, t.state.itl.lu.blocks()-lba)
	}
	return sense{}
}

// preFetch has no cache to fill: GOOD says that not all blocks are in it
// (SBC-4 §5.12).
func preFetch(t *Task) { t.good() }

func prepareSynchronize(t *Task) sense {
	lba, blocks, _ := t.extent()
	return t.rest(lba, uint64(blocks))
}

// synchronize flushes the whole device, whatever the range (SBC-4 §5.33
// allows more than was asked). With IMMED the flush goes on after the status.
func synchronize(t *Task) {
	st := &t.state
	if st.cdb[1]&0x02 != 0 {
		lu := st.itl.lu
		r := &blockdev.Request{Op: blockdev.OpFlush, Done: func(r *blockdev.Request) {
			if r.Err != nil {
				lu.target.event(Event{Kind: EventDeviceError, Unit: lu.id, Text: "flush after SYNCHRONIZE CACHE with IMMED: " + r.Err.Error()})
			}
		}}
		lu.device.Submit([]*blockdev.Request{r})
		t.good()
		return
	}
	t.submit(blockdev.OpFlush, 0, 0, nil, ioDone)
}

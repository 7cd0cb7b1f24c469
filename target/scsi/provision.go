package scsi

import (
	"encoding/binary"
	"math/bits"

	"blockd.dev/blockdev"
)

// provisionCommands tell and change what blocks exist (SBC-4 §4.7).
var provisionCommands = []command{
	{name: "READ CAPACITY (10)", cdb: "25 00 00 00 00 00 00 00 00 00", ignored: "00 01 ff ff ff ff 00 00 01 00", access: accessStatus, flags: flagMedium,
		prepare: func(t *Task) sense { return prepareReadCapacity10(t) }, execute: readCapacity10},
	{name: "READ CAPACITY (16)", cdb: "9e 10 00 00 00 00 00 00 00 00 ff ff ff ff 00 00", ignored: "00 00 ff ff ff ff ff ff ff ff 00 00 00 00 01 00", access: accessStatus, flags: flagMedium,
		prepare: func(t *Task) sense { return t.wantIn(be32(t.state.cdb[10:])) }, execute: readCapacity16},
	{name: "GET LBA STATUS (16)", cdb: "9e 12 ff ff ff ff ff ff ff ff ff ff ff ff 00 00", access: accessRead, flags: flagMedium,
		supported: (*LU).thin, prepare: prepareLBAStatus, execute: lbaStatus},
	{name: "UNMAP", cdb: "42 00 00 00 00 00 00 ff ff 00", access: accessWrite, flags: flagMedium | flagGroup,
		supported: (*LU).thin, prepare: prepareUnmap, execute: unmap},
	{name: "WRITE SAME (10)", cdb: "41 18 ff ff ff ff 00 ff ff 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareWriteSame, execute: writeSame},
	{name: "WRITE SAME (16)", cdb: "93 19 ff ff ff ff ff ff ff ff ff ff ff ff 00 00", access: accessWrite, flags: flagMedium | flagGroup, prepare: prepareWriteSame, execute: writeSame},
}

// thin reports whether the unit has logical block provisioning management
// (LBPME=1): UNMAP frees blocks.
func (lu *LU) thin() bool {
	g := lu.device.Geometry()
	return g.Thin && g.UnmapGranularity > 0
}

// physicalExponent is the LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT.
func (lu *LU) physicalExponent() byte {
	ratio := lu.device.Geometry().PhysicalBlockSize >> lu.shift
	if ratio < 1 {
		return 0
	}
	return byte(bits.TrailingZeros(uint(ratio)))
}

func prepareReadCapacity10(t *Task) sense {
	// PMI and its LBA are obsolete since SBC-3; PMI=0 with an LBA was an error
	// before, and still is the likelier sign of a confused initiator.
	cdb := &t.state.cdb
	if cdb[8]&1 == 0 && be32(cdb[2:]) != 0 {
		return badCDBByte(2)
	}
	return t.wantIn(8)
}

func readCapacity10(t *Task) {
	lu := t.state.itl.lu
	var b [8]byte
	binary.BigEndian.PutUint32(b[:], uint32(min(lu.blocks()-1, 0xffffffff)))
	binary.BigEndian.PutUint32(b[4:], uint32(lu.blockSize()))
	t.reply(b[:])
}

func readCapacity16(t *Task) {
	lu := t.state.itl.lu
	var b [32]byte
	binary.BigEndian.PutUint64(b[:], lu.blocks()-1)
	binary.BigEndian.PutUint32(b[8:], uint32(lu.blockSize()))
	b[13] = lu.physicalExponent()
	if lu.thin() {
		b[14] = 0xc0 // LBPME, LBPRZ: unmapped blocks read as zeroes
	}
	t.reply(b[:])
}

func prepareLBAStatus(t *Task) sense {
	lba := be64(t.state.cdb[2:])
	capacity := t.state.itl.lu.blocks()
	if lba >= capacity {
		return illegal(ascLBAOutOfRange).withInfo(lba)
	}
	if s := t.locate(lba, capacity-lba); !s.ok() {
		return s
	}
	return t.wantIn(be32(t.state.cdb[10:]))
}

// lbaStatusMax is the most descriptors that one GET LBA STATUS returns.
const lbaStatusMax = 256

// lbaStatus walks the mapped and unmapped runs from the starting LBA on
// (SBC-4 §5.6). A device that can't tell has everything mapped.
func lbaStatus(t *Task) {
	st := &t.state
	lu := st.itl.lu
	room := 0
	if t.Length > 8 {
		room = min((t.Length-8)/16, lbaStatusMax)
	}
	b := make([]byte, 8, 8+16*max(room, 1))
	m, ok := lu.device.(blockdev.Mapper)
	at, end := st.offset, st.offset+st.length
	for range max(room, 1) {
		if at >= end {
			break
		}
		mapped, run := true, end-at
		if ok {
			var err error
			if mapped, run, err = m.NextMapped(at, end-at); err != nil {
				t.failIO(err)
				return
			}
			run = min(run, end-at)
			if run <= 0 {
				break
			}
		}
		blocks := min(uint64(run)>>lu.shift, 0xffffffff)
		var d [16]byte
		binary.BigEndian.PutUint64(d[:], uint64(at)>>lu.shift)
		binary.BigEndian.PutUint32(d[8:], uint32(blocks))
		if !mapped {
			d[12] = 1 // deallocated
		}
		b = append(b, d[:]...)
		at += int64(blocks << lu.shift)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	t.reply(b)
}

func prepareUnmap(t *Task) sense {
	if s := t.state.itl.lu.writable(); !s.ok() {
		return s
	}
	return t.wantOut(uint32(be16(t.state.cdb[7:])), 0xffff)
}

// unmap checks the whole list before it frees anything (SBC-4 §5.35).
func unmap(t *Task) {
	if t.Length == 0 {
		t.good()
		return
	}
	p := t.parameters()
	if len(p) < t.Length || len(p) < 8 {
		t.fail(illegal(ascParameterListLength))
		return
	}
	list, s := parseUnmap(p, t.state.itl.lu)
	if !s.ok() {
		t.fail(s)
		return
	}
	if len(list) == 0 {
		t.good()
		return
	}
	w := t.newWork(0)
	w.list = list
	w.run(unmapStep)
}

func parseUnmap(p []byte, lu *LU) ([]extent, sense) {
	n := int(be16(p[2:]))
	if n%16 != 0 {
		return nil, badParam(2) // a descriptor that is cut off
	}
	if n > len(p)-8 {
		return nil, illegal(ascParameterListLength)
	}
	if n/16 > unmapDescriptorsMax {
		return nil, badParam(2)
	}
	capacity := lu.blocks()
	var list []extent
	for at := 8; at < 8+n; at += 16 {
		lba, blocks := be64(p[at:]), uint64(be32(p[at+8:]))
		if lba > capacity || blocks > capacity-lba {
			return nil, illegal(ascLBAOutOfRange).withInfo(lba)
		}
		if blocks > 0 {
			list = append(list, extent{int64(lba << lu.shift), int64(blocks << lu.shift)})
		}
	}
	return list, sense{}
}

func unmapStep(w *work) {
	if w.stopped() {
		return
	}
	if len(w.list) == 0 {
		w.good()
		return
	}
	e := w.list[0]
	w.list = w.list[1:]
	w.t.state.req.FUA = w.t.durable(false)
	w.submit(blockdev.OpUnmap, e.offset, e.length, nil, unmapStep)
}

// The flags of WRITE SAME's byte 1.
const (
	sameNDOB   = 0x01
	sameUnmap  = 0x08
	sameAnchor = 0x10
)

func prepareWriteSame(t *Task) sense {
	st := &t.state
	lu := st.itl.lu
	if s := lu.writable(); !s.ok() {
		return s
	}
	flags := st.cdb[1]
	switch {
	case flags&sameAnchor != 0: // ANC_SUP=0 in VPD page B2h
		return badCDB(1, 4)
	case flags&sameUnmap != 0 && !lu.thin():
		return badCDB(1, 3)
	}
	lba, blocks32, at := t.extent()
	blocks := uint64(blocks32)
	if s := t.locate(lba, blocks); !s.ok() {
		return s
	}
	if blocks == 0 { // WSNZ=0: up to the end
		blocks = lu.blocks() - lba
		if s := t.locate(lba, blocks); !s.ok() {
			return s
		}
	}
	if blocks > writeSameMax {
		return badCDBByte(at)
	}
	if flags&sameNDOB == 0 {
		t.Dir, t.Length = DirOut, lu.blockSize()
	}
	return sense{}
}

// writeSame frees or zeroes the extent when the block is all zeroes, as freed
// blocks read, else writes it out piece by piece: with UNMAP too, reads must
// return the block (SBC-3 §5.45). Only the 10-byte form with UNMAP that names no
// length is taken for what it is used for, freeing all up to the end.
func writeSame(t *Task) {
	st := &t.state
	if t.short() {
		return
	}
	if t.Length > 0 && t.Expected > t.Length {
		t.fail(illegal(ascInvalidFieldInIU)) // more than the one block to repeat
		return
	}
	free := st.cdb[1]&sameUnmap != 0
	toEnd := len(st.cmd.usage) == 10 && be16(st.cdb[7:]) == 0
	if t.Length == 0 || free && toEnd || zeroes(t.Data.Segs) {
		st.req.FUA = t.durable(false)
		op := blockdev.OpWriteZeroes
		if free {
			op = blockdev.OpUnmap
		}
		st.req.NoUnmap = op == blockdev.OpWriteZeroes
		t.submit(op, st.offset, st.length, nil, ioDone)
		return
	}
	w := t.newWork(st.length)
	if w == nil {
		return
	}
	block := make([]byte, t.Length)
	t.Data.CopyOut(0, block)
	for at := 0; at < w.buf.Len(); at += len(block) {
		w.buf.CopyIn(at, block)
	}
	w.run(writeSameStep)
}

func writeSameStep(w *work) {
	if w.stopped() {
		return
	}
	n := w.next()
	if n == 0 {
		w.good()
		return
	}
	w.t.state.req.FUA = w.t.durable(false)
	w.submit(blockdev.OpWrite, w.t.state.offset+w.done, n, w.piece(n), func(w *work) {
		w.done += w.n
		writeSameStep(w)
	})
}

// zeroes reports whether every byte is zero.
func zeroes(segs [][]byte) bool {
	for _, s := range segs {
		for _, c := range s {
			if c != 0 {
				return false
			}
		}
	}
	return true
}

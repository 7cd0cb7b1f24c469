package scsi

import "blockd.dev/blockdev"

// byteCheck is the BYTCHK field of VERIFY and WRITE AND VERIFY (SBC-4 §5.36).
func byteCheck(cdb *[cdbMax]byte) byte { return cdb[1] >> 1 & 3 }

func prepareVerify(t *Task) sense {
	st := &t.state
	lba, blocks, at := t.extent()
	if s := t.locate(lba, uint64(blocks)); !s.ok() {
		return s
	}
	switch byteCheck(&st.cdb) {
	case 0:
	case 1:
		if st.length > MaxTransferBytes {
			return badCDBByte(at)
		}
		if st.length > 0 {
			t.Dir, t.Length = DirOut, int(st.length)
		}
	case 3: // one block, compared with each
		if st.length > 0 {
			t.Dir, t.Length = DirOut, st.itl.lu.blockSize()
		}
	default:
		return badCDB(1, 2)
	}
	return sense{}
}

// verify reads the extent, which checks every checksum on the way, and
// compares it where BYTCHK says so.
func verify(t *Task) {
	if t.short() {
		return
	}
	if t.state.length == 0 {
		t.good()
		return
	}
	if w := t.newWork(t.state.length); w != nil {
		w.run(verifyStep)
	}
}

func verifyStep(w *work) {
	if w.stopped() {
		return
	}
	n := w.next()
	if n == 0 {
		w.good()
		return
	}
	w.submit(blockdev.OpRead, w.t.state.offset+w.done, n, w.piece(n), verifyCompare)
}

func verifyCompare(w *work) {
	t := w.t
	bad := int64(-1)
	switch byteCheck(&t.state.cdb) {
	case 1:
		want := t.Data.Slice(int(w.done), int(w.n), nil)
		bad = differ(want, w.piece(w.n))
	case 3:
		block := int64(t.state.itl.lu.blockSize())
		for at := int64(0); at < w.n && bad < 0; at += block {
			bad = differ(t.Data.Slice(0, int(block), nil), w.buf.Slice(int(at), int(block), nil))
		}
	}
	if bad >= 0 {
		if byteCheck(&t.state.cdb) == 1 {
			bad += w.done
		}
		w.fail(sense{key: keyMiscompare, asc: ascMiscompareVerify}.withInfo(uint64(bad)))
		return
	}
	w.done += w.n
	verifyStep(w)
}

func prepareWriteVerify(t *Task) sense {
	st := &t.state
	if s := st.itl.lu.writable(); !s.ok() {
		return s
	}
	if byteCheck(&st.cdb) > 1 {
		return badCDB(1, 2)
	}
	st.fua = true // what is verified is on the medium
	return t.transfer(DirOut)
}

// writeVerify writes, durably, and verifies as VERIFY does.
func writeVerify(t *Task) {
	data, n := t.arrived()
	if n == 0 {
		t.good()
		return
	}
	t.state.length = n
	w := t.newWork(n)
	if w == nil {
		return
	}
	t.state.req.FUA = true
	w.run(func(w *work) {
		w.submit(blockdev.OpWrite, t.state.offset, n, data, verifyStep)
	})
}

// orWrite (SBC-4 §5.11) ors the data with what is there. Each block is put
// in by compare-and-write, so that a write of another command in between is
// taken in and not lost.
func orWrite(t *Task) {
	if t.short() {
		return
	}
	if t.Length == 0 {
		t.good()
		return
	}
	if w := t.newWork(2 * min(t.state.length, orWriteChunk)); w != nil {
		w.run(orWriteRead)
	}
}

// orWriteChunk keeps the two halves of a compare-and-write within chunkMax.
const orWriteChunk = chunkMax / 2

func orWriteRead(w *work) {
	if w.stopped() {
		return
	}
	st := &w.t.state
	w.n = min(orWriteChunk, st.length-w.done)
	if w.n == 0 {
		w.good()
		return
	}
	w.submit(blockdev.OpRead, st.offset+w.done, w.n, w.piece(w.n), orWriteStore)
}

func orWriteStore(w *work) {
	t := w.t
	n := int(w.n)
	old := w.buf.Slice(0, n, nil)
	set := t.Data.Slice(int(w.done), n, nil)
	into := w.buf.Slice(n, n, nil)
	for len(into) > 0 {
		k := min(len(old[0]), len(set[0]), len(into[0]))
		a, b, c := old[0][:k], set[0][:k], into[0][:k]
		for i := range c {
			c[i] = a[i] | b[i]
		}
		old, set, into = advance(old, k), advance(set, k), advance(into, k)
	}
	t.state.req.FUA = t.state.fua
	w.submitAny(blockdev.OpCompareAndWrite, t.state.offset+w.done, w.n, w.piece(2*w.n), orWriteStored)
}

func orWriteStored(w *work) {
	switch {
	case w.err == nil:
		w.done += w.n
	case !isMiscompare(w.err):
		w.failIO(w.err)
		return
	}
	// After a miscompare somebody wrote in between: once more, with that.
	orWriteRead(w)
}

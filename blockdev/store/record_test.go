package store

import (
	"reflect"
	"testing"

	"blockd.dev/blockdev/disk"
)

// testBatch encodes a batch with one record of every type.
func testBatch() ([]byte, batchInfo) {
	p := disk.NewAligned(maxHeadBlocks * BlockBytes)
	b := batchInfo{headBlocks: 1, incarnation: 3, seq: 9, generation: 4, dataBlocks: 2}
	n := batchHeader
	add := func(typ byte, e edges, block, count, payload int) {
		q := putRecord(p[n:], typ, e, VolumeID{1}, 5, block, count, Version{1, 2}, payload)
		for i := range q {
			q[i] = byte(i)
		}
		n += recordHeader + payload
		b.records++
	}
	add(recWrite, makeEdges(7, 1), 510, 2, 8)
	add(recRemap, makeEdges(0, 3), 512, 32, 2*remapBytes)
	add(recClear, 0, 0, 512, 0)
	add(recZero, 0, 1023, 1, 0)
	add(recDrop, 0, 0, 0, 0)
	add(recPoison, makeEdges(3, 4), 1023, 1, 0)
	for _, op := range testNotes() {
		add(recClear, flagHigher|flagNote, 3, 4, op.noteBytes())
		op.putNote(p[n-op.noteBytes():])
	}
	b.recordBytes = n - batchHeader
	sealBatch(p, [16]byte{7}, b)
	return p, b
}

// testNotes has ops with every part of a Note, alone and together.
func testNotes() []*Op {
	var list []*Op
	for _, n := range []Note{
		{}, {Fence: 1 << 40}, {Stable: 7}, {Tail: true}, {Forget: true}, {Vouch: true}, {Void: []int64{0, maxVolumeBytes - ChunkBytes}},
		{Fence: 3, Stable: 4, Tail: true, Forget: true, Vouch: true, Void: []int64{5 * ExtentBytes}},
	} {
		list = append(list, &Op{Kind: OpWrite, Off: 3 * SpanBytes, Len: 5 * BlockBytes, Ver: Version{1, 2}, Note: &n, vouches: n.Vouch})
	}
	return list
}

// TestNoteIsSmall: what a small write with a Note costs in the log.
func TestNoteIsSmall(t *testing.T) {
	op := &Op{Kind: OpWrite, Len: BlockBytes, Note: &Note{Tail: true, Stable: 9, Void: []int64{0}}}
	if n := op.noteBytes(); n > 40 {
		t.Errorf("%d bytes", n)
	}
}

// TestBatchRoundTrip: what is encoded decodes to the same.
func TestBatchRoundTrip(t *testing.T) {
	p, want := testBatch()
	got, ok := peekBatch(p, [16]byte{7})
	if !ok || got != want {
		t.Fatalf("header %+v, want %+v", got, want)
	}
	if whole, err := checkBatch(p[:BlockBytes]); !whole || err != nil {
		t.Fatalf("check: %v %v", whole, err)
	}
	recs, err := decodeRecords(p[:BlockBytes], got, nil)
	if err != nil || len(recs) != 6+len(testNotes()) {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	r := recs[1]
	if r.typ != recRemap || r.vol != (VolumeID{1}) || r.extent != 5 || r.block != 512 || r.count != 32 || r.ver != (Version{1, 2}) || r.edges != makeEdges(0, 3) {
		t.Errorf("remap decodes to %+v", r)
	}
	for i, op := range testNotes() {
		r, n := recs[6+i], op.Note
		want := noteRecord{fence: n.Fence, stable: n.Stable, forget: n.Forget, vouch: n.Vouch, tail: op.tailOf(), voids: r.note.voids}
		if !r.noted || r.exact || !reflect.DeepEqual(r.note, want) || len(r.note.voids) != 8*len(n.Void) {
			t.Errorf("note %d decodes to %+v, want %+v", i, r.note, want)
		}
		for k, off := range n.Void {
			if r.note.void(k) != off {
				t.Errorf("note %d: void %d is %d", i, k, r.note.void(k))
			}
		}
	}
	if _, ok := peekBatch(p, [16]byte{8}); ok {
		t.Error("a batch of another store passes")
	}
	for bit := range 8 * (batchHeader + want.recordBytes) {
		q := append([]byte(nil), p[:BlockBytes]...)
		q[bit/8] ^= 1 << (bit % 8)
		if whole, _ := checkBatch(q); whole {
			t.Fatalf("bit %d may flip unseen", bit)
		}
	}
}

// FuzzDecodeRecords: no bytes make the decoder panic, and what it returns stays
// within what the format allows.
func FuzzDecodeRecords(f *testing.F) {
	p, b := testBatch()
	f.Add(append([]byte(nil), p[:BlockBytes]...))
	f.Add(append([]byte(nil), p[:batchHeader+recordHeader]...))
	f.Fuzz(func(t *testing.T, p []byte) {
		head := make([]byte, BlockBytes)
		copy(head, p)
		info, ok := peekBatch(head, [16]byte{7})
		if !ok || info.headBlocks != 1 {
			info = b
		}
		recs, err := decodeRecords(head, info, nil)
		if err != nil {
			return
		}
		data := 0
		for _, r := range recs {
			for i := range len(r.note.voids) / 8 {
				if off := r.note.void(i); off < 0 || off >= maxVolumeBytes || off%ChunkBytes != 0 {
					t.Fatalf("record %+v voids %d", r, off)
				}
			}
			if e := r.note.tail; e.Len != 0 && !e.valid() {
				t.Fatalf("record %+v", r)
			}
			if r.typ == recDrop || r.typ == recNote {
				continue
			}
			if r.count < 1 || r.block < 0 || r.block%blocksPerPage+r.count > blocksPerPage || r.block >= blocksPerPage*pagesPerExtent {
				t.Fatalf("record %+v leaves its span", r)
			}
			if r.typ == recWrite {
				if r.data != data || len(r.payload) != 4*r.count {
					t.Fatalf("record %+v", r)
				}
				data += r.count
			}
		}
		if data != info.dataBlocks {
			t.Fatalf("%d data blocks, header says %d", data, info.dataBlocks)
		}
	})
}

// FuzzDecodeNotes: no page of notes makes the decoder panic or return more than the
// format allows, and what it returns is encoded to a page that decodes to the same.
func FuzzDecodeNotes(f *testing.F) {
	encode := func(n *notes) []byte {
		m := metaBlock(make([]byte, BlockBytes))
		m.setNotesHead(n)
		for i, e := range n.tail {
			m.setTail(i, e)
		}
		return m
	}
	f.Add(encode(&notes{fenced: 3, stable: 5, last: 9, tail: []TailEntry{{Version{1, 6}, 0, BlockBytes}, {Version{2, 9}, 3 * SpanBytes, SpanBytes}}}))
	f.Add(encode(&notes{}))
	f.Add(encode(&notes{last: 1, unproven: true}))
	f.Fuzz(func(t *testing.T, p []byte) {
		decode := func(p []byte) (*notes, error) {
			n := &notes{pages: 1}
			n.ext = extent{vol: &Vol{}}
			n.ext.pages[0] = &page{img: make([]byte, BlockBytes)}
			copy(n.ext.pages[0].img, p)
			return n, n.decode()
		}
		n, err := decode(p)
		if err != nil {
			return
		}
		for _, e := range n.tail {
			if !e.valid() || e.Ver.Seq <= n.stable {
				t.Fatalf("entry %+v above %d", e, n.stable)
			}
		}
		again, err := decode(encode(n))
		if err != nil || again.fenced != n.fenced || again.stable != n.stable || again.last != n.last || again.unproven != n.unproven || !reflect.DeepEqual(again.tail, n.tail) {
			t.Fatalf("%+v became %+v, %v", n, again, err)
		}
	})
}

// TestAllocatorMatchesASet compares the allocator with a plain set.
func TestAllocatorMatchesASet(t *testing.T) {
	const chunks = 2*chunksPerRun + 100
	a := newAllocator(chunks)
	taken := map[uint32]bool{}
	next := uint32(1)
	for i := range 20000 {
		next = next*1664525 + 1013904223
		switch {
		case next>>30 != 0 && len(taken) < chunks:
			hint := next % (chunks + 50)
			c, ok := a.alloc(hint)
			if !ok || c >= chunks || taken[c] {
				t.Fatalf("step %d: got chunk %d, %v", i, c, ok)
			}
			if hint < chunks && !taken[hint] && c != hint {
				t.Fatalf("step %d: hint %d is free and was not taken", i, hint)
			}
			taken[c] = true
		default:
			c := next % chunks
			if a.release(c) != taken[c] {
				t.Fatalf("step %d: release of %d", i, c)
			}
			delete(taken, c)
		}
		if int(a.free) != chunks-len(taken) {
			t.Fatalf("step %d: %d free, want %d", i, a.free, chunks-len(taken))
		}
	}
	got := map[uint32]bool{}
	for c := range uint32(chunks) {
		if a.taken(c) {
			got[c] = true
		}
	}
	if !reflect.DeepEqual(got, taken) {
		t.Error("the sets differ")
	}
}

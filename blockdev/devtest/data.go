package devtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
)

func testGeometry(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	g := e.d.Geometry()
	switch {
	case g.BlockSize != 512 && g.BlockSize != 4096:
		t.Errorf("block size %d", g.BlockSize)
	case g.SizeBytes%int64(g.BlockSize) != 0:
		t.Errorf("size %d is no multiple of the block size %d", g.SizeBytes, g.BlockSize)
	case g.PhysicalBlockSize < g.BlockSize || g.PhysicalBlockSize%g.BlockSize != 0:
		t.Errorf("physical block size %d with blocks of %d", g.PhysicalBlockSize, g.BlockSize)
	case g.UnmapGranularity%g.BlockSize != 0 || g.UnmapGranularity < 0:
		t.Errorf("unmap granularity %d with blocks of %d", g.UnmapGranularity, g.BlockSize)
	case g.OptimalIOBytes < 0 || g.OptimalIOBytes%g.BlockSize != 0:
		t.Errorf("optimal I/O of %d bytes with blocks of %d", g.OptimalIOBytes, g.BlockSize)
	case g.ReadOnly:
		t.Error("the suite needs a device that is not read-only")
	}
	if n := testing.AllocsPerRun(100, func() { g = e.d.Geometry() }); n != 0 {
		t.Errorf("Geometry makes %v allocations", n)
	}
}

// ranges are places and lengths that cross what devices divide storage by.
func (e *env) ranges() [][2]int64 {
	return [][2]int64{
		{0, e.bs}, {e.bs, e.bs}, {0, 4096}, {4096 - e.bs, 2 * e.bs}, {4096 + e.bs, 8192},
		{64<<10 - e.bs, 2 * e.bs}, {64 << 10, 64 << 10}, {128<<10 - 4096, 12 << 10}, {96 << 10, 64<<10 + e.bs},
		{1<<20 - e.bs, 2 * e.bs}, {512 << 10, 1 << 20}, {e.size - e.bs, e.bs}, {e.size - 8192, 8192},
	}
}

func testReadAfterWrite(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	rng := newRand(1)
	model := pattern(rng, e.size)
	e.write(0, model)
	for _, r := range e.ranges() {
		p := pattern(rng, r[1])
		e.write(r[0], p)
		copy(model[r[0]:], p)
		e.same("what was written", r[0], p)
	}
	e.same("everything", 0, model)
}

func testHoles(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	e.same("a new device", 0, make([]byte, e.size))
	p := pattern(newRand(2), e.bs)
	off := 192<<10 + e.bs
	e.write(off, p)
	want := make([]byte, 256<<10)
	copy(want[e.bs+64<<10:], p)
	e.same("around a single block", 128<<10, want)
}

func testZeroing(t *testing.T, mk Make) {
	for _, mode := range []struct {
		name string
		req  blockdev.Request
	}{
		{"unmap", blockdev.Request{Op: blockdev.OpUnmap}},
		{"write-zeroes", blockdev.Request{Op: blockdev.OpWriteZeroes}},
		{"write-zeroes and keep", blockdev.Request{Op: blockdev.OpWriteZeroes, NoUnmap: true}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			e := newEnv(t, mk)
			model := pattern(newRand(3), e.size)
			e.write(0, model)
			for _, r := range e.ranges() {
				req := mode.req
				req.Offset, req.Length = r[0], r[1]
				if err := blockdev.Do(e.d, &req); err != nil {
					t.Fatal(err)
				}
				clear(model[r[0] : r[0]+r[1]])
			}
			e.same("after zeroing", 0, model)
			// Again, over holes, and then with data on top.
			req := mode.req
			req.Length = e.size
			for range 2 {
				if err := blockdev.Do(e.d, &req); err != nil {
					t.Fatal(err)
				}
			}
			clear(model)
			p := pattern(newRand(4), 3*e.bs)
			e.write(64<<10-e.bs, p)
			copy(model[64<<10-e.bs:], p)
			e.same("data on top of zeroes", 0, model)
		})
	}
}

func testCompareAndWrite(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	rng := newRand(5)
	model := make([]byte, e.size)
	half := e.size / 2 / e.bs * e.bs // the rest stays a hole
	copy(model, pattern(rng, half))
	e.write(0, model[:half])
	for _, r := range append(e.ranges(), [2]int64{half - e.bs, 2 * e.bs}) {
		off, n := r[0], min(r[1], 128<<10)
		p := pattern(rng, n)
		both := append(bytes.Clone(model[off:off+n]), p...)
		cut := 1 + rng.IntN(len(both)-1)
		e.must(blockdev.OpCompareAndWrite, off, n, both[:cut], both[cut:])
		copy(model[off:], p)
		// The old content does not match any more.
		err := e.op(blockdev.OpCompareAndWrite, off, n, both)
		_ = e.wantKind("stale compare and write", err, blockdev.ErrMiscompare, blockdev.OpCompareAndWrite)
	}
	e.same("after compare and write", 0, model)
}

func testMiscompareOffset(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	off, n := 64<<10-2*e.bs, 4*e.bs
	base := pattern(newRand(6), n)
	e.write(off, base)
	for _, at := range []int64{0, 1, e.bs - 1, e.bs, 2*e.bs + 7, n - 1} {
		want := bytes.Clone(base)
		want[at] ^= 0x10
		for i := at + 1; i < n; i += 3 {
			want[i] ^= 0xFF // later differences do not count
		}
		err := e.op(blockdev.OpCompareAndWrite, off, n, want[:5], want[5:], make([]byte, n))
		be := e.wantKind("compare and write", err, blockdev.ErrMiscompare, blockdev.OpCompareAndWrite)
		if be.Offset != off+at {
			t.Errorf("difference at %d reported at %d", off+at, be.Offset)
		}
	}
	e.same("a miscompare writes nothing", off, base)
}

// segments cuts p, by chance, into copies of any length, empty ones too, each
// at an odd address with guard bytes around.
type segments struct {
	data   [][]byte
	guards [][]byte
}

func cutUp(rng *rand.Rand, p []byte) *segments {
	s := &segments{}
	for first := true; len(p) > 0 || first; first = false {
		n := rng.IntN(min(len(p), 5000) + 1)
		if rng.IntN(8) == 0 {
			n = 0
		}
		mem := bytes.Repeat([]byte{0xC3}, n+16)
		lead := 1 + rng.IntN(8)
		copy(mem[lead:], p[:n])
		s.data = append(s.data, mem[lead:lead+n:lead+n])
		s.guards = append(s.guards, mem[:lead], mem[lead+n:])
		p = p[n:]
	}
	return s
}

func (s *segments) check(t *testing.T) {
	t.Helper()
	for _, g := range s.guards {
		for _, v := range g {
			if v != 0xC3 {
				t.Fatal("the device wrote beyond a segment")
			}
		}
	}
}

func testOddSegments(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	rng := newRand(7)
	for i := range 40 {
		n := e.bs * (1 + rng.Int64N(200<<10/e.bs))
		off := rng.Int64N((e.size-n)/e.bs+1) * e.bs
		p := pattern(rng, n)
		w := cutUp(rng, p)
		e.must(blockdev.OpWrite, off, n, w.data...)
		w.check(t)
		if i := firstDifference(bytes.Join(w.data, nil), p); i >= 0 {
			t.Fatalf("a write changed byte %d of its buffer", i)
		}
		r := cutUp(rng, make([]byte, n))
		e.must(blockdev.OpRead, off, n, r.data...)
		r.check(t)
		if at := firstDifference(bytes.Join(r.data, nil), p); at >= 0 {
			t.Fatalf("round %d: byte %d of %d at %d differs", i, at, n, off)
		}
	}
}

func testArenaBuffers(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	a := e.arena
	if a == nil {
		var err error
		if a, err = arena.New(arena.Config{SizeBytes: 16 << 20}); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	rng := newRand(8)
	for _, n := range []int64{e.bs, 4096, 4096 + e.bs, 64 << 10, 140 << 10, 1 << 20} {
		var w, r arena.SG
		if !a.GetSG(int(n), &w) || !a.GetSG(int(n), &r) {
			t.Fatalf("no arena buffers of %d bytes", n)
		}
		p := pattern(rng, n)
		w.CopyIn(0, p)
		off := rng.Int64N((e.size-n)/e.bs+1) * e.bs
		e.must(blockdev.OpWrite, off, n, w.Segs...)
		e.must(blockdev.OpRead, off, n, r.Segs...)
		got := make([]byte, n)
		r.CopyOut(0, got)
		if at := firstDifference(got, p); at >= 0 {
			t.Errorf("byte %d of %d at %d differs", at, n, off)
		}
		w.Release()
		r.Release()
	}
}

func testRefusals(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	end := e.d.Geometry().SizeBytes
	base := pattern(newRand(9), 64<<10)
	e.write(0, base)
	e.write(end-64<<10, base)
	buf := func(n int64) [][]byte { return [][]byte{make([]byte, n)} }
	for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite, blockdev.OpUnmap, blockdev.OpWriteZeroes, blockdev.OpCompareAndWrite} {
		data := func(n int64) [][]byte {
			switch op {
			case blockdev.OpRead, blockdev.OpWrite:
				return buf(n)
			case blockdev.OpCompareAndWrite:
				return buf(2 * n)
			}
			return nil
		}
		for name, tc := range map[string]struct {
			r    blockdev.Request
			kind error
		}{
			"last block and one more": {blockdev.Request{Offset: end - e.bs, Length: 2 * e.bs, Data: data(2 * e.bs)}, blockdev.ErrOutOfRange},
			"past the end":            {blockdev.Request{Offset: end, Length: e.bs, Data: data(e.bs)}, blockdev.ErrOutOfRange},
			"far past the end":        {blockdev.Request{Offset: 1<<62 + 1<<61, Length: e.bs, Data: data(e.bs)}, blockdev.ErrOutOfRange},
			"between blocks":          {blockdev.Request{Offset: e.bs / 2, Length: e.bs, Data: data(e.bs)}, blockdev.ErrInvalid},
			"half a block":            {blockdev.Request{Length: e.bs / 2, Data: data(e.bs / 2)}, blockdev.ErrInvalid},
			"negative offset":         {blockdev.Request{Offset: -e.bs, Length: e.bs, Data: data(e.bs)}, blockdev.ErrInvalid},
			"negative length":         {blockdev.Request{Offset: e.bs, Length: -e.bs}, blockdev.ErrInvalid},
		} {
			r := tc.r
			r.Op = op
			_ = e.wantKind(fmt.Sprintf("%s, %s", op, name), blockdev.Do(e.d, &r), tc.kind, op)
		}
		if data(1) != nil {
			r := blockdev.Request{Op: op, Length: 2 * e.bs, Data: data(e.bs)}
			_ = e.wantKind(op.String()+", too little data", blockdev.Do(e.d, &r), blockdev.ErrInvalid, op)
			r = blockdev.Request{Op: op, Length: e.bs, Data: append(data(e.bs), make([]byte, 1))}
			_ = e.wantKind(op.String()+", too much data", blockdev.Do(e.d, &r), blockdev.ErrInvalid, op)
		}
	}
	for _, op := range []blockdev.Op{0, blockdev.OpPoison + 1, 255} {
		_ = e.wantKind("unknown operation", e.op(op, 0, e.bs), blockdev.ErrInvalid, op)
	}
	e.same("the start after refusals", 0, base)
	e.same("the end after refusals", end-64<<10, base)
}

func testZeroLength(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	base := pattern(newRand(10), 8192)
	e.write(0, base)
	end := e.d.Geometry().SizeBytes
	for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite, blockdev.OpUnmap, blockdev.OpWriteZeroes, blockdev.OpCompareAndWrite} {
		for _, off := range []int64{0, e.bs, end} {
			e.must(op, off, 0)
		}
	}
	e.must(blockdev.OpWrite, 0, 0, []byte{}, []byte{})
	e.same("after requests of no length", 0, base)
}

func testFlushAndFUA(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	e.must(blockdev.OpFlush, 0, 0)
	p := pattern(newRand(11), 64<<10+e.bs)
	for _, r := range []*blockdev.Request{
		{Op: blockdev.OpWrite, FUA: true, Length: int64(len(p)), Data: [][]byte{p}},
		{Op: blockdev.OpFlush},
		{Op: blockdev.OpWriteZeroes, FUA: true, Length: e.bs},
		{Op: blockdev.OpUnmap, FUA: true, Offset: e.bs, Length: e.bs},
		{Op: blockdev.OpFlush, FUA: true},
	} {
		if err := blockdev.Do(e.d, r); err != nil {
			t.Fatalf("%s with FUA=%v: %v", r.Op, r.FUA, err)
		}
	}
	clear(p[:2*e.bs])
	e.same("after FUA", 0, p)

	// Flushes among writes, all in flight together.
	var f flight
	var all []*blockdev.Request
	for i := range int64(64) {
		all = append(all, &blockdev.Request{Op: blockdev.OpWrite, FUA: i%4 == 0, Offset: i * 4096, Length: 4096, Data: [][]byte{bytes.Repeat([]byte{byte(i)}, 4096)}})
		if i%8 == 7 {
			all = append(all, &blockdev.Request{Op: blockdev.OpFlush})
		}
	}
	f.launch(e.d, all...)
	f.wait(t)
	for _, r := range all {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		if r.Op == blockdev.OpWrite {
			e.same("written among flushes", r.Offset, r.Data[0])
		}
	}
}

func testReadOnly(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	set := readOnlySwitch(e.d)
	base := pattern(newRand(12), 8192)
	e.write(0, base)
	changes := make(chan blockdev.Change, 16)
	stop := e.d.Watch(func(c blockdev.Change) { changes <- c })
	if err := set(true); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c != blockdev.ChangeReadOnly || !e.d.Geometry().ReadOnly {
		t.Fatalf("change %d, read-only %v", c, e.d.Geometry().ReadOnly)
	}
	for _, op := range []blockdev.Op{blockdev.OpWrite, blockdev.OpUnmap, blockdev.OpWriteZeroes, blockdev.OpCompareAndWrite} {
		var data [][]byte
		switch op {
		case blockdev.OpWrite:
			data = [][]byte{make([]byte, e.bs)}
		case blockdev.OpCompareAndWrite:
			data = [][]byte{base[:e.bs], make([]byte, e.bs)}
		}
		_ = e.wantKind("on a read-only device", e.op(op, 0, e.bs, data...), blockdev.ErrReadOnly, op)
	}
	e.must(blockdev.OpFlush, 0, 0)
	e.same("read-only", 0, base)
	if err := set(false); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c != blockdev.ChangeReadOnly || e.d.Geometry().ReadOnly {
		t.Fatalf("change %d, read-only %v", c, e.d.Geometry().ReadOnly)
	}
	stop()
	if err := errors.Join(set(true), set(false)); err != nil {
		t.Fatal(err)
	}
	if len(changes) != 0 {
		t.Error("a stopped watcher was called")
	}
	e.write(0, make([]byte, 8192))
}

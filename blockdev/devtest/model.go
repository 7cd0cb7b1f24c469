package devtest

import (
	"bytes"
	"errors"
	"testing"

	"blockd.dev/blockdev"
)

// testRandomOps does the same to the device and to a byte slice: single
// requests and batches of some that do not overlap.
func testRandomOps(t *testing.T, mk Make) {
	for seed := range uint64(3) {
		e := newEnv(t, mk)
		rng := newRand(1000 + seed)
		model := make([]byte, e.size)
		for step := range 150 {
			var f flight
			var batch []*blockdev.Request
			var after []func()
			slot := e.size / 4 / e.bs * e.bs
			for i := range int64(1 + rng.IntN(4)) {
				// Each request of a batch has a quarter of the window.
				n := e.bs * (1 + rng.Int64N(min(slot, 160<<10)/e.bs))
				if rng.IntN(3) > 0 {
					n = e.bs * (1 + rng.Int64N(8192/e.bs))
				}
				off := i*slot + rng.Int64N((slot-n)/e.bs+1)*e.bs
				part := model[off : off+n]
				r := &blockdev.Request{Op: blockdev.Op(1 + rng.IntN(6)), Offset: off, Length: n, FUA: rng.IntN(8) == 0}
				switch r.Op {
				case blockdev.OpRead:
					r.Data = cutUp(rng, make([]byte, n)).data
					after = append(after, func() {
						if at := firstDifference(bytes.Join(r.Data, nil), part); at >= 0 {
							t.Fatalf("seed %d step %d: byte %d of the device differs", seed, step, off+int64(at))
						}
					})
				case blockdev.OpWrite:
					p := pattern(rng, n)
					r.Data = cutUp(rng, p).data
					after = append(after, func() { copy(part, p) })
				case blockdev.OpUnmap, blockdev.OpWriteZeroes:
					r.NoUnmap = rng.IntN(2) == 0
					after = append(after, func() { clear(part) })
				case blockdev.OpCompareAndWrite:
					if n > 64<<10 {
						n = 64 << 10
						r.Length, part = n, part[:n]
					}
					p := pattern(rng, 2*n)
					copy(p, part)
					same := rng.IntN(3) > 0
					if !same {
						p[rng.Int64N(n)] ^= 1
					}
					r.Data = cutUp(rng, p).data
					after = append(after, func() {
						if same {
							copy(part, p[n:])
						} else if errors.Is(r.Err, blockdev.ErrMiscompare) {
							r.Err = nil
						} else {
							t.Fatalf("seed %d step %d: %v, want a miscompare", seed, step, r.Err)
						}
					})
				case blockdev.OpFlush:
					r.Offset, r.Length = 0, 0
				}
				batch = append(batch, r)
			}
			f.launch(e.d, batch...)
			f.wait(t)
			for _, fn := range after {
				fn()
			}
			for _, r := range batch {
				if r.Err != nil {
					t.Fatalf("seed %d step %d: %v", seed, step, r.Err)
				}
			}
		}
		e.same("at the end", 0, model)
	}
}

func testResize(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	old := e.d.Geometry().SizeBytes
	model := pattern(newRand(20), e.size)
	e.write(0, model)
	changes := make(chan blockdev.Change, 16)
	defer e.d.Watch(func(c blockdev.Change) { changes <- c })()
	resize := func(size int64) {
		t.Helper()
		if err := e.d.(Resizer).Resize(size); err != nil {
			t.Fatal(err)
		}
		if c := <-changes; c != blockdev.ChangeSize {
			t.Fatalf("change %d", c)
		}
		if got := e.d.Geometry().SizeBytes; got != size {
			t.Fatalf("size %d, want %d", got, size)
		}
	}
	tail := func(size int64) {
		t.Helper()
		e.must(blockdev.OpRead, size-e.bs, e.bs, make([]byte, e.bs))
		_ = e.wantKind("past the end", e.op(blockdev.OpRead, size-e.bs, 2*e.bs, make([]byte, 2*e.bs)), blockdev.ErrOutOfRange, blockdev.OpRead)
	}
	bigger := old + 1<<20 + 4096
	resize(bigger)
	e.same("old data after growing", 0, model)
	e.same("new space", old, make([]byte, bigger-old))
	e.write(bigger-e.bs, model[:e.bs])
	tail(bigger)
	if err := e.d.(Resizer).Resize(bigger + 1); err == nil {
		t.Fatal("a size between two blocks was taken")
	}
	if err := e.d.(Resizer).Resize(-e.bs); err == nil {
		t.Fatal("a negative size was taken")
	}
	if got := e.d.Geometry().SizeBytes; got != bigger {
		t.Fatalf("size %d after a refused resize, want %d", got, bigger)
	}
	// Not every device shrinks; one that refuses must stay as it was.
	smaller := int64(1<<20 + 4096)
	if err := e.d.(Resizer).Resize(smaller); err != nil {
		if got := e.d.Geometry().SizeBytes; got != bigger {
			t.Fatalf("size %d after a refused resize, want %d", got, bigger)
		}
		e.same("after a refused resize", 0, model)
		return
	}
	if c := <-changes; c != blockdev.ChangeSize {
		t.Fatalf("change %d", c)
	}
	tail(smaller)
	e.same("what is left", 0, model[:smaller])
	resize(old)
	clear(model[smaller:])
	e.same("after growing again", 0, model)
}

// walk returns the mapped state of every block of the window.
func (e *env) walk() []bool {
	e.Helper()
	m := e.d.(blockdev.Mapper)
	var blocks []bool
	for off := int64(0); off < e.size; {
		mapped, n, err := m.NextMapped(off, e.size-off)
		if err != nil {
			e.Fatalf("NextMapped(%d): %v", off, err)
		}
		if n <= 0 || n%e.bs != 0 || n > e.size-off {
			e.Fatalf("NextMapped(%d, %d): a run of %d bytes", off, e.size-off, n)
		}
		if !mapped {
			if at := firstDifference(e.read(off, n), make([]byte, n)); at >= 0 {
				e.Fatalf("the hole at %d has data at %d", off, off+int64(at))
			}
		}
		for range n / e.bs {
			blocks = append(blocks, mapped)
		}
		off += n
	}
	return blocks
}

func testMapper(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	g := e.d.Geometry()
	expect := func(what string, off, n int64, want bool) {
		t.Helper()
		for i, mapped := range e.walk()[off/e.bs : (off+n)/e.bs] {
			if mapped != want {
				t.Fatalf("%s: the block at %d has mapped=%v", what, off+int64(i)*e.bs, mapped)
			}
		}
	}
	if g.Thin {
		expect("a new device", 0, e.size, false)
	}
	gran := int64(max(g.UnmapGranularity, g.BlockSize))
	off, n := gran, 4*gran+256<<10
	n -= n % gran
	e.write(off, bytes.Repeat([]byte{7}, int(n)))
	expect("after a write", off, n, true)
	one := e.size - e.bs
	e.write(one, bytes.Repeat([]byte{7}, int(e.bs)))
	expect("after writing the last block", one, e.bs, true)

	m := e.d.(blockdev.Mapper)
	if mapped, run, err := m.NextMapped(off+e.bs, e.bs); err != nil || !mapped || run != e.bs {
		t.Fatalf("NextMapped limited to a block: %v %d %v", mapped, run, err)
	}
	if _, _, err := m.NextMapped(g.SizeBytes, e.bs); !errors.Is(err, blockdev.ErrOutOfRange) {
		t.Errorf("NextMapped at the end: %v, want %v", err, blockdev.ErrOutOfRange)
	}
	if g.Thin && g.UnmapGranularity > 0 {
		e.must(blockdev.OpUnmap, off+gran, gran)
		expect("after unmap", off+gran, gran, false)
		expect("before what was unmapped", off, gran, true)
		expect("behind what was unmapped", off+2*gran, gran, true)
	}
}

func testProvisioner(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	p := e.d.(blockdev.Provisioner)
	g := e.d.Geometry()
	before, availBefore := p.Provisioning()
	e.write(0, bytes.Repeat([]byte{7}, 1<<20))
	e.must(blockdev.OpFlush, 0, 0)
	used, avail := p.Provisioning()
	if before < 0 || avail < 0 || used < 0 {
		t.Fatalf("used %d, then %d; available %d", before, used, avail)
	}
	if !g.Thin {
		return
	}
	if used < before+1<<20 || avail > availBefore {
		t.Errorf("1 MiB written: used %d, was %d; available %d, was %d", used, before, avail, availBefore)
	}
	if g.UnmapGranularity > 0 {
		e.must(blockdev.OpUnmap, 0, 1<<20)
		e.must(blockdev.OpFlush, 0, 0)
		if now, _ := p.Provisioning(); now >= used {
			t.Errorf("1 MiB unmapped: used %d, was %d", now, used)
		}
	}
}

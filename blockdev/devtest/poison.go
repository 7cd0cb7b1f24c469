package devtest

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"blockd.dev/blockdev"
)

// wantPoison fails unless err says that a host made the block at off
// unreadable. A device at the other end of a wire may know no more than that
// something in the request's range can't be read.
func (e *env) wantPoison(what string, err error, op blockdev.Op, off int64) {
	e.Helper()
	be := e.wantKind(what, err, blockdev.ErrMedium, op)
	if errors.Is(err, blockdev.ErrPoisoned) && be.Offset != off {
		e.Fatalf("%s: the first bad byte is at %d, want %d", what, be.Offset, off)
	}
}

// testPoison poisons ranges in data and in holes: what lies in them can't be
// read, what is beside them can, and every way to give a block new content
// heals it.
func testPoison(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	half := e.size / 2 / e.bs * e.bs // the rest stays a hole
	model := make([]byte, e.size)
	copy(model, pattern(newRand(30), half))
	e.write(0, model[:half])
	zero := make([]byte, e.bs)
	heal := []func(off, n int64){
		func(off, n int64) { e.write(off, model[off:off+n]) },
		func(off, n int64) { e.must(blockdev.OpUnmap, off, n); clear(model[off : off+n]) },
		func(off, n int64) { e.must(blockdev.OpWriteZeroes, off, n); clear(model[off : off+n]) },
		func(off, n int64) {
			r := blockdev.Request{Op: blockdev.OpWriteZeroes, NoUnmap: true, Offset: off, Length: n}
			if err := blockdev.Do(e.d, &r); err != nil {
				t.Fatal(err)
			}
			clear(model[off : off+n])
		},
	}
	for i, r := range append(e.ranges(), [2]int64{half - e.bs, 2 * e.bs}) {
		off, n := r[0], r[1]
		e.must(blockdev.OpPoison, off, n)
		e.must(blockdev.OpPoison, off, n) // again is nothing new
		for _, at := range []int64{off, off + n - e.bs} {
			e.wantPoison("read of a poisoned block", e.op(blockdev.OpRead, at, e.bs, make([]byte, e.bs)), blockdev.OpRead, at)
		}
		if off > 0 {
			e.same("the block before", off-e.bs, model[off-e.bs:off])
			err := e.op(blockdev.OpRead, off-e.bs, 2*e.bs, make([]byte, 2*e.bs))
			e.wantPoison("read into a poisoned block", err, blockdev.OpRead, off)
		}
		if off+n < e.size {
			e.same("the block behind", off+n, model[off+n:off+n+e.bs])
		}
		both := append(bytes.Clone(model[off:off+e.bs]), zero...)
		err := e.op(blockdev.OpCompareAndWrite, off, e.bs, both)
		e.wantPoison("compare with a poisoned block", err, blockdev.OpCompareAndWrite, off)
		e.wantPoison("after a failed compare", e.op(blockdev.OpRead, off, e.bs, make([]byte, e.bs)), blockdev.OpRead, off)
		heal[i%len(heal)](off, e.bs) // a part of it
		e.same("a healed block", off, model[off:off+e.bs])
		if n > e.bs {
			e.wantPoison("what was not healed", e.op(blockdev.OpRead, off, n, make([]byte, n)), blockdev.OpRead, off+e.bs)
		}
		heal[(i+1)%len(heal)](off, n)
		e.same("after healing", off, model[off:off+n])
	}
	e.same("everything", 0, model)
}

// testRandomPoison does the same to the device and to a model of data and
// poison, one request at a time.
func testRandomPoison(t *testing.T, mk Make) {
	for seed := range uint64(3) {
		e := newEnv(t, mk)
		rng := newRand(3000 + seed)
		window := min(e.size, 256<<10)
		model, bad := make([]byte, window), make([]bool, window/e.bs)
		for range 300 {
			n := e.bs * (1 + rng.Int64N(16))
			off := rng.Int64N((window-n)/e.bs+1) * e.bs
			part, marks := model[off:off+n], bad[off/e.bs:(off+n)/e.bs]
			first := int64(slices.Index(marks, true))
			mark := func(on bool) {
				for i := range marks {
					marks[i] = on
				}
			}
			switch op := blockdev.Op(1 + rng.IntN(7)); op {
			case blockdev.OpRead:
				if first >= 0 {
					e.wantPoison("read", e.op(op, off, n, make([]byte, n)), op, off+first*e.bs)
				} else {
					e.same("read", off, part)
				}
			case blockdev.OpWrite:
				copy(part, pattern(rng, n))
				e.write(off, part)
				mark(false)
			case blockdev.OpUnmap, blockdev.OpWriteZeroes:
				r := blockdev.Request{Op: op, NoUnmap: rng.IntN(2) == 0, Offset: off, Length: n}
				if err := blockdev.Do(e.d, &r); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				clear(part)
				mark(false)
			case blockdev.OpCompareAndWrite:
				both := append(bytes.Clone(part), pattern(rng, n)...)
				if err := e.op(op, off, n, both); first >= 0 {
					e.wantPoison("compare and write", err, op, off+first*e.bs)
				} else if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				} else {
					copy(part, both[n:])
				}
			case blockdev.OpPoison:
				e.must(op, off, n)
				mark(true)
			default:
				e.must(blockdev.OpFlush, 0, 0)
			}
		}
		for i, is := range bad {
			off := int64(i) * e.bs
			if is {
				e.wantPoison("at the end", e.op(blockdev.OpRead, off, e.bs, make([]byte, e.bs)), blockdev.OpRead, off)
				// What a poisoned block held before is nobody's business.
				continue
			}
			e.same("at the end", off, model[off:off+e.bs])
		}
	}
}

package devtest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"blockd.dev/blockdev"
)

// borrow is a read that borrows and has to succeed.
func (e *env) borrow(off, n int64) *blockdev.Request {
	e.Helper()
	r := &blockdev.Request{Op: blockdev.OpRead, Borrow: true, Offset: off, Length: n}
	if err := blockdev.Do(e.d, r); err != nil {
		e.Fatalf("borrowing read of %d bytes at %d: %v", n, off, err)
	}
	var have int64
	for _, s := range r.Data {
		have += int64(len(s))
	}
	if have != n {
		e.Fatalf("borrowing read of %d bytes at %d gave %d", n, off, have)
	}
	return r
}

// holds fails unless a loan has its content.
func (e *env) holds(what string, r *blockdev.Request, want []byte) {
	e.Helper()
	if i := firstDifference(bytes.Join(r.Data, nil), want); i >= 0 {
		e.Fatalf("%s: byte %d of %d that were borrowed at %d differs", what, i, r.Length, r.Offset)
	}
}

// testBorrow overwrites what is lent in every way there is: the loan keeps
// what was there, everybody else sees what is new, and nothing is left of it
// when the loans are returned.
func testBorrow(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	rng := newRand(40)
	half := e.size / 2 / e.bs * e.bs // the rest stays a hole
	model := make([]byte, e.size)
	copy(model, pattern(rng, half))
	e.write(0, model[:half])
	used := func() (n int64) {
		if p, ok := e.d.(blockdev.Provisioner); ok {
			n, _ = p.Provisioning()
		}
		return n
	}
	type change struct {
		name string
		do   func(off, n int64)
	}
	changes := []change{
		{"write", func(off, n int64) {
			copy(model[off:off+n], pattern(rng, n))
			e.write(off, model[off:off+n])
		}},
		{"unmap", func(off, n int64) { e.must(blockdev.OpUnmap, off, n); clear(model[off : off+n]) }},
		{"write-zeroes", func(off, n int64) { e.must(blockdev.OpWriteZeroes, off, n); clear(model[off : off+n]) }},
		{"anchored zeroes", func(off, n int64) {
			r := blockdev.Request{Op: blockdev.OpWriteZeroes, NoUnmap: true, Offset: off, Length: n}
			if err := blockdev.Do(e.d, &r); err != nil {
				t.Fatal(err)
			}
			clear(model[off : off+n])
		}},
		{"compare-and-write", func(off, n int64) {
			n = min(n, 128<<10)
			both := append(bytes.Clone(model[off:off+n]), pattern(rng, n)...)
			e.must(blockdev.OpCompareAndWrite, off, n, both)
			copy(model[off:], both[n:])
		}},
	}
	for _, r := range append(e.ranges(), [2]int64{half - e.bs, 2 * e.bs}) {
		for _, c := range changes {
			off, n := r[0], r[1]
			was := bytes.Clone(model[off : off+n])
			first := e.borrow(off, n)
			e.holds("a new loan", first, was)
			c.do(off, n)
			e.holds("after "+c.name, first, was)
			e.same("after "+c.name+" of what is lent", off, model[off:off+n])
			// A loan of the new content, a change of a part of it, and both back
			// in either order.
			now := bytes.Clone(model[off : off+n])
			second := e.borrow(off, n)
			changes[0].do(off, e.bs)
			changes[0].do(off+n-e.bs, e.bs)
			e.holds("the second loan", second, now)
			if rng.IntN(2) == 0 {
				first, second, now = second, first, was
			}
			first.Return()
			e.holds("the loan that is left", second, now)
			e.same("with one loan", off, model[off:off+n])
			c.do(off, n)
			e.holds("the loan that is left after "+c.name, second, now)
			second.Return()
			second.Return() // again is nothing
			e.same("without loans", off, model[off:off+n])
		}
	}
	e.same("everything", 0, model)
	if e.d.Geometry().Thin {
		before := used()
		e.write(0, model)
		e.must(blockdev.OpUnmap, 0, e.size)
		if after := used(); after > before {
			t.Errorf("%d bytes used after unmapping everything, %d before", after, before)
		}
	}
}

// testRandomBorrow does the same to the device and to a model, with loans
// that come and go at any time.
func testRandomBorrow(t *testing.T, mk Make) {
	for seed := range uint64(4) {
		e := newEnv(t, mk)
		rng := newRand(4000 + seed)
		window := min(e.size, 256<<10)
		model := make([]byte, window)
		type loan struct {
			r    *blockdev.Request
			want []byte
		}
		var loans []loan
		for step := range 600 {
			n := e.bs * (1 + rng.Int64N(16))
			off := rng.Int64N((window-n)/e.bs+1) * e.bs
			part := model[off : off+n]
			switch rng.IntN(7) {
			case 0, 1:
				loans = append(loans, loan{e.borrow(off, n), bytes.Clone(part)})
			case 2, 3:
				if len(loans) == 0 {
					break
				}
				i := rng.IntN(len(loans))
				e.holds("before its return", loans[i].r, loans[i].want)
				loans[i].r.Return()
				loans[i] = loans[len(loans)-1]
				loans = loans[:len(loans)-1]
			case 4:
				copy(part, pattern(rng, n))
				e.write(off, part)
			case 5:
				r := blockdev.Request{Op: blockdev.OpWriteZeroes, NoUnmap: rng.IntN(2) == 0, Offset: off, Length: n}
				if err := blockdev.Do(e.d, &r); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				clear(part)
			case 6:
				e.same("a copy", off, part)
			}
			if step%50 == 0 {
				for _, l := range loans {
					e.holds("a loan", l.r, l.want)
				}
			}
		}
		for _, l := range loans {
			e.holds("at the end", l.r, l.want)
			l.r.Return()
		}
		e.same("at the end", 0, model)
	}
}

// testBorrowedTearing has writers fill blocks, each with one value, while
// readers borrow them: every block that is lent is of one value, and is the
// same at a second look.
func testBorrowedTearing(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	const blocks = 8
	e.write(0, make([]byte, blocks*e.bs))
	stop := make(chan struct{})
	var writers, readers sync.WaitGroup
	for g := range 2 {
		writers.Go(func() {
			rng := newRand(uint64(50 + g))
			p := make([]byte, 3*e.bs)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				n := e.bs * (1 + rng.Int64N(3))
				for j := range p[:n] {
					p[j] = byte(i)
				}
				if err := blockdev.WriteAt(e.d, p[:n], rng.Int64N(blocks-n/e.bs+1)*e.bs); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for g := range 2 {
		readers.Go(func() { e.borrowWhole(newRand(uint64(60+g)), blocks) })
	}
	readers.Wait()
	close(stop)
	writers.Wait()
}

func (e *env) borrowWhole(rng *rand.Rand, blocks int64) {
	r := &blockdev.Request{Op: blockdev.OpRead, Borrow: true}
	for range 2000 {
		r.Length = e.bs * (1 + rng.Int64N(4))
		r.Offset = rng.Int64N(blocks-r.Length/e.bs+1) * e.bs
		r.Data = nil
		if err := blockdev.Do(e.d, r); err != nil {
			e.Error(err)
			return
		}
		first := bytes.Join(r.Data, nil)
		for at := int64(0); at < r.Length; at += e.bs {
			block := first[at : at+e.bs]
			if bytes.Count(block, block[:1]) != len(block) {
				e.Error("a block that was borrowed is of two writes")
			}
		}
		second := bytes.Join(r.Data, nil)
		r.Return()
		if !bytes.Equal(first, second) {
			e.Error("what was borrowed changed before its return")
			return
		}
	}
}

// testBorrowRefusals asks for loans that can't be.
func testBorrowRefusals(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	end := e.d.Geometry().SizeBytes
	for name, tc := range map[string]struct {
		r    blockdev.Request
		kind error
	}{
		"a write":        {blockdev.Request{Op: blockdev.OpWrite, Length: e.bs, Data: [][]byte{make([]byte, e.bs)}}, blockdev.ErrInvalid},
		"with a buffer":  {blockdev.Request{Op: blockdev.OpRead, Length: e.bs, Data: [][]byte{make([]byte, e.bs)}}, blockdev.ErrInvalid},
		"beyond the end": {blockdev.Request{Op: blockdev.OpRead, Offset: end - e.bs, Length: 2 * e.bs}, blockdev.ErrOutOfRange},
	} {
		r := tc.r
		r.Borrow = true
		if err := blockdev.Do(e.d, &r); !errors.Is(err, tc.kind) {
			t.Errorf("%s: %v, want %v", name, err, tc.kind)
		}
		r.Return() // nothing is lent
	}
	if !poisons(e.d) {
		return
	}
	const size = 128 << 10
	model := pattern(newRand(41), size)
	e.write(0, model)
	bad := int64(size/2 + 2*e.bs)
	e.must(blockdev.OpPoison, bad, e.bs)
	r := &blockdev.Request{Op: blockdev.OpRead, Borrow: true, Length: size}
	err := blockdev.Do(e.d, r)
	e.wantPoison("borrowing read", err, blockdev.OpRead, bad)
	r.Return()
	before := e.borrow(0, bad)
	e.holds("before the poisoned block", before, model[:bad])
	e.write(0, make([]byte, size)) // a refused loan lends nothing for good
	before.Return()
	e.same("in the end", 0, make([]byte, size))
}

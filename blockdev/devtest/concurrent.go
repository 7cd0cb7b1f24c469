package devtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"blockd.dev/blockdev"
)

// testLostUpdate counts in the blocks of one range by compare-and-write from
// many goroutines: every success is in the sum, and all blocks of the range
// agree.
func testLostUpdate(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	const workers, increments = 6, 40
	off, n := 64<<10-e.bs, 2*e.bs // crosses what devices divide storage by
	stamp := func(v uint64) []byte {
		p := make([]byte, n)
		for at := int64(0); at < n; at += 8 {
			binary.LittleEndian.PutUint64(p[at:], v)
		}
		return p
	}
	// A miss means that another goroutine made progress meanwhile. Many in a
	// row without any mean that a mixture is stuck in the range.
	const missesMax = 2000
	var successes atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			p := make([]byte, n)
			misses, seen := 0, int64(-1)
			for done := 0; done < increments; {
				if now := successes.Load(); now != seen {
					misses, seen = 0, now
				} else if misses++; misses > missesMax {
					t.Errorf("%d attempts in a row failed and nobody succeeded: the range holds a mixture", missesMax)
					return
				}
				if err := e.op(blockdev.OpRead, off, n, p); err != nil {
					t.Error(err)
					return
				}
				v := binary.LittleEndian.Uint64(p)
				err := e.op(blockdev.OpCompareAndWrite, off, n, stamp(v), stamp(v+1))
				switch {
				case err == nil:
					done++
					successes.Add(1)
				case !errors.Is(err, blockdev.ErrMiscompare):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	e.same("the count", off, stamp(workers*increments))
}

// testTearing has writers of overlapping ranges, each write a value of its
// own, and readers beside them. No logical block is ever a mixture, and at the
// end each block holds what some writer wrote there.
func testTearing(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	const workers, writes = 4, 60
	span := int64(192 << 10)
	// Values above 8 bits: the low byte alone would repeat.
	check := func(p []byte, off int64) {
		for at := int64(0); at < int64(len(p)); at += e.bs {
			block := p[at : at+e.bs]
			if !bytes.Equal(block[4:], block[:e.bs-4]) {
				i := 4
				for block[i] == block[i-4] {
					i++
				}
				t.Errorf("the block at %d is a mixture from byte %d on", off+at, i)
				return
			}
		}
	}
	var next atomic.Uint32
	var writing, reading sync.WaitGroup
	stop := make(chan struct{})
	for g := range workers {
		writing.Go(func() {
			rng := newRand(uint64(100 + g))
			p := make([]byte, 128<<10)
			for range writes {
				n := e.bs * (1 + rng.Int64N(int64(len(p))/e.bs))
				off := rng.Int64N((span-n)/e.bs+1) * e.bs
				v := next.Add(1)
				for at := int64(0); at < n; at += 4 {
					binary.LittleEndian.PutUint32(p[at:], v)
				}
				var err error
				if rng.IntN(10) == 0 {
					err = e.op(blockdev.OpUnmap, off, n)
				} else {
					err = e.op(blockdev.OpWrite, off, n, p[:n])
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for g := range 2 {
		reading.Go(func() {
			rng := newRand(uint64(200 + g))
			p := make([]byte, 96<<10)
			for {
				select {
				case <-stop:
					return
				default:
				}
				off := rng.Int64N((span-int64(len(p)))/e.bs+1) * e.bs
				if err := e.op(blockdev.OpRead, off, int64(len(p)), p); err != nil {
					t.Error(err)
					return
				}
				check(p, off)
			}
		})
	}
	writing.Wait()
	close(stop)
	reading.Wait()
	check(e.read(0, span), 0)
}

// testDoneExactlyOnce submits big mixed batches, good and bad requests, from
// several goroutines.
func testDoneExactlyOnce(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	end := e.d.Geometry().SizeBytes
	var f flight
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := newRand(uint64(300 + g))
			for range 4 {
				var batch []*blockdev.Request
				for range 64 {
					r := &blockdev.Request{
						Op:     blockdev.Op(rng.IntN(8)), // 0 and 7 do not exist
						Offset: rng.Int64N(e.size/e.bs-16) * e.bs,
						Length: rng.Int64N(16) * e.bs,
					}
					switch r.Op {
					case blockdev.OpRead, blockdev.OpWrite:
						r.Data = [][]byte{make([]byte, r.Length)}
					case blockdev.OpCompareAndWrite:
						r.Data = [][]byte{make([]byte, 2*r.Length)}
					}
					if rng.IntN(8) == 0 {
						r.Offset += end
					}
					batch = append(batch, r)
				}
				f.launch(e.d, batch...)
			}
		})
	}
	wg.Wait()
	f.wait(t)
	e.must(blockdev.OpFlush, 0, 0)
	f.wait(t)
}

// testSubmitFromDone runs a chain in which each Done submits the next request.
func testSubmitFromDone(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	const links = 200
	finished := make(chan error, 1)
	p := make([]byte, e.bs)
	batch := make([]*blockdev.Request, 1)
	count := 0
	r := &blockdev.Request{Op: blockdev.OpWrite, Length: e.bs, Data: [][]byte{p}}
	r.Done = func(r *blockdev.Request) {
		count++
		if r.Err != nil || count == links {
			finished <- r.Err
			return
		}
		binary.LittleEndian.PutUint32(p, uint32(count))
		r.Offset = int64(count%32) * e.bs
		batch[0] = r
		e.d.Submit(batch)
	}
	batch[0] = r
	e.d.Submit(batch)
	if err := <-finished; err != nil {
		t.Fatal(err)
	}
	if got := binary.LittleEndian.Uint32(e.read((links-1)%32*e.bs, e.bs)); got != links-1 {
		t.Fatalf("the last link wrote %d, want %d", got, links-1)
	}
}

// testBatchIsNotKept clears the batch slice as soon as Submit returns, and
// reuses the request structs.
func testBatchIsNotKept(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	const n = 32
	reqs := make([]blockdev.Request, n)
	batch := make([]*blockdev.Request, n)
	for round := range 4 {
		var f flight
		f.wg.Add(n)
		for i := range reqs {
			r := &reqs[i]
			// Internal stays as the device left it.
			r.Op, r.Offset, r.Length = blockdev.OpWrite, int64(i)*4096, 4096
			r.Data = [][]byte{bytes.Repeat([]byte{byte(round*n + i)}, 4096)}
			r.Tag = i
			r.Done = func(*blockdev.Request) { f.wg.Done() }
			batch[i] = r
		}
		e.d.Submit(batch)
		clear(batch)
		f.wait(t)
		for i := range reqs {
			if reqs[i].Err != nil {
				t.Fatal(reqs[i].Err)
			}
			if reqs[i].Tag != i {
				t.Error("the device touched Tag")
			}
			e.same("after reuse", int64(i)*4096, reqs[i].Data[0])
		}
	}
}

// testConcurrentNeighbours gives every worker its own blocks, interleaved with
// the others' down to neighbours in one physical block, and a model of them.
func testConcurrentNeighbours(t *testing.T, mk Make) {
	e := newEnv(t, mk)
	const workers, rounds, stripes = 4, 150, 64
	var wg sync.WaitGroup
	for g := range int64(workers) {
		wg.Go(func() {
			rng := newRand(uint64(400 + g))
			model := make([]byte, stripes*e.bs)
			p := make([]byte, e.bs)
			for range rounds {
				i := rng.Int64N(stripes)
				off := (i*workers + g) * e.bs
				own := model[i*e.bs : (i+1)*e.bs]
				var err error
				switch rng.IntN(5) {
				case 0:
					err = e.op(blockdev.OpUnmap, off, e.bs)
					clear(own)
				case 1:
					fresh := pattern(rng, e.bs)
					err = e.op(blockdev.OpCompareAndWrite, off, e.bs, own, fresh)
					copy(own, fresh)
				case 2, 3:
					copy(own, pattern(rng, e.bs))
					err = e.op(blockdev.OpWrite, off, e.bs, own)
				}
				if err == nil {
					err = e.op(blockdev.OpRead, off, e.bs, p)
				}
				if err != nil {
					t.Error(err)
					return
				}
				if at := firstDifference(p, own); at >= 0 {
					t.Errorf("worker %d: byte %d of its block at %d differs", g, at, off)
					return
				}
			}
		})
	}
	wg.Wait()
}

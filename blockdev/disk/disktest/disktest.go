// Package disktest is the conformance suite that every disk.Disk must pass:
// a map of named tests, each with the promise that it proves.
package disktest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"blockd.dev/blockdev/disk"
)

// SizeBytes is the least size of the disks under test.
const SizeBytes = 16 << 20

const blk = disk.BlockBytes

// Maker returns a fresh disk of at least SizeBytes whose content reads as zeroes.
// The suite closes it.
type Maker func(t *testing.T) disk.Disk

// Run runs every test of Tests on disks from make.
func Run(t *testing.T, make Maker) {
	for name, test := range Tests {
		t.Run(name, func(t *testing.T) {
			d := make(t)
			closed := false
			t.Cleanup(func() {
				if !closed {
					if err := d.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				}
			})
			test(t, d, func() error { closed = true; return d.Close() })
		})
	}
}

// Tests are the promises of disk.Disk. A test that closes its disk does so by
// the function it is given.
var Tests = map[string]func(t *testing.T, d disk.Disk, closeDisk func() error){
	"FreshDiskReadsZeroes":      freshDiskReadsZeroes,
	"ReadsBackWhatWasWritten":   readsBackWhatWasWritten,
	"ScattersAndGathers":        scattersAndGathers,
	"ManySegments":              manySegments,
	"LastBlockIsUsable":         lastBlockIsUsable,
	"RefusesBadIO":              refusesBadIO,
	"DoneMaySubmit":             doneMaySubmit,
	"ManyInFlight":              manyInFlight,
	"ManySubmitters":            manySubmitters,
	"DiscardKeepsNeighbours":    discardKeepsNeighbours,
	"SyncAndDsync":              syncAndDsync,
	"CloseWaitsThenRefuses":     closeWaitsThenRefuses,
	"InfoNamesTheDriver":        infoNamesTheDriver,
	"IOStructsAreReusable":      ioStructsAreReusable,
	"BadIODoesNotHurtItsBatch":  badIODoesNotHurtItsBatch,
	"ReadsOverlapWritesInOrder": readsOverlapWritesInOrder,
}

// Do runs ios together and waits for all of them.
func Do(d disk.Disk, ios ...*disk.IO) error {
	var wg sync.WaitGroup
	for _, io := range ios {
		wg.Add(1)
		io.Done = func(*disk.IO) { wg.Done() }
	}
	d.Submit(ios)
	wg.Wait()
	var errs []error
	for _, io := range ios {
		errs = append(errs, io.Err)
	}
	return errors.Join(errs...)
}

// Pattern fills p with bytes that depend on seed.
func Pattern(p []byte, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	for i := 0; i+8 <= len(p); i += 8 {
		v := r.Uint64()
		for j := range 8 {
			p[i+j] = byte(v >> (8 * j))
		}
	}
	return p
}

func pattern(blocks int, seed uint64) []byte { return Pattern(disk.NewAligned(blocks*blk), seed) }

func write(d disk.Disk, p []byte, off int64) error {
	return Do(d, &disk.IO{Op: disk.Write, Off: off, Bufs: [][]byte{p}})
}

// expect reads at off and compares with want.
func expect(d disk.Disk, want []byte, off int64) error {
	got := disk.NewAligned(len(want))
	if err := Do(d, &disk.IO{Op: disk.Read, Off: off, Bufs: [][]byte{got}}); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes at %d differ from what was written", len(want), off)
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func freshDiskReadsZeroes(t *testing.T, d disk.Disk, _ func() error) {
	must(t, expect(d, disk.NewAligned(64*blk), 0))
	must(t, expect(d, disk.NewAligned(blk), d.SizeBytes()-blk))
}

func readsBackWhatWasWritten(t *testing.T, d disk.Disk, _ func() error) {
	for i, blocks := range []int{1, 2, 16, 256} {
		p := pattern(blocks, uint64(i))
		off := int64(i) * 2 << 20
		must(t, write(d, p, off))
		must(t, expect(d, p, off))
		must(t, expect(d, disk.NewAligned(blk), off+int64(len(p))))
	}
}

func scattersAndGathers(t *testing.T, d disk.Disk, _ func() error) {
	a, b, c := pattern(1, 1), pattern(3, 2), pattern(2, 3)
	must(t, Do(d, &disk.IO{Op: disk.Write, Off: 8 * blk, Bufs: [][]byte{a, b, nil, c}}))
	must(t, expect(d, bytes.Join([][]byte{a, b, c}, nil), 8*blk))
	x, y := disk.NewAligned(4*blk), disk.NewAligned(2*blk)
	must(t, Do(d, &disk.IO{Op: disk.Read, Off: 8 * blk, Bufs: [][]byte{x, y}}))
	if !bytes.Equal(x, append(append([]byte(nil), a...), b...)) || !bytes.Equal(y, c) {
		t.Fatal("scattered read differs")
	}
}

// manySegments passes the kernel's limit of segments per call.
func manySegments(t *testing.T, d disk.Disk, _ func() error) {
	const n = 2500
	p := pattern(n, 7)
	var bufs [][]byte
	for i := range n {
		bufs = append(bufs, p[i*blk:(i+1)*blk:(i+1)*blk])
	}
	must(t, Do(d, &disk.IO{Op: disk.Write, Dsync: true, Off: blk, Bufs: bufs}))
	must(t, expect(d, p, blk))
	clear(p)
	must(t, Do(d, &disk.IO{Op: disk.Read, Off: blk, Bufs: bufs}))
	if !bytes.Equal(p, pattern(n, 7)) {
		t.Fatal("read into 2500 segments differs")
	}
}

func lastBlockIsUsable(t *testing.T, d disk.Disk, _ func() error) {
	if d.SizeBytes()%blk != 0 || d.SizeBytes() < SizeBytes {
		t.Fatalf("size %d", d.SizeBytes())
	}
	p := pattern(1, 1)
	must(t, write(d, p, d.SizeBytes()-blk))
	must(t, expect(d, p, d.SizeBytes()-blk))
}

func refusesBadIO(t *testing.T, d disk.Disk, _ func() error) {
	b := disk.NewAligned(2 * blk)
	bad := map[string]struct {
		io   disk.IO
		want error
	}{
		"offset not aligned":   {disk.IO{Op: disk.Read, Off: 512, Bufs: [][]byte{b}}, disk.ErrInvalid},
		"negative offset":      {disk.IO{Op: disk.Read, Off: -blk, Bufs: [][]byte{b}}, disk.ErrInvalid},
		"length not aligned":   {disk.IO{Op: disk.Write, Bufs: [][]byte{b[:512]}}, disk.ErrInvalid},
		"address not aligned":  {disk.IO{Op: disk.Write, Bufs: [][]byte{b[512 : 512+blk]}}, disk.ErrInvalid},
		"nothing to read":      {disk.IO{Op: disk.Read}, disk.ErrInvalid},
		"nothing to discard":   {disk.IO{Op: disk.Discard}, disk.ErrInvalid},
		"negative discard":     {disk.IO{Op: disk.Discard, Len: -blk}, disk.ErrInvalid},
		"unknown op":           {disk.IO{Op: 77, Bufs: [][]byte{b}}, disk.ErrInvalid},
		"no op":                {disk.IO{Bufs: [][]byte{b}}, disk.ErrInvalid},
		"past the end":         {disk.IO{Op: disk.Write, Off: d.SizeBytes() - blk, Bufs: [][]byte{b}}, disk.ErrOutOfRange},
		"far past the end":     {disk.IO{Op: disk.Read, Off: 1<<63 - blk, Bufs: [][]byte{b}}, disk.ErrOutOfRange},
		"discard past the end": {disk.IO{Op: disk.Discard, Off: blk, Len: d.SizeBytes()}, disk.ErrOutOfRange},
	}
	for name, c := range bad {
		if err := Do(d, &c.io); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	must(t, expect(d, disk.NewAligned(4*blk), 0))
}

func badIODoesNotHurtItsBatch(t *testing.T, d disk.Disk, _ func() error) {
	a, b := pattern(1, 1), pattern(1, 2)
	bad := &disk.IO{Op: disk.Write, Off: 1, Bufs: [][]byte{a}}
	err := Do(d, &disk.IO{Op: disk.Write, Off: 0, Bufs: [][]byte{a}}, bad, &disk.IO{Op: disk.Write, Off: blk, Bufs: [][]byte{b}})
	if !errors.Is(err, disk.ErrInvalid) || !errors.Is(bad.Err, disk.ErrInvalid) {
		t.Fatalf("bad I/O ended with %v", bad.Err)
	}
	must(t, expect(d, append(append([]byte(nil), a...), b...), 0))
}

// doneMaySubmit: a chain of 1000 I/Os, each submitted by the Done before it,
// needs no stack.
func doneMaySubmit(t *testing.T, d disk.Disk, _ func() error) {
	left, end := 1000, make(chan error)
	io := &disk.IO{Op: disk.Read, Bufs: [][]byte{disk.NewAligned(blk)}}
	batch := []*disk.IO{io}
	io.Done = func(io *disk.IO) {
		if left--; left == 0 || io.Err != nil {
			go func() { end <- io.Err }()
			return
		}
		d.Submit(batch)
	}
	d.Submit(batch)
	must(t, <-end)
}

// manyInFlight passes every bound of queues and rings.
func manyInFlight(t *testing.T, d disk.Disk, _ func() error) {
	const n = 2000
	p := pattern(n, 3)
	var ios []*disk.IO
	for i := range n {
		ios = append(ios, &disk.IO{Op: disk.Write, Off: int64(i) * blk, Bufs: [][]byte{p[i*blk : (i+1)*blk : (i+1)*blk]}})
	}
	must(t, Do(d, ios...))
	must(t, expect(d, p, 0))
}

// manySubmitters: Submit is safe from many goroutines, each of which sees its own
// writes.
func manySubmitters(t *testing.T, d disk.Disk, _ func() error) {
	errs := make(chan error)
	for g := range 8 {
		go func() {
			errs <- func() error {
				for i := range 40 {
					p := pattern(2, uint64(g*1000+i))
					off := int64(g)<<20 + int64(i%5)*2*blk
					if err := write(d, p, off); err != nil {
						return err
					}
					if err := expect(d, p, off); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func discardKeepsNeighbours(t *testing.T, d disk.Disk, _ func() error) {
	p := pattern(64, 1)
	must(t, write(d, p, 0))
	must(t, Do(d, &disk.IO{Op: disk.Discard, Off: 16 * blk, Len: 32 * blk}))
	must(t, expect(d, p[:16*blk], 0))
	must(t, expect(d, p[48*blk:], 48*blk))
	q := pattern(32, 2)
	must(t, write(d, q, 16*blk))
	must(t, expect(d, q, 16*blk))
}

func syncAndDsync(t *testing.T, d disk.Disk, _ func() error) {
	a, b := pattern(1, 1), pattern(4, 2)
	must(t, write(d, a, 0))
	must(t, Do(d, &disk.IO{Op: disk.Sync}))
	must(t, Do(d, &disk.IO{Op: disk.Write, Dsync: true, Off: blk, Bufs: [][]byte{b}}))
	must(t, expect(d, append(append([]byte(nil), a...), b...), 0))
}

// closeWaitsThenRefuses: every Done has run when Close returns, and later I/O
// fails without touching the disk.
func closeWaitsThenRefuses(t *testing.T, d disk.Disk, closeDisk func() error) {
	var mu sync.Mutex
	done := 0
	var ios []*disk.IO
	for i := range 200 {
		ios = append(ios, &disk.IO{Op: disk.Write, Off: int64(i) * blk, Bufs: [][]byte{pattern(1, 1)},
			Done: func(io *disk.IO) {
				mu.Lock()
				defer mu.Unlock()
				if done++; io.Err != nil {
					t.Errorf("write: %v", io.Err)
				}
			}})
	}
	d.Submit(ios)
	must(t, closeDisk())
	mu.Lock()
	if done != 200 {
		t.Errorf("Close returned with %d of 200 done", done)
	}
	mu.Unlock()
	for _, op := range []disk.Op{disk.Read, disk.Write, disk.Sync, disk.Discard} {
		io := &disk.IO{Op: op, Len: blk, Bufs: [][]byte{pattern(1, 1)}}
		if err := Do(d, io); !errors.Is(err, disk.ErrClosed) {
			t.Errorf("%v after Close: %v", op, err)
		}
	}
}

func infoNamesTheDriver(t *testing.T, d disk.Disk, _ func() error) {
	if i := d.Info(); i.Driver == "" || i.Path == "" {
		t.Fatalf("info %+v", i)
	}
}

// ioStructsAreReusable: Err is set anew each time and nothing of the first use
// shows in the second.
func ioStructsAreReusable(t *testing.T, d disk.Disk, _ func() error) {
	io := &disk.IO{Op: disk.Write, Off: 1, Bufs: [][]byte{pattern(1, 1)}}
	if Do(d, io) == nil {
		t.Fatal("misaligned write succeeded")
	}
	io.Off = blk
	must(t, Do(d, io))
	got := disk.NewAligned(2 * blk)
	io.Op, io.Off, io.Bufs = disk.Read, 0, [][]byte{got}
	must(t, Do(d, io))
	if !bytes.Equal(got[blk:], pattern(1, 1)) || !bytes.Equal(got[:blk], make([]byte, blk)) {
		t.Fatal("the reused struct read something else")
	}
}

// readsOverlapWritesInOrder: a read submitted after a write's Done sees it,
// also when both touch a block that is being rewritten all the time.
func readsOverlapWritesInOrder(t *testing.T, d disk.Disk, _ func() error) {
	for i := range 200 {
		p := pattern(1, uint64(i))
		must(t, write(d, p, 5*blk))
		must(t, expect(d, p, 5*blk))
	}
}

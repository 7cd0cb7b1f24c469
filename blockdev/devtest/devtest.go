// Package devtest is the conformance suite that every blockdev.Device must
// pass. A device's own test calls Run; what is optional (Mapper, Provisioner,
// Resizer, a read-only switch) is tested where the device has it.
//
// The suite waits for requests but never for time. Every random run is made
// from a fixed seed that its failure names.
package devtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
)

// Make gives a new device that reads as zeroes, of at least 2 MiB, and the
// arena that its buffers come from, or nil for memory of the Go heap. It
// registers their Close with t.Cleanup.
type Make func(t *testing.T) (blockdev.Device, *arena.Arena)

// Resizer is implemented by devices that can change their size, in bytes.
type Resizer interface {
	// Resize changes the size, a multiple of the block size. It returns when
	// Geometry tells the new one.
	Resize(sizeBytes int64) error
}

// Tests are the parts of the suite that every device must pass, by name.
var Tests = map[string]func(*testing.T, Make){
	"Geometry":                    testGeometry,
	"ReadAfterWrite":              testReadAfterWrite,
	"HolesReadAsZeroes":           testHoles,
	"UnmapAndWriteZeroes":         testZeroing,
	"CompareAndWrite":             testCompareAndWrite,
	"MiscompareOffset":            testMiscompareOffset,
	"CompareAndWriteLosesNothing": testLostUpdate,
	"OverlappingWritersNeverTear": testTearing,
	"OddSegments":                 testOddSegments,
	"ArenaBuffers":                testArenaBuffers,
	"Refusals":                    testRefusals,
	"ZeroLength":                  testZeroLength,
	"FlushAndFUA":                 testFlushAndFUA,
	"DoneExactlyOnce":             testDoneExactlyOnce,
	"SubmitFromDone":              testSubmitFromDone,
	"BatchIsNotKept":              testBatchIsNotKept,
	"RandomOpsMatchAModel":        testRandomOps,
	"ConcurrentNeighbours":        testConcurrentNeighbours,
}

// optional are tests of what only some devices have. They report whether the
// device has it.
var optional = map[string]struct {
	has func(blockdev.Device) bool
	run func(*testing.T, Make)
}{
	"Resize":             {func(d blockdev.Device) bool { _, ok := d.(Resizer); return ok }, testResize},
	"ReadOnly":           {func(d blockdev.Device) bool { return readOnlySwitch(d) != nil }, testReadOnly},
	"Mapper":             {func(d blockdev.Device) bool { _, ok := d.(blockdev.Mapper); return ok }, testMapper},
	"Poison":             {poisons, testPoison},
	"RandomPoison":       {poisons, testRandomPoison},
	"Borrow":             {lends, testBorrow},
	"RandomBorrow":       {lends, testRandomBorrow},
	"BorrowedNeverTears": {lends, testBorrowedTearing},
	"BorrowRefusals":     {lends, testBorrowRefusals},
	"Provisioner":        {func(d blockdev.Device) bool { _, ok := d.(blockdev.Provisioner); return ok }, testProvisioner},
}

// Run runs the suite as subtests of t.
func Run(t *testing.T, mk Make) {
	for _, name := range sortedKeys(Tests) {
		t.Run(name, func(t *testing.T) { Tests[name](t, mk) })
	}
	probe, _ := mk(t)
	for _, name := range sortedKeys(optional) {
		if optional[name].has(probe) {
			t.Run(name, func(t *testing.T) { optional[name].run(t, mk) })
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func poisons(d blockdev.Device) bool { return d.Geometry().Poisons }

func lends(d blockdev.Device) bool { return d.Geometry().Lends }

// readOnlySwitch is the device's SetReadOnly in either of its forms, or nil.
func readOnlySwitch(d blockdev.Device) func(bool) error {
	switch d := d.(type) {
	case interface{ SetReadOnly(bool) error }:
		return d.SetReadOnly
	case interface{ SetReadOnly(bool) }:
		return func(ro bool) error { d.SetReadOnly(ro); return nil }
	}
	return nil
}

// windowMax is how much of a device the tests use.
const windowMax = 4 << 20

// env is one device under test.
type env struct {
	*testing.T
	d     blockdev.Device
	arena *arena.Arena
	bs    int64 // block size
	size  int64 // of the window that tests use
}

func newEnv(t *testing.T, mk Make) *env {
	t.Helper()
	d, a := mk(t)
	g := d.Geometry()
	if g.SizeBytes < 2<<20 {
		t.Fatalf("the suite needs a device of 2 MiB, this one has %d bytes", g.SizeBytes)
	}
	return &env{T: t, d: d, arena: a, bs: int64(g.BlockSize), size: min(g.SizeBytes, windowMax)}
}

// pattern is n bytes by chance.
func pattern(rng *rand.Rand, n int64) []byte {
	p := make([]byte, n, n+8)
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:i+8], rng.Uint64())
	}
	return p
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x626c6f636b64)) }

// op submits one request and waits.
func (e *env) op(op blockdev.Op, off, n int64, data ...[]byte) error {
	return blockdev.Do(e.d, &blockdev.Request{Op: op, Offset: off, Length: n, Data: data})
}

// must is op that has to succeed.
func (e *env) must(op blockdev.Op, off, n int64, data ...[]byte) {
	e.Helper()
	if err := e.op(op, off, n, data...); err != nil {
		e.Fatalf("%s of %d bytes at %d: %v", op, n, off, err)
	}
}

func (e *env) write(off int64, p []byte) {
	e.Helper()
	e.must(blockdev.OpWrite, off, int64(len(p)), p)
}

func (e *env) read(off, n int64) []byte {
	e.Helper()
	// Junk, so that a read which fills nothing shows.
	p := bytes.Repeat([]byte{0xA5}, int(n))
	e.must(blockdev.OpRead, off, n, p)
	return p
}

// same fails unless the device holds want at off.
func (e *env) same(what string, off int64, want []byte) {
	e.Helper()
	got := e.read(off, int64(len(want)))
	if i := firstDifference(got, want); i >= 0 {
		e.Fatalf("%s: byte %d of the device is %#x, want %#x (read of %d bytes at %d)",
			what, off+int64(i), got[i], want[i], len(want), off)
	}
}

// firstDifference is the index of the first differing byte, or -1.
func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// wantKind fails unless err is an *Error of the kind about the operation.
func (e *env) wantKind(what string, err, kind error, op blockdev.Op) *blockdev.Error {
	e.Helper()
	if !errors.Is(err, kind) {
		e.Fatalf("%s: %v, want %v", what, err, kind)
	}
	var be *blockdev.Error
	if !errors.As(err, &be) {
		e.Fatalf("%s: %v is no *blockdev.Error", what, err)
	}
	if be.Op != op {
		e.Errorf("%s: the error is about %v, want %v", what, be.Op, op)
	}
	return be
}

// flight is a set of requests in progress.
type flight struct {
	wg    sync.WaitGroup
	twice atomic.Int32
}

// launch submits the batch; each Done is counted.
func (f *flight) launch(d blockdev.Device, batch ...*blockdev.Request) {
	f.wg.Add(len(batch))
	for _, r := range batch {
		var done atomic.Bool
		r.Done = func(*blockdev.Request) {
			if done.Swap(true) {
				f.twice.Add(1)
				return
			}
			f.wg.Done()
		}
	}
	d.Submit(batch)
}

// wait returns when all are done.
func (f *flight) wait(t *testing.T) {
	t.Helper()
	f.wg.Wait()
	if n := f.twice.Load(); n > 0 {
		t.Errorf("Done was called again %d times", n)
	}
}

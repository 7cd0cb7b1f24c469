package store

import (
	"bytes"
	"sync/atomic"
	"testing"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
)

// reading counts what is read of a disk, and keeps the largest read.
type reading struct {
	disk.Disk
	bytes, largest atomic.Int64
}

func (r *reading) Submit(batch []*disk.IO) {
	for _, io := range batch {
		if io.Op != disk.Read {
			continue
		}
		n := int64(0)
		for _, b := range io.Bufs {
			n += int64(len(b))
		}
		r.bytes.Add(n)
		r.largest.Store(max(r.largest.Load(), n))
	}
	r.Disk.Submit(batch)
}

// After a crash the log is read as a whole, once, in steps: also where a batch is larger than one.
func TestOpenReadsTheLogInSteps(t *testing.T) {
	const blocks = 1000
	d := sim.New(128<<20, sim.Options{NoTrace: true})
	f := testFormat()
	f.LogBytes = 16 << 20
	if err := Format(d, f); err != nil {
		t.Fatal(err)
	}
	opts := Options{DirtyBytes: 4 * blocks * BlockBytes}
	s, err := Open(d, opts)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.OpenVolume(VolumeID{9})
	if err != nil {
		t.Fatal(err)
	}
	var ops []*Op
	done := make(chan struct{}, blocks)
	for i := range blocks { // those that come while a batch is written make the next one
		ops = append(ops, &Op{Kind: OpWrite, Vol: v, Off: int64(2*i) * BlockBytes, Len: BlockBytes,
			Data: [][]byte{fill(BlockBytes, uint64(i))}, Done: func(*Op) { done <- struct{}{} }})
	}
	s.Submit(ops)
	for range ops {
		<-done
	}
	for _, op := range ops {
		if op.Err != nil {
			t.Fatal(op.Err)
		}
	}
	r := &reading{Disk: d}
	if s, err = Open(r, opts); err != nil { // the first one is left as it is
		t.Fatal(err)
	}
	if n := s.Stats().ReplayedBatches; n == 0 || n > blocks/(2*readStep/BlockBytes) {
		t.Fatalf("%d batches hold %d writes: none is larger than %d bytes", n, blocks, readStep)
	}
	if got := r.largest.Load(); got > readStep {
		t.Errorf("%d bytes were read at once, want at most %d", got, readStep)
	}
	if got := r.bytes.Load(); got < f.LogBytes || got > f.LogBytes+1<<20 {
		t.Errorf("%d bytes were read, where the log is %d", got, f.LogBytes)
	}
	if v, err = s.OpenVolume(VolumeID{9}); err != nil {
		t.Fatal(err)
	}
	for i := range blocks {
		got := make([]byte, BlockBytes)
		if err := do(s, &Op{Kind: OpRead, Vol: v, Off: int64(2*i) * BlockBytes, Len: BlockBytes, Data: [][]byte{got}}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, fill(BlockBytes, uint64(i))) {
			t.Fatalf("block %d is not what was written before the crash", 2*i)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

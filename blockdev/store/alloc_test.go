//go:build !race

package store

// Allocations are not counted under the race detector, where sync.Pool throws
// away at random.

import (
	"testing"

	"blockd.dev/blockdev/disk"
)

// flat is a disk that is one slice: it completes inline, without nesting, and
// allocates nothing.
type flat struct {
	p     []byte
	queue []*disk.IO
	busy  bool
}

func (f *flat) SizeBytes() int64 { return int64(len(f.p)) }
func (f *flat) Info() disk.Info  { return disk.Info{Path: "flat", Driver: "sim"} }
func (f *flat) Close() error     { return nil }
func (f *flat) Submit(batch []*disk.IO) {
	f.queue = append(f.queue, batch...)
	if f.busy {
		return
	}
	f.busy = true
	for i := 0; i < len(f.queue); i++ {
		io := f.queue[i]
		at := io.Off
		for _, b := range io.Bufs {
			if io.Op == disk.Write {
				copy(f.p[at:], b)
			} else {
				copy(b, f.p[at:])
			}
			at += int64(len(b))
		}
		io.Err = nil
		io.Done(io)
	}
	f.queue, f.busy = f.queue[:0], false
}

// TestSteadyPathDoesNotAllocate covers reads and writes of 4 KiB and of whole
// regions, with the batches and checkpoints that they bring about.
func TestSteadyPathDoesNotAllocate(t *testing.T) {
	d := &flat{p: make([]byte, 64<<20)}
	if err := Format(d, FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.OpenVolume(VolumeID{7})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		kind OpKind
		size int
	}{{"small write", OpWrite, 4096}, {"large write", OpWrite, 128 << 10}, {"read", OpRead, 4096}} {
		op := &Op{Kind: c.kind, Vol: v, Len: c.size, Data: [][]byte{fill(c.size, 1)}, Done: func(*Op) {}}
		batch := []*Op{op}
		i := int64(0)
		run := func() {
			op.Off = i * 131072 % (8 << 20)
			i++
			s.Submit(batch)
			if op.Err != nil {
				t.Fatal(op.Err, op.Cause)
			}
		}
		before := s.Stats().Checkpoints
		for range 3000 {
			run()
		}
		// The average is rounded down: what a checkpoint allocates now and then
		// (a list that grows) may not add up to one per op.
		if n := testing.AllocsPerRun(3000, run); n != 0 {
			t.Errorf("%s: %v allocations per op", c.name, n)
		}
		if c.kind == OpWrite && s.Stats().Checkpoints == before {
			t.Errorf("%s: no checkpoint in 6000 writes", c.name)
		}
	}
}

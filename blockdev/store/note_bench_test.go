package store

import (
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"blockd.dev/blockdev/disk"
)

// noteBench is a volume on a file, 64 MiB of it filled, and what writes to it as a
// replica does: each write with its place in the order, and the watermark that its
// owner knew.
type noteBench struct {
	s     *Store
	v     *Vol
	seq   atomic.Uint64
	noted bool
}

const noteBenchBytes = 64 << 20

func newNoteBench(t testing.TB, noted bool) *noteBench {
	path := filepath.Join(t.TempDir(), "disk")
	if _, err := disk.Create(path, 4*noteBenchBytes); err != nil {
		t.Fatal(err)
	}
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if err := Format(d, FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	b := &noteBench{noted: noted}
	if b.s, err = Open(d, Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.s.Close() })
	if b.v, err = b.s.OpenVolume(VolumeID{7}); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < noteBenchBytes; off += SpanBytes {
		if err := write(b.s, b.v, off, fill(SpanBytes, uint64(off))); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *noteBench) op() *Op {
	return &Op{Kind: OpWrite, Vol: b.v, Len: BlockBytes, Data: [][]byte{disk.NewAligned(BlockBytes)}}
}

// next makes op the next write, at block. The watermark is 64 writes behind.
func (b *noteBench) next(op *Op, note *Note, block int64) {
	seq := b.seq.Add(1)
	op.Off, op.Ver = block*BlockBytes, Version{1, seq}
	if b.noted {
		*note = Note{Tail: true, Stable: max(seq, 64) - 64}
		op.Note = note
	}
}

func (b *noteBench) load(t testing.TB, depth, n int) {
	var left atomic.Int64
	left.Store(int64(n))
	done := make(chan error, depth)
	for i := range depth {
		rng := rand.New(rand.NewPCG(uint64(i), 2))
		op, note := b.op(), &Note{}
		batch := []*Op{op}
		op.Done = func(op *Op) {
			if op.Err != nil || left.Add(-1) < 0 {
				done <- op.Err
				return
			}
			b.next(op, note, rng.Int64N(noteBenchBytes/BlockBytes))
			b.s.Submit(batch)
		}
		op.Done(op)
	}
	for range depth {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkWrite4k compares writes with and without a Note.
func BenchmarkWrite4k(b *testing.B) {
	for _, noted := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "note"}[noted]
		nb := newNoteBench(b, noted)
		for _, depth := range []int{1, 32} {
			b.Run(name+map[int]string{1: "/QD1", 32: "/QD32"}[depth], func(b *testing.B) {
				b.SetBytes(BlockBytes)
				b.ReportAllocs()
				before := nb.s.Stats()
				nb.load(b, depth, b.N)
				b.StopTimer()
				st := nb.s.Stats()
				b.ReportMetric(float64(st.LogWriteBytes-before.LogWriteBytes)/float64(b.N), "log-B/op")
				b.ReportMetric(float64(b.N)/float64(st.Batches-before.Batches), "writes/batch")
			})
		}
	}
}

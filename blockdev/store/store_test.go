package store

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
)

func testFormat() FormatOptions {
	return FormatOptions{UUID: [16]byte{1, 2, 3}, LogBytes: minLogBytes, MaxExtents: 14, MaxPages: 16}
}

func testOptions() Options {
	return Options{DirtyBytes: 64 * BlockBytes, PagesMax: 4, BatchBlocks: 32, InFlight: 3}
}

func openTest(t testing.TB, d disk.Disk) *Store {
	t.Helper()
	s, err := Open(d, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func do(s *Store, op *Op) error {
	ch := make(chan struct{})
	op.Done = func(*Op) { close(ch) }
	s.Submit([]*Op{op})
	<-ch
	return op.Err
}

// TestSurvivesReopen writes at random through every path, closes or just leaves
// the store, opens it again, and compares all of it with a plain array.
func TestSurvivesReopen(t *testing.T) {
	const volBytes = 3 * SpanBytes
	for seed := range uint64(reopenSeeds) {
		rng := rand.New(rand.NewPCG(seed, 1))
		d := sim.New(16<<20, sim.Options{NoTrace: true})
		if err := Format(d, testFormat()); err != nil {
			t.Fatal(err)
		}
		s := openTest(t, d)
		id := VolumeID{9}
		model := make([]byte, volBytes)
		for round := range 6 {
			v, err := s.OpenVolume(id)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 60 {
				span := rng.IntN(3)
				n := 1 + rng.IntN(8)
				if rng.IntN(4) == 0 {
					n = 16 + rng.IntN(60)
				}
				b := rng.IntN(blocksPerPage - n)
				off := span*SpanBytes + b*BlockBytes
				op := &Op{Vol: v, Off: int64(off), Len: n * BlockBytes, Ver: Version{1, uint64(i)}}
				part := model[off : off+op.Len]
				switch k := rng.IntN(10); {
				case k < 6:
					op.Kind = OpWrite
					for i := range part {
						part[i] = byte(rng.Uint32())
					}
					op.Data = [][]byte{part}
				case k < 8:
					op.Kind = OpClear
					clear(part)
				case k < 9:
					op.Kind = OpZero
					clear(part)
				default:
					op.Kind = OpRead
					op.Data = [][]byte{make([]byte, op.Len)}
				}
				if err := do(s, op); err != nil {
					t.Fatalf("seed %d round %d op %d: %v %v", seed, round, i, err, op.Cause)
				}
				if op.Kind == OpRead && !bytes.Equal(op.Data[0], part) {
					t.Fatalf("seed %d round %d op %d: read differs", seed, round, i)
				}
			}
			s.CloseVolume(v)
			if round%2 == 0 {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			s = openTest(t, d)
			v, _ = s.OpenVolume(id)
			for off := 0; off < volBytes; off += SpanBytes {
				got := make([]byte, SpanBytes)
				if err := do(s, &Op{Kind: OpRead, Vol: v, Off: int64(off), Len: SpanBytes, Data: [][]byte{got}}); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, model[off:off+SpanBytes]) {
					t.Fatalf("seed %d round %d: span at %d differs after reopen", seed, round, off)
				}
			}
			s.CloseVolume(v)
		}
	}
}

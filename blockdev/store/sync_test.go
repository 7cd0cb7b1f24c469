package store

import (
	"testing"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
)

// holding keeps writes of data until the test lets them go, and counts syncs.
type holding struct {
	disk.Disk
	held  []*disk.IO
	syncs int
	over  bool // nothing is held any more
}

func (h *holding) Submit(batch []*disk.IO) {
	for _, io := range batch {
		switch {
		case io.Op == disk.Write && !io.Dsync && !h.over:
			h.held = append(h.held, io)
			continue
		case io.Op == disk.Sync:
			h.syncs++
		}
		h.Disk.Submit([]*disk.IO{io})
	}
}

// let lets the first n writes go.
func (h *holding) let(n int) {
	for _, io := range h.held[:n] {
		h.Disk.Submit([]*disk.IO{io})
	}
	h.held = h.held[n:]
}

// Copies whose data is being written share a sync, up to a limit. A host's write waits for no copy.
func TestCopiesShareASync(t *testing.T) {
	const host, copied, large = ChunkBytes, -ChunkBytes, -SpanBytes
	for _, c := range []struct {
		name  string
		ops   []int // bytes; of copies, negative
		let   []int // how many writes end, one after the other
		syncs []int // so far, after each
	}{
		{"copies", []int{copied, copied, copied, copied}, []int{1, 2, 1}, []int{0, 0, 1}},
		{"hosts", []int{host, host, host}, []int{1, 1, 1}, []int{1, 2, 3}},
		{"a host behind a copy", []int{copied, host, copied}, []int{1, 1, 1}, []int{0, 1, 2}},
		{"much", []int{large, large, large}, []int{1, 1, 1}, []int{0, 1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &holding{Disk: sim.New(64<<20, sim.Options{NoTrace: true})}
			if err := Format(h.Disk, testFormat()); err != nil {
				t.Fatal(err)
			}
			s, err := Open(h, Options{})
			if err != nil {
				t.Fatal(err)
			}
			v, err := s.OpenVolume(VolumeID{7})
			if err != nil {
				t.Fatal(err)
			}
			h.syncs = 0
			done, data := 0, fill(SpanBytes, 1)
			for i, n := range c.ops {
				op := &Op{Kind: OpWrite, Vol: v, Off: int64(i) * SpanBytes, Len: max(n, -n), Ver: Version{1, uint64(i + 1)}}
				if op.Data = [][]byte{data[:op.Len]}; n < 0 {
					op.Note = &Note{Exact: true}
				}
				op.Done = func(op *Op) {
					if done++; op.Err != nil {
						t.Error(op.Err)
					}
				}
				s.Submit([]*Op{op})
			}
			for i, n := range c.let {
				if h.let(n); h.syncs != c.syncs[i] {
					t.Errorf("%d syncs when %d of the writes have ended, want %d", h.syncs, i+1, c.syncs[i])
				}
			}
			if len(h.held) != 0 || done != len(c.ops) {
				t.Errorf("%d writes are held, %d of %d ops done", len(h.held), done, len(c.ops))
			}
			h.over = true
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

package store

import (
	"bytes"
	"runtime"
	"testing"

	"blockd.dev/blockdev/disk/sim"
)

// A volume that is deleted while a checkpoint goes on is there in what that commits, as it was when it began: what
// follows in the log, up to its end, is done once more after a crash.
func TestVolumeIsDeletedDuringACheckpoint(t *testing.T) {
	const bufs = 256
	d := sim.New(32<<20, sim.Options{})
	f := testFormat()
	f.LogBytes = 4 << 20 // the buffers are what the checkpoint is done for
	if err := Format(d, f); err != nil {
		t.Fatal(err)
	}
	opts := Options{DirtyBytes: bufs * BlockBytes, PagesMax: 64, InFlight: 3}
	s, err := Open(d, opts)
	if err != nil {
		t.Fatal(err)
	}
	id := VolumeID{9}
	v, err := s.OpenVolume(id)
	if err != nil {
		t.Fatal(err)
	}
	for i := int64(0); !checkpointing(s); i++ {
		if err := write(s, v, 2*i*BlockBytes, fill(BlockBytes, uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	from := d.Events()
	s.CloseVolume(v)
	if err := s.DeleteVolume(id); err != nil {
		t.Fatal(err)
	}
	if !checkpointing(s) {
		t.Fatal("the checkpoint was over before the volume was: this tells nothing")
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	for n := from; n <= d.Events(); n++ {
		for policy := range sim.Policy(sim.Policies) {
			img := d.Cut(n, policy, 1)
			again, err := Open(img, opts)
			if err != nil {
				t.Fatalf("cut after %d of %d to %d events, %v: %v", n, from, d.Events(), policy, err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if r, err := Check(img, &out); err != nil || r.Problems > 0 {
				t.Fatalf("cut after %d events, %v: %v %s", n, policy, err, &out)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A store that is closed while a checkpoint goes on, or a read, is clean all the same: the next start has no
// log to read.
func TestCloseLeavesTheCleanMark(t *testing.T) {
	for _, when := range []string{"a checkpoint goes on", "a read goes on", "nothing was written"} {
		d := sim.New(32<<20, sim.Options{NoTrace: true})
		f := testFormat()
		f.LogBytes = 4 << 20
		if err := Format(d, f); err != nil {
			t.Fatal(err)
		}
		s, err := Open(d, Options{DirtyBytes: 256 * BlockBytes, PagesMax: 64, InFlight: 3})
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.OpenVolume(VolumeID{9})
		if err != nil {
			t.Fatal(err)
		}
		switch when {
		case "a checkpoint goes on":
			if err := write(s, v, 0, fill(BlockBytes, 1)); err != nil {
				t.Fatal(err)
			}
			d.SetMode(sim.Manual, false, 1)
			turn := s.newTurn()
			s.mu.Lock()
			s.startCheckpoint(turn)
			s.mu.Unlock()
			s.run(turn)
		case "a read goes on":
			if err := write(s, v, 0, fill(BlockBytes, 1)); err != nil {
				t.Fatal(err)
			}
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			d.SetMode(sim.Manual, false, 1)
			s.Submit([]*Op{{Kind: OpRead, Vol: v, Len: BlockBytes, Data: [][]byte{make([]byte, BlockBytes)}, Done: func(*Op) {}}})
		}
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		for !s.closing.Load() {
			runtime.Gosched()
		}
		for open := true; open; {
			select {
			case err := <-closed:
				if err != nil {
					t.Fatal(err)
				}
				open = false
			default:
				d.Drain()
				runtime.Gosched()
			}
		}
		d.SetMode(sim.Inline, false, 1)
		if sb, err := readSuper(d); err != nil || !sb.clean {
			t.Errorf("%s: clean %v, %v", when, sb.clean, err)
		}
	}
}

// An extent without a place in the directory goes with its last page: had a refused write left one, the write that
// makes room by it would be in an extent that nobody finds.
func TestRoomIsMadeOfTheExtentItself(t *testing.T) {
	d := sim.New(16<<20, sim.Options{NoTrace: true})
	f := testFormat()
	if err := Format(d, f); err != nil {
		t.Fatal(err)
	}
	s := openTest(t, d)
	a, err := s.OpenVolume(VolumeID{1})
	if err != nil {
		t.Fatal(err)
	}
	free := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return int(s.mu.alloc.available())
	}
	for off := int64(0); free() > 0; off += ChunkBytes {
		if err := write(s, a, off, fill(ChunkBytes, uint64(off))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, d)
	a, _ = s.OpenVolume(VolumeID{1})
	b, err := s.OpenVolume(VolumeID{2})
	if err != nil {
		t.Fatal(err)
	}
	if err := write(s, b, 0, fill(BlockBytes, 1)); err == nil {
		t.Fatal("a full disk has taken a write")
	}
	for span := range int64(3) {
		if err := s.wait(&Op{Kind: OpRead, Vol: a, Off: span * SpanBytes, Len: BlockBytes, Data: [][]byte{make([]byte, BlockBytes)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.wait(&Op{Kind: OpClear, Vol: a, Len: 2 * ChunkBytes}); err != nil {
		t.Fatal(err)
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	want := fill(BlockBytes, 7)
	if err := write(s, b, SpanBytes, want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, BlockBytes)
	if err := s.wait(&Op{Kind: OpRead, Vol: b, Off: SpanBytes, Len: BlockBytes, Data: [][]byte{got}}); err != nil || !bytes.Equal(got, want) {
		t.Errorf("an acknowledged write is not there: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if r, err := Check(d, &out); err != nil || r.Problems > 0 {
		t.Errorf("%v %s", err, &out)
	}
}

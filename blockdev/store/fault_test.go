package store

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
)

// newTest formats and opens a small store with one open volume on a simulated
// disk that completes at once.
func newTest(t testing.TB, diskBytes int64, o Options) (*sim.Sim, *Store, *Vol) {
	t.Helper()
	d := sim.New(diskBytes, sim.Options{NoTrace: true})
	if err := Format(d, testFormat()); err != nil {
		t.Fatal(err)
	}
	s, err := Open(d, o)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.OpenVolume(VolumeID{7})
	if err != nil {
		t.Fatal(err)
	}
	return d, s, v
}

func fill(n int, seed uint64) []byte {
	p := disk.NewAligned(n)
	rng := rand.New(rand.NewPCG(seed, 3))
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

func write(s *Store, v *Vol, off int64, p []byte) error {
	return s.wait(&Op{Kind: OpWrite, Vol: v, Off: off, Len: len(p), Data: [][]byte{p}, Ver: Version{1, s.NextSeq()}})
}

func read(s *Store, v *Vol, off int64, p []byte) (*Op, error) {
	op := &Op{Kind: OpRead, Vol: v, Off: off, Len: len(p), Data: [][]byte{p}}
	return op, s.wait(op)
}

// failing wraps a disk and fails the IOs that pick chooses.
type failing struct {
	disk.Disk
	pick func(*disk.IO) error
}

func (f *failing) Submit(batch []*disk.IO) {
	for _, io := range batch {
		if err := f.pick(io); err != nil {
			io.Err = err
			io.Done(io)
			continue
		}
		f.Disk.Submit([]*disk.IO{io})
	}
}

// TestBitFlipsAreNeverReturned flips every bit position class of home data and
// expects a medium error with the block's offset, from reads, scrub and check.
func TestBitFlipsAreNeverReturned(t *testing.T) {
	d, s, v := newTest(t, 16<<20, testOptions())
	data := fill(256<<10, 1)
	if err := write(s, v, 0, data); err != nil {
		t.Fatal(err)
	}
	small := fill(8192, 2)
	if err := write(s, v, 12<<12, small); err != nil {
		t.Fatal(err)
	}
	copy(data[12<<12:], small)
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	for _, b := range []int{0, 12, 13, 40, 63} {
		p := v.exts[0].pages[0]
		at := s.blockAddr(p.img.chunk(b/blocksPerChunk), b)
		d.Corrupt(at+int64(b*37%4096), uint(b%8))
		got := make([]byte, len(data))
		op, err := read(s, v, 0, got)
		if !errors.Is(err, blockdev.ErrMedium) || op.ErrOff != int64(b)*BlockBytes {
			t.Errorf("block %d: read says %v at %d", b, err, op.ErrOff)
		}
		var bad []ScrubError
		if err := s.Scrub(context.Background(), 0, func(e ScrubError) { bad = append(bad, e) }); err != nil {
			t.Fatal(err)
		}
		if len(bad) != 1 || bad[0].Offset != int64(b)*BlockBytes || bad[0].Volume != v.id {
			t.Errorf("block %d: scrub found %v", b, bad)
		}
		var out bytes.Buffer
		if r, err := Check(d, &out); err != nil || r.Problems != 1 || !strings.Contains(out.String(), "checksum") {
			t.Errorf("block %d: check found %d problems, %v: %s", b, r.Problems, err, out.String())
		}
		d.Corrupt(at+int64(b*37%4096), uint(b%8)) // back again
	}
	got := make([]byte, len(data))
	if _, err := read(s, v, 0, got); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after the flips were undone: %v", err)
	}
}

// TestFailedLogWriteIsFinal: after an error in the log nothing is accepted any
// more, what was acknowledged can be read, and a new open finds it.
func TestFailedLogWriteIsFinal(t *testing.T) {
	for _, what := range []string{"log", "sync", "home", "superblock"} {
		t.Run(what, func(t *testing.T) {
			mem := sim.New(16<<20, sim.Options{NoTrace: true})
			if err := Format(mem, testFormat()); err != nil {
				t.Fatal(err)
			}
			broken := false
			var s *Store
			var err error
			d := &failing{Disk: mem}
			d.pick = func(io *disk.IO) error {
				if !broken || s == nil {
					return nil
				}
				hit := false
				switch what {
				case "log":
					hit = io.Op == disk.Write && io.Off >= s.sb.logOff && io.Off < s.sb.dataOff
				case "sync":
					hit = io.Op == disk.Sync
				case "home":
					hit = io.Op == disk.Write && io.Off >= s.sb.dataOff
				case "superblock":
					hit = io.Op == disk.Write && io.Off == 0
				}
				if hit {
					return syscall.EIO
				}
				return nil
			}
			var events []Event
			s, err = Open(d, testOptions())
			if err != nil {
				t.Fatal(err)
			}
			s.Watch(func(e Event) { events = append(events, e) })
			v, _ := s.OpenVolume(VolumeID{1})
			good := fill(16384, 4)
			if err := write(s, v, 0, good); err != nil {
				t.Fatal(err)
			}
			broken = true
			err = write(s, v, 1<<20, fill(4096, 5))
			if what == "log" {
				if !errors.Is(err, blockdev.ErrIO) {
					t.Fatalf("write to a broken log: %v", err)
				}
			} else if err := s.Checkpoint(); !errors.Is(err, syscall.EIO) {
				t.Fatalf("checkpoint: %v", err)
			}
			if err := write(s, v, 0, good); !errors.Is(err, blockdev.ErrReadOnly) || !errors.Is(err, ErrFailed) {
				t.Errorf("write to a failed store: %v", err)
			}
			if len(events) != 1 || events[0].State != StateFailed {
				t.Errorf("events: %v", events)
			}
			got := make([]byte, len(good))
			if _, err := read(s, v, 0, got); err != nil || !bytes.Equal(got, good) {
				t.Errorf("read from a failed store: %v", err)
			}
			if err := s.Close(); !errors.Is(err, syscall.EIO) {
				t.Errorf("close tells %v", err)
			}
			broken = false
			s, err = Open(d, testOptions())
			if err != nil {
				t.Fatal(err)
			}
			v, _ = s.OpenVolume(VolumeID{1})
			if _, err := read(s, v, 0, got); err != nil || !bytes.Equal(got, good) {
				t.Errorf("after a new open: %v", err)
			}
		})
	}
}

// TestFailedDataWriteHurtsOnlyItself: a new chunk that refuses a write fails that
// write; the old data stays, and everything else goes on.
func TestFailedDataWriteHurtsOnlyItself(t *testing.T) {
	mem := sim.New(16<<20, sim.Options{NoTrace: true})
	if err := Format(mem, testFormat()); err != nil {
		t.Fatal(err)
	}
	d := &failing{Disk: mem, pick: func(*disk.IO) error { return nil }}
	s := openTest(t, d)
	v, _ := s.OpenVolume(VolumeID{1})
	old := fill(128<<10, 1)
	if err := write(s, v, 0, old); err != nil {
		t.Fatal(err)
	}
	d.pick = func(io *disk.IO) error {
		if io.Op == disk.Write && io.Off >= s.sb.dataOff {
			return syscall.EIO
		}
		return nil
	}
	if err := write(s, v, 0, fill(128<<10, 2)); !errors.Is(err, blockdev.ErrIO) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("write to bad chunks: %v", err)
	}
	d.pick = func(*disk.IO) error { return nil }
	got := make([]byte, len(old))
	if _, err := read(s, v, 0, got); err != nil || !bytes.Equal(got, old) {
		t.Errorf("the old data: %v", err)
	}
	if err := write(s, v, 1<<20, old); err != nil {
		t.Errorf("another write: %v", err)
	}
	if st := s.Stats(); st.State != StateOnline || st.QuarantineBytes != 128<<10 {
		t.Errorf("state %v, %d bytes in quarantine", st.State, st.QuarantineBytes)
	}
}

// TestFullDisk: a write that finds no space changes nothing, overwriting goes on
// at any size, other volumes go on, and unmap gives room again.
func TestFullDisk(t *testing.T) {
	_, s, v := newTest(t, 8<<20, testOptions())
	other, _ := s.OpenVolume(VolumeID{8})
	if err := write(s, other, 0, fill(64<<10, 9)); err != nil {
		t.Fatal(err)
	}
	var end int64
	for ; ; end += 64 << 10 {
		if err := write(s, v, end, fill(64<<10, uint64(end))); errors.Is(err, blockdev.ErrNoSpace) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := write(s, v, end, fill(4096, 1)); !errors.Is(err, blockdev.ErrNoSpace) {
		t.Fatalf("small write on a full disk: %v", err)
	}
	got := make([]byte, 64<<10)
	if _, err := read(s, v, end, got); err != nil || !bytes.Equal(got, make([]byte, len(got))) {
		t.Errorf("where nothing was written: %v", err)
	}
	for _, n := range []int{4096, 64 << 10, 512 << 10, SpanBytes} {
		p := fill(n, 77)
		if err := write(s, v, 0, p); err != nil {
			t.Fatalf("overwrite of %d bytes on a full disk: %v", n, err)
		}
		got := make([]byte, n)
		if _, err := read(s, v, 0, got); err != nil || !bytes.Equal(got, p) {
			t.Errorf("overwrite of %d bytes on a full disk reads back: %v", n, err)
		}
	}
	if err := write(s, other, 0, fill(64<<10, 10)); err != nil {
		t.Errorf("another volume: %v", err)
	}
	if err := s.wait(&Op{Kind: OpClear, Vol: v, Off: 0, Len: 64 << 10}); err != nil {
		t.Fatal(err)
	}
	if err := write(s, v, end, fill(64<<10, 1)); err != nil {
		t.Errorf("after unmap: %v", err)
	}
}

// TestForeignAndNewerStoresAreRefused, in words.
func TestForeignAndNewerStoresAreRefused(t *testing.T) {
	blank := sim.New(16<<20, sim.Options{NoTrace: true})
	if _, err := Open(blank, testOptions()); !errors.Is(err, ErrNotAStore) {
		t.Errorf("blank disk: %v", err)
	}
	for name, change := range map[string]func(p []byte){
		"version": func(p []byte) { p[superOffVersion] = 2 },
		"feature": func(p []byte) { p[superOffFields+7] = 0x80 }, // the last one to be defined
	} {
		d := sim.New(16<<20, sim.Options{NoTrace: true})
		if err := Format(d, testFormat()); err != nil {
			t.Fatal(err)
		}
		p := disk.NewAligned(superBytes)
		d.ReadRaw(p, 0)
		change(p)
		crc := checksumHole(p, superOffCRC)
		p[superOffCRC], p[superOffCRC+1], p[superOffCRC+2], p[superOffCRC+3] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
		d.WriteRaw(p, 0)
		if _, err := Open(d, testOptions()); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Check(d, &bytes.Buffer{}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: check says %v", name, err)
		}
		if err := Format(d, testFormat()); err == nil || !strings.Contains(err.Error(), "force") {
			t.Errorf("%s: format over it: %v", name, err)
		}
	}
}

// TestDamagedLogIsRefused: a batch that was acknowledged and is damaged must not
// be taken for the end of the log.
func TestDamagedLogIsRefused(t *testing.T) {
	d, s, v := newTest(t, 16<<20, testOptions())
	for i := range 3 {
		if err := write(s, v, int64(i)*BlockBytes, fill(BlockBytes, uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	d.Corrupt(s.sb.logOff+2*BlockBytes+100, 3) // the header of the second batch
	if _, err := Open(d, testOptions()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("open says %v", err)
	}
	var out bytes.Buffer
	if r, err := Check(d, &out); err != nil || r.Problems == 0 || !strings.Contains(out.String(), "log batch") {
		t.Errorf("check says %d problems, %v: %s", r.Problems, err, out.String())
	}
}

// FuzzMutatedImage opens and checks images with arbitrary damage: no panic, no
// hang, and a store that opens serves what was written or an error.
func FuzzMutatedImage(f *testing.F) {
	base, s, v := newTest(f, 4<<20, testOptions())
	want := make([]byte, 1<<20)
	put := func(off int, p []byte) {
		copy(want[off:], p)
		if err := write(s, v, int64(off), p); err != nil {
			f.Fatal(err)
		}
	}
	put(0, fill(200<<10, 1))
	put(300<<10, fill(8<<10, 2))
	note := func(seq uint64) {
		op := &Op{Kind: OpClear, Vol: v, Off: SpanBytes / 2, Len: BlockBytes, Ver: Version{1, seq}, Note: &Note{Tail: true, Fence: 1, Void: []int64{3 * ChunkBytes}}}
		if err := s.wait(op); err != nil {
			f.Fatal(err)
		}
	}
	note(5)
	note(6)
	if err := s.Checkpoint(); err != nil {
		f.Fatal(err)
	}
	note(7)
	put(4<<10, fill(12<<10, 3))
	put(512<<10, fill(64<<10, 4))
	// The last batch can't be told from one that a power cut tore: whoever
	// damages it takes it back. What it wrote is not compared.
	const last = 900 << 10
	put(last, fill(4096, 5))
	image := base.Snapshot()
	logOff := s.sb.logOff
	f.Add(uint32(60), uint32(1), byte(1), true)
	f.Add(uint32(64<<10+100), uint32(0), byte(8), true)
	f.Add(uint32(logOff)+64, uint32(4096), byte(0xff), true)
	f.Add(uint32(s.sb.pageOff)+2300, uint32(0), byte(1), false)
	f.Add(uint32(s.slotOff(v.notes.ext.pages[0].slot, true))+88, uint32(0), byte(4), true)
	f.Add(uint32(s.slotOff(v.notes.ext.pages[0].slot, false))+88, uint32(0), byte(4), true)
	f.Add(uint32(s.sb.dataOff)+5, uint32(65536), byte(0x80), false)
	f.Fuzz(func(t *testing.T, a, b uint32, mask byte, fix bool) {
		d := image.Snapshot()
		blk := disk.NewAligned(BlockBytes)
		inLog := 0
		for _, off := range []int64{int64(a) % d.SizeBytes(), (int64(a) + int64(b)) % d.SizeBytes()} {
			if off >= logOff && off < logOff+minLogBytes {
				inLog++
			}
			at := off / BlockBytes * BlockBytes
			d.ReadRaw(blk, at)
			blk[off%BlockBytes] ^= mask
			if fix { // damage that its checksum does not show
				resum(blk, at, d)
			}
			d.WriteRaw(blk, at)
		}
		if _, err := Check(d, &bytes.Buffer{}); err != nil && !errors.Is(err, ErrNotAStore) && !errors.Is(err, ErrUnsupported) {
			t.Fatalf("check: %v", err)
		}
		s, err := Open(d, testOptions())
		if err != nil {
			return
		}
		v, err := s.OpenVolume(VolumeID{7})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		_, err = read(s, v, 0, got)
		copy(got[last:], want[last:last+4096])
		if err == nil && !fix && inLog < 2 && !bytes.Equal(got, want) {
			t.Fatal("a damaged store opened and returned wrong data")
		}
		if st, err := s.ReplicaState(v); err == nil && !fix && inLog < 2 && (st.Fenced != 1 || len(st.Tail) != 3) {
			t.Fatalf("a damaged store opened with state %+v", st)
		}
		_ = clearNoted(s, v, 8, Note{Tail: true, Void: []int64{SpanBytes}})
		_ = write(s, v, 64<<10, fill(64<<10, 9))
		_ = s.Close()
	})
}

// resum makes the checksum of a metadata block or batch header right again.
func resum(blk []byte, at int64, d *sim.Sim) {
	put := func(p []byte, off int) {
		crc := checksumHole(p, off)
		p[off], p[off+1], p[off+2], p[off+3] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
	}
	switch {
	case at < superBytes:
		p := disk.NewAligned(superBytes)
		d.ReadRaw(p, 0)
		copy(p[at:], blk)
		put(p, superOffCRC)
		copy(blk, p[at:])
		if at != 0 {
			d.WriteRaw(p[:BlockBytes], 0)
		}
	case leU32(blk) == metaMagic || leU32(blk) == batchMagic:
		put(blk, 4)
	}
}

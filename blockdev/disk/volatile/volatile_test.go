package volatile_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/disktest"
	"blockd.dev/blockdev/disk/faulty"
	"blockd.dev/blockdev/disk/sim"
	"blockd.dev/blockdev/disk/volatile"
)

const blk = disk.BlockBytes

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	disktest.Run(t, func(*testing.T) disk.Disk {
		return volatile.New(sim.New(disktest.SizeBytes, sim.Options{Mode: sim.Async, NoTrace: true}))
	})
}

// TestNoRoomIsSaidAtOnce: a write for which the disk has no room is refused, and does not
// make a later sync fail.
func TestNoRoomIsSaidAtOnce(t *testing.T) {
	rules := faulty.NewRules(1)
	d := volatile.New(faulty.New(sim.New(1<<20, sim.Options{NoTrace: true}), rules))
	defer d.Close()
	write := func(off int64) error {
		return disktest.Do(d, &disk.IO{Op: disk.Write, Off: off, Bufs: [][]byte{disk.NewAligned(blk)}})
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	rules.Add(faulty.Rule{Op: disk.Write, From: blk, Err: syscall.ENOSPC})
	if err := write(blk); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a block without room: %v", err)
	}
	if err := write(0); err != nil {
		t.Errorf("a block that has its room: %v", err)
	}
	if err := disktest.Do(d, &disk.IO{Op: disk.Sync}); err != nil {
		t.Errorf("sync: %v", err)
	}
}

// TestWhatEndsWithTheProcess: what was synced, or written with Dsync, is on the disk whenever the
// process ends; of anything else each sector is old or new, and most are old.
func TestWhatEndsWithTheProcess(t *testing.T) {
	const blocks = 200
	s := sim.New(1<<20, sim.Options{NoTrace: true})
	d := volatile.New(s)
	write := func(block int, seed uint64, dsync bool) []byte {
		b := disktest.Pattern(disk.NewAligned(blk), seed)
		if err := disktest.Do(d, &disk.IO{Op: disk.Write, Dsync: dsync, Off: int64(block) * blk, Bufs: [][]byte{b}}); err != nil {
			t.Fatal(err)
		}
		return b
	}
	old, fresh := make([][]byte, blocks), make([][]byte, blocks)
	for i := range blocks {
		old[i] = write(i, uint64(i), i%2 == 0) // every other one waits for the sync
	}
	if err := disktest.Do(d, &disk.IO{Op: disk.Sync}); err != nil {
		t.Fatal(err)
	}
	for i := range blocks {
		fresh[i] = write(i, uint64(i+1000), i%4 == 0)
	}
	// This read comes after all that is on its way to the disk by itself.
	if err := disktest.Do(d, &disk.IO{Op: disk.Discard, Off: blocks * blk, Len: blk}); err != nil {
		t.Fatal(err)
	}
	sectors, lost := 0, 0
	for i := range blocks {
		got, seen := disk.NewAligned(blk), disk.NewAligned(blk)
		s.ReadRaw(got, int64(i)*blk) // as after the end
		if err := disktest.Do(d, &disk.IO{Op: disk.Read, Off: int64(i) * blk, Bufs: [][]byte{seen}}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(seen, fresh[i]) {
			t.Fatalf("block %d: what was written is not read", i)
		}
		if i%4 == 0 && !bytes.Equal(got, fresh[i]) {
			t.Fatalf("block %d was written with Dsync and is not on the disk", i)
		}
		for at := 0; i%4 != 0 && at < blk; at += disk.SectorBytes {
			sector := got[at : at+disk.SectorBytes]
			sectors++
			switch {
			case bytes.Equal(sector, old[i][at:at+disk.SectorBytes]):
				lost++
			case !bytes.Equal(sector, fresh[i][at:at+disk.SectorBytes]):
				t.Fatalf("block %d, byte %d: neither old nor new", i, at)
			}
		}
	}
	if share := float64(lost) / float64(sectors); share < 0.7 || share > 0.98 {
		t.Errorf("%.2f of the sectors are old, want about 7 of 8", share)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

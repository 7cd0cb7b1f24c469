package store

import (
	"runtime"
	"sync/atomic"
	"testing"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
)

// counted does one IO after the other. It counts the writes that need not be durable at once,
// and how often any are submitted.
type counted struct {
	disk.Disk
	queue           chan *disk.IO
	writes, submits atomic.Int64
}

func newCounted(d disk.Disk) *counted {
	c := &counted{Disk: d, queue: make(chan *disk.IO, 1000)}
	go func() {
		for io := range c.queue {
			c.Disk.Submit([]*disk.IO{io})
		}
	}()
	return c
}

func (c *counted) Submit(batch []*disk.IO) {
	n := int64(0)
	for _, io := range batch {
		if io.Op == disk.Write && !io.Dsync {
			n++
		}
	}
	if n > 0 {
		c.writes.Add(n)
		c.submits.Add(1)
	}
	for _, io := range batch {
		c.queue <- io
	}
}

// What a checkpoint writes goes to the disk in groups, also when its writes end one by one.
func TestCheckpointWritesInGroups(t *testing.T) {
	const blocks, inFlight = 120, 16
	d := newCounted(sim.New(32<<20, sim.Options{NoTrace: true}))
	f := testFormat()
	f.LogBytes = 4 << 20 // room for all of it, so that one checkpoint writes it
	if err := Format(d, f); err != nil {
		t.Fatal(err)
	}
	s, err := Open(d, Options{DirtyBytes: 4 * blocks * BlockBytes, InFlight: inFlight})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.OpenVolume(VolumeID{9})
	if err != nil {
		t.Fatal(err)
	}
	d.writes.Store(0)
	d.submits.Store(0)
	for i := range blocks { // with gaps: each goes home by a write of its own
		if err := write(s, v, int64(2*i)*BlockBytes, fill(BlockBytes, uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	// The first and the last group of a checkpoint may be smaller ones.
	writes, submits := d.writes.Load(), d.submits.Load()
	most := writes/(inFlight/2) + 2*s.stats.checkpoints.Load()
	if writes < blocks || submits > most {
		t.Errorf("%d writes were submitted %d times, want at most %d: half of the %d that may be in flight at a time", writes, submits, most, inFlight)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	close(d.queue)
}

func checkpointing(s *Store) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.ck.running
}

// A checkpoint has written no larger part of what it has to than new writes have taken of
// half of the space that was left, and is done then.
func TestCheckpointGoesAsFastAsWritesCome(t *testing.T) {
	const bufs, inFlight = 1024, 16
	d := newCounted(sim.New(64<<20, sim.Options{NoTrace: true}))
	f := testFormat()
	f.LogBytes = 32 << 20 // the buffers are what it is done for
	if err := Format(d, f); err != nil {
		t.Fatal(err)
	}
	s, err := Open(d, Options{DirtyBytes: bufs * BlockBytes, InFlight: inFlight})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.OpenVolume(VolumeID{9})
	if err != nil {
		t.Fatal(err)
	}
	next := int64(0)
	put := func() {
		t.Helper()
		if err := write(s, v, 2*next*BlockBytes, fill(BlockBytes, uint64(next))); err != nil {
			t.Fatal(err)
		}
		next++
	}
	for !checkpointing(s) {
		put()
	}
	d.writes.Store(0)
	s.mu.Lock()
	all := int64(s.mu.ck.writes())
	free := s.mu.ck.bufs.n
	s.mu.Unlock()
	if all < bufs/2 || free < bufs/8 {
		t.Fatalf("a checkpoint of %d writes has to be done after %d more: this tells nothing", all, free)
	}
	for i := range free - 1 {
		put()
		if most := all*(i+1)/free + inFlight; d.writes.Load() > most {
			t.Fatalf("%d of %d writes after %d of %d buffers were taken, want at most %d", d.writes.Load(), all, i+1, free, most)
		}
	}
	if !checkpointing(s) {
		t.Fatal("the checkpoint is done before it has to be")
	}
	for put(); checkpointing(s); {
		runtime.Gosched() // its last writes end
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	close(d.queue)
}

package sim

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/faulty"
)

// Mode says when I/O completes.
type Mode uint8

// The modes.
const (
	// Inline completes I/O before Submit returns. A Submit made by a Done is
	// completed by the outermost Submit, so Done never nests.
	Inline Mode = iota
	// Manual completes one I/O per call of Step.
	Manual
	// Async completes I/O on a goroutine that lives while there is any.
	Async
)

// Options say how a Sim behaves. The zero value completes inline, in order.
type Options struct {
	Mode Mode
	// Shuffle completes I/Os that are in flight together in random order.
	Shuffle bool
	// Seed drives Shuffle, what discarded blocks hold, and Rules.
	Seed uint64
	// Latency is how long each I/O takes in mode Async.
	Latency time.Duration
	// NoTrace forgets history: memory stays bounded and Cut can't be used.
	NoTrace bool
	// Name is the path that Info and errors show; "sim" by default.
	Name string
}

// Stats counts what reached the disk since New or Cut.
type Stats struct {
	Reads, Writes, Syncs, Discards int64
	ReadBytes, WriteBytes          int64
}

// Sim is a simulated disk. It is safe for use by several goroutines.
type Sim struct {
	sizeBytes int64
	rules     *faulty.Rules

	mu        sync.Mutex
	idle      sync.Cond // flying became empty
	o         Options
	rng       *rand.Rand
	live      tree   // what reads see
	seq       uint64 // of the last event, over all generations of images
	flying    []flight
	finishing int // I/Os whose Done is running or about to
	running   bool
	closed    bool
	gone      bool
	syncLost  bool
	stats     Stats

	hist history
}

// flight is an I/O between Submit and Done.
type flight struct {
	io     *disk.IO
	rec    *record // nil for reads
	err    error
	flip   bool
	chance uint64
	due    time.Time
	guard  bool // compare the buffers with what was captured
}

var _ disk.Disk = (*Sim)(nil)

// New makes a disk of sizeBytes, a multiple of disk.BlockBytes, full of
// zeroes. It panics on any other size.
func New(sizeBytes int64, o Options) *Sim {
	if sizeBytes <= 0 || sizeBytes%disk.BlockBytes != 0 {
		panic(fmt.Sprintf("sim.New: size %d is not a positive multiple of %d", sizeBytes, disk.BlockBytes))
	}
	return newSim(sizeBytes, newTree(sizeBytes/disk.BlockBytes), 0, o)
}

func newSim(sizeBytes int64, content tree, seq uint64, o Options) *Sim {
	if o.Name == "" {
		o.Name = "sim"
	}
	s := &Sim{
		sizeBytes: sizeBytes,
		o:         o,
		rules:     faulty.NewRules(o.Seed),
		rng:       rand.New(rand.NewPCG(o.Seed, 0x73696d)),
		live:      content,
		seq:       seq,
	}
	s.idle.L = &s.mu
	s.hist.init(&s.live)
	return s
}

// SizeBytes is the size given to New.
func (s *Sim) SizeBytes() int64 { return s.sizeBytes }

// Info says that this is a simulation.
func (s *Sim) Info() disk.Info {
	return disk.Info{Path: s.o.Name, Driver: "sim", Direct: true}
}

// Rules are the faults in force; add to them at any time.
func (s *Sim) Rules() *faulty.Rules { return s.rules }

// SetMode changes how later I/O completes. Nothing may be in flight.
func (s *Sim) SetMode(m Mode, shuffle bool, seed uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.flying) > 0 {
		panic("sim: SetMode with I/O in flight")
	}
	s.o.Mode, s.o.Shuffle, s.o.Seed = m, shuffle, seed
	s.rng = rand.New(rand.NewPCG(seed, 0x73696d))
}

// Unplug makes the device disappear: every I/O in flight or submitted later
// fails with disk.ErrGone.
func (s *Sim) Unplug() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
}

// Stats returns the counters.
func (s *Sim) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// InFlight is how many I/Os have been submitted and not completed.
func (s *Sim) InFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.flying)
}

// Submit starts every IO of the batch; see Mode for when they complete.
func (s *Sim) Submit(batch []*disk.IO) {
	s.mu.Lock()
	for _, io := range batch {
		s.startLocked(io)
	}
	s.pumpLocked()
	s.mu.Unlock()
}

// pumpLocked completes what the mode says completes now.
func (s *Sim) pumpLocked() {
	switch {
	case s.running || len(s.flying) == 0 || s.o.Mode == Manual:
	case s.o.Mode == Inline:
		s.running = true
		for len(s.flying) > 0 {
			s.finishLocked(s.pickLocked())
		}
		s.running = false
	default:
		s.running = true
		go s.runAsync()
	}
}

func (s *Sim) runAsync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.flying) > 0 {
		i := s.pickLocked()
		if wait := time.Until(s.flying[i].due); wait > 0 {
			s.mu.Unlock()
			t := time.NewTimer(wait)
			<-t.C
			s.mu.Lock()
			continue
		}
		s.finishLocked(i)
	}
	s.running = false
}

// Step completes one I/O in mode Manual: the oldest, or a random one with
// Shuffle. It returns false when none is in flight.
func (s *Sim) Step() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.flying) == 0 {
		return false
	}
	s.finishLocked(s.pickLocked())
	return true
}

// Drain calls Step until nothing is in flight, and returns how often.
func (s *Sim) Drain() (steps int) {
	for s.Step() {
		steps++
	}
	return steps
}

// Close completes all I/O in flight; later Submits fail with disk.ErrClosed.
// Content and history stay: Cut, Snapshot and ReadRaw still work.
func (s *Sim) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for len(s.flying) > 0 || s.finishing > 0 {
		if len(s.flying) > 0 && s.o.Mode == Manual {
			s.finishLocked(s.pickLocked())
			continue
		}
		s.idle.Wait()
	}
	return nil
}

// pickLocked returns the index in flying of the I/O to complete next.
func (s *Sim) pickLocked() int {
	if !s.o.Shuffle {
		return 0
	}
	return s.rng.IntN(len(s.flying))
}

// startLocked checks io, captures its data and puts it in flight.
func (s *Sim) startLocked(io *disk.IO) {
	f := flight{io: io}
	if s.o.Latency > 0 {
		f.due = time.Now().Add(s.o.Latency)
	}
	switch {
	case s.closed:
		f.err = disk.ErrClosed
	case s.gone:
		f.err = disk.ErrGone
	default:
		f.err = disk.Check(s.sizeBytes, io)
	}
	if f.err == nil {
		rule, chance, _ := s.rules.Decide(io)
		s.applyRule(&f, rule, chance)
	}
	s.flying = append(s.flying, f)
}

func (s *Sim) applyRule(f *flight, rule faulty.Rule, chance uint64) {
	io := f.io
	if rule.Err != 0 {
		f.err = rule.Err
	}
	if rule.Delay > 0 && s.o.Mode == Async {
		f.due = time.Now().Add(s.o.Latency + rule.Delay)
	}
	if f.err == nil && s.syncLost && (io.Op == disk.Sync || io.Dsync) {
		f.err = disk.ErrSyncLost
	}
	switch io.Op {
	case disk.Read:
		f.flip, f.chance = rule.FlipBit, chance
		return
	case disk.Sync:
		f.rec = &record{op: disk.Sync}
	case disk.Discard:
		f.rec = &record{op: disk.Discard, off: io.Off}
		if f.err == nil {
			f.rec.pages = s.discarded(io)
		}
	case disk.Write:
		f.rec = &record{op: disk.Write, dsync: io.Dsync, off: io.Off}
		switch {
		case f.err != nil && !rule.Torn, rule.Lose:
		default:
			f.rec.pages = capture(io.Bufs)
			f.guard = !rule.FlipBit
			if f.err != nil {
				f.guard = false
				s.tearInHalf(f.rec)
			}
			if rule.FlipBit {
				flipPageBit(f.rec.pages, chance)
			}
			if to := io.Off + rule.MisplaceBy; to >= 0 && to+io.Bytes() <= s.sizeBytes {
				f.rec.off = to
			}
		}
	}
	f.rec.bytes = io.Bytes()
	f.rec.failed = f.err != nil
	s.eventLocked(f.rec, false)
}

// finishLocked takes flying[i] out, gives it its effect and calls its Done
// with the lock released.
func (s *Sim) finishLocked(i int) {
	f := s.flying[i]
	s.flying = append(s.flying[:i], s.flying[i+1:]...)
	if s.gone && f.err == nil {
		f.err = disk.ErrGone
	}
	if f.rec != nil {
		f.rec.failed = f.err != nil
		s.eventLocked(f.rec, true)
		s.live.apply(f.rec)
	}
	switch f.io.Op {
	case disk.Read:
		s.stats.Reads++
		s.stats.ReadBytes += f.io.Bytes()
		if f.err == nil {
			s.live.read(f.io.Off, f.io.Bufs)
			if f.flip {
				faulty.FlipBit(f.io.Bufs, f.chance)
			}
		}
	case disk.Write:
		s.stats.Writes++
		s.stats.WriteBytes += f.io.Bytes()
		if f.guard && !same(f.rec.pages, f.io.Bufs) {
			panic(fmt.Sprintf("sim: the buffers of the write of %d bytes at %d changed while it was in flight", f.io.Bytes(), f.io.Off))
		}
		s.syncLost = s.syncLost || (f.io.Dsync && f.rec != nil && f.rec.failed)
	case disk.Sync:
		s.stats.Syncs++
		s.syncLost = s.syncLost || (f.rec != nil && f.rec.failed)
	case disk.Discard:
		s.stats.Discards++
	}
	f.io.Err = nil
	if f.err != nil {
		f.io.Err = disk.NewError(s.o.Name, f.io, f.err)
	}
	s.finishing++
	s.mu.Unlock()
	f.io.Done(f.io)
	s.mu.Lock()
	s.finishing--
	if len(s.flying) == 0 && s.finishing == 0 {
		s.idle.Broadcast()
	}
}

// ReadRaw copies what is on the disk at off into p, both multiples of
// disk.BlockBytes, without I/O, rules or trace.
func (s *Sim) ReadRaw(p []byte, off int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live.read(off, [][]byte{p})
}

// WriteRaw replaces what is on the disk at off, both multiples of
// disk.BlockBytes, as if it had always been there. Cuts made at earlier events do
// not show it.
func (s *Sim) WriteRaw(p []byte, off int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &record{op: disk.Write, dsync: true, off: off, pages: capture([][]byte{p}), bytes: int64(len(p))}
	s.eventLocked(r, false)
	s.eventLocked(r, true)
	s.live.apply(r)
}

// Corrupt flips bit 0..7 of the byte at off, as WriteRaw would.
func (s *Sim) Corrupt(off int64, bit uint) {
	b := disk.NewAligned(disk.BlockBytes)
	at := off &^ (disk.BlockBytes - 1)
	s.ReadRaw(b, at)
	b[off-at] ^= 1 << (bit & 7)
	s.WriteRaw(b, at)
}

// AllocatedBytes is the memory that the content takes, by blocks that hold
// anything but zeroes.
func (s *Sim) AllocatedBytes() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live.each(func(int64, *page) { n += disk.BlockBytes })
	return n
}

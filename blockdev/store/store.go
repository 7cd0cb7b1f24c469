package store

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
)

// VolumeID names a volume. The zero ID is not valid.
type VolumeID = [16]byte

// Version says which write a region saw last. Epoch grows with each owner of
// the volume, Seq with each write; the writer chooses both.
type Version struct{ Epoch, Seq uint64 }

// Boot names a time that a machine ran, from its start on: /proc/sys/kernel/random/boot_id of Linux, or any
// other that no two have in common. Zero is one that is not known.
type Boot [16]byte

// Options bound what an open store uses. Zero values mean the defaults.
type Options struct {
	// DirtyBytes bounds acknowledged data that is not home yet. It is kept in
	// memory beside the log. Default 64 MiB, at least 4 MiB except in tests.
	DirtyBytes int64
	// PagesMax bounds the metadata pages in memory, of 4 KiB each and about 5
	// KiB with what is kept beside them. Default 16384 (64 MiB; enough for 32
	// GiB of hot address space without a metadata read).
	PagesMax int
	// BatchBlocks bounds the data blocks of one log batch, at most 256.
	BatchBlocks int
	// InFlight bounds the disk writes that a checkpoint keeps in flight.
	// Default 16.
	InFlight int
	// Boot is that of this machine. A store that was neither closed nor opened in it has replicas
	// that are unproven, see ReplicaState, unless it was opened with an unknown one.
	Boot     Boot
	breakage breakage // tests only: leave out what keeps data safe
}

// breakage are the deliberate faults that prove the power-cut test.
type breakage struct {
	noEdges, noNotes, noVoids, noHigher, noDoubt                                                    bool
	skipDataSync, skipCheckpointSync, noDsync, noSuperDsync, overwriteInPlace, reuseEarly, noLogCRC bool
}

const maxBatchBlocks = 256

// Validate fills in defaults and checks ranges.
func (o *Options) Validate() error {
	if o.DirtyBytes == 0 {
		o.DirtyBytes = 64 << 20
	}
	if o.PagesMax == 0 {
		o.PagesMax = 16384
	}
	if o.BatchBlocks == 0 {
		o.BatchBlocks = maxBatchBlocks
	}
	if o.InFlight == 0 {
		o.InFlight = 16
	}
	switch {
	case o.DirtyBytes < minDirtyBlocks*BlockBytes:
		return fmt.Errorf("DirtyBytes is %d: want at least %d", o.DirtyBytes, minDirtyBlocks*BlockBytes)
	case o.PagesMax < 4:
		return fmt.Errorf("PagesMax is %d: want at least 4", o.PagesMax)
	case o.BatchBlocks < 2*blocksPerChunk || o.BatchBlocks > maxBatchBlocks:
		return fmt.Errorf("BatchBlocks is %d: want %d to %d", o.BatchBlocks, 2*blocksPerChunk, maxBatchBlocks)
	case o.InFlight < 1 || o.InFlight > 1024:
		return fmt.Errorf("InFlight is %d: want 1 to 1024", o.InFlight)
	}
	return nil
}

// minDirtyBlocks lets any single Op be admitted: its two partial regions.
const minDirtyBlocks = 2 * blocksPerChunk

// Event is a change of the store's health.
type Event struct {
	State State
	Err   error // why
}

// State is the store's health.
type State uint8

// The states.
const (
	StateOnline State = iota
	StateFailed       // read-only: a write that durability depends on has failed
	StateClosed
)

// String names the state as the API shows it.
func (s State) String() string {
	switch s {
	case StateOnline:
		return "online"
	case StateFailed:
		return "failed"
	}
	return "closed"
}

// Store is an open extent store. All methods may be called from any goroutine.
//
// It has no goroutines of its own: work goes on in Submit and in the Done
// callbacks of the disk. Every such entry takes mu, changes state, notes in a
// turn what is to be done, releases mu and then does it.
type Store struct {
	d    disk.Disk
	sb   superblock // as last committed, except for its selectors
	opts Options

	mu struct {
		sync.Mutex
		state    State
		failure  error
		closing  chan struct{} // non-nil once Close waits; closed when idle
		idle     bool          // closing was told
		inflight int64         // ops admitted, less those ended with mu held

		vols    map[VolumeID]*Vol
		extFree []uint32 // free directory entries, the lowest last
		slotCur []uint64 // per page slot: which copy is current
		slotOut []uint64 // per page slot: taken
		slots   uint32   // free page slots
		slotPos uint32

		dir    []*abBlock
		bitmap []*abBlock
		alloc  *allocator
		owned  int64           // chunks that regions have
		bad    map[uint32]bool // chunks whose write failed; not given out again

		homePins map[uint32]int32 // chunks under home writes
		deferred map[uint32]bool  // chunks freed while pinned

		pages pageCache
		noted []*notes // changed since the last checkpoint began
		bufs  dirtyPool

		waitBufs  opList // need dirty buffers
		waitPages opList // need room in the page cache
		waitSpace opList // need chunks, and some may become free
		cleaned   bool   // the last checkpoint has left the clean mark
		writing   int    // ops whose data is being written to new chunks
		needSync  opList // data written to new chunks, not yet synced
		gathered  int    // bytes of needSync
		syncSoon  bool   // needSync is not only of copies, or large
		inSync    opList
		syncBusy  bool
		logq      opList
		lg        logState
		ck        checkpoint
		ckWaiters []chan struct{}

		lastSeq   uint64
		replaying bool
		logEdges  bool // a block was, or may soon be, poisoned: records say what they leave alone
		watchers  map[int]func(Event)
		watcherID int
		images    [][]byte // spare 4 KiB blocks for copies of metadata
	}
	pageWaiters atomic.Int32 // len(waitPages), readable without mu
	readsDone   atomic.Int64 // reads that ended without mu; part of inflight
	closing     atomic.Bool
	seq         atomic.Uint64 // last number given by NextSeq
	bounce      [2]sync.Pool

	// Methods as values, made once: making one is an allocation.
	onBatch, onSync, onPage, onCheckpoint func(*disk.IO)

	stats  counters
	turns  sync.Pool
	syncIO disk.IO
}

// Vol is a volume's extents. It exists as long as the store is open and knows
// nothing of sizes: those are the caller's.
type Vol struct {
	id      VolumeID
	exts    map[uint32]*extent
	chunks  int64 // owned by its extents
	users   int   // open handles
	notes   *notes
	deleted bool
}

// extent is 64 MiB of a volume. entry is its place in the directory; it is in
// the directory on disk only once inDir is set.
type extent struct {
	vol   *Vol
	index uint32
	entry uint32
	inDir bool
	base  uint32 // first chunk of its run, or noChunk
	based bool   // a run was looked for
	pages [pagesPerExtent]*page
}

// OpenVolume returns the volume with the given ID, which need not have data
// yet. Each handle must be closed with CloseVolume.
func (s *Store) OpenVolume(id VolumeID) (*Vol, error) {
	if id == (VolumeID{}) {
		return nil, fmt.Errorf("volume ID is zero")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.state == StateClosed || s.mu.closing != nil {
		return nil, ErrClosed
	}
	v := s.vol(id)
	if v.deleted {
		return nil, fmt.Errorf("volume %x is being deleted: %w", id, ErrBusy)
	}
	v.users++
	return v, nil
}

// CloseVolume gives a handle back. No Op on it may be in flight.
func (s *Store) CloseVolume(v *Vol) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.users--
}

// Watch calls fn when the store's health changes, from any goroutine, until stop
// is called. fn must not block; it may call any method that does not wait.
func (s *Store) Watch(fn func(Event)) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.mu.watcherID
	s.mu.watcherID++
	s.mu.watchers[id] = fn
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.mu.watchers, id)
	}
}

func (s *Store) notify(e Event) {
	s.mu.Lock()
	list := slices.Collect(maps.Values(s.mu.watchers))
	s.mu.Unlock()
	for _, fn := range list {
		fn(e)
	}
}

func (s *Store) vol(id VolumeID) *Vol {
	v := s.mu.vols[id]
	if v == nil {
		v = &Vol{id: id, exts: make(map[uint32]*extent)}
		s.mu.vols[id] = v
	}
	return v
}

func (s *Store) entryOf(e *extent) (*abBlock, dirEntry) {
	b := s.mu.dir[e.entry/dirEntriesPerBlock]
	return b, b.img.entry(int(e.entry % dirEntriesPerBlock))
}

// fail stops all writing: durability errors are final.
func (s *Store) failLocked(t *turn, err error) {
	if s.mu.state != StateOnline {
		return
	}
	s.mu.state = StateFailed
	s.mu.failure = err
	t.event = &Event{State: StateFailed, Err: err}
	for _, q := range []*opList{&s.mu.waitBufs, &s.mu.waitPages, &s.mu.waitSpace, &s.mu.needSync, &s.mu.logq} {
		for op := q.pop(); op != nil; op = q.pop() {
			if op.Kind == OpRead || op.Kind == OpVersions || op.Kind == opVisit { // waits for a page: reads go on
				t.retry.push(op)
				continue
			}
			s.endWrite(t, op, blockdev.ErrIO, err)
		}
	}
	s.pageWaiters.Store(0)
	s.wakeCheckpointWaiters()
}

// turn is what one entry into the store decided to do once mu is released.
type turn struct {
	ios   []*disk.IO
	done  opList
	fill  opList // have buffers: copy and checksum, then admit
	zero  opList // reads: finish the parts that need no disk
	retry opList // admit again
	event *Event
	idle  chan struct{}
}

func (s *Store) newTurn() *turn { return s.turns.Get().(*turn) }

// run does what t asks and everything that follows from it.
func (s *Store) run(t *turn) {
	for {
		for op := t.zero.pop(); op != nil; op = t.zero.pop() {
			s.fillHoles(t, op)
		}
		if len(t.ios) > 0 {
			s.d.Submit(t.ios)
			clear(t.ios)
			t.ios = t.ios[:0]
		}
		if t.event != nil {
			s.notify(*t.event)
			t.event = nil
		}
		for op := t.done.pop(); op != nil; op = t.done.pop() {
			op.Done(op)
		}
		if t.fill.empty() && t.retry.empty() {
			break
		}
		// Admitting may put ops on both lists again.
		fill, retry := t.fill, t.retry
		t.fill, t.retry = opList{}, opList{}
		for op := fill.head; op != nil; op = op.next {
			op.copyIn(s)
		}
		s.mu.Lock()
		for op := fill.pop(); op != nil; op = fill.pop() {
			s.admitWrite(t, op)
		}
		for op := retry.pop(); op != nil; op = retry.pop() {
			s.admit(t, op)
		}
		s.kick(t)
		s.mu.Unlock()
	}
	if t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
	s.turns.Put(t)
}

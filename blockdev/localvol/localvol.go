// Package localvol is a volume on one extent store, as a blockdev.Device.
//
// It cuts requests at span boundaries into store ops, and does what the store
// does not know of: sizes, logical blocks of 512 bytes, compare-and-write.
//
//	read            store ops, no lock (a shared one where it crosses a span)
//	whole-block     shared lock, store ops
//	part of a block exclusive lock, read the blocks at the edges, write whole ones
//	compare         exclusive lock, read, compare, write
//
// Locks are on ranges of whole blocks, so that only what overlaps ever waits.
// Every write is durable when it is done: FUA costs nothing and Flush neither.
//
// There are no goroutines. A request waits in a lock or in the store; what goes
// on runs in the callback that made it possible. On the aligned path nothing is
// allocated in the steady state.
package localvol

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/rangelock"
	"blockd.dev/blockdev/store"
)

const blockBytes = store.BlockBytes

// Options describe the volume to open.
type Options struct {
	// SizeBytes is the volume's size: a multiple of 4096, at least 4096.
	SizeBytes int64
	// BlockSize is the logical block: 512 or 4096; 0 means 4096.
	BlockSize int
	// ReadOnly refuses everything but reads.
	ReadOnly bool
	// Attended is what reads of the store wait for (blockdev.Attendable); it may be nil.
	Attended blockdev.Attended
}

// maxBytes is the largest volume: extent indices have 31 bits.
const maxBytes = int64(store.ExtentBytes) << 31

func checkSize(size int64) error {
	if size < blockBytes || size%blockBytes != 0 || size > maxBytes {
		return fmt.Errorf("volume size of %d bytes: want a multiple of %d, at most %d", size, blockBytes, maxBytes)
	}
	return nil
}

// Volume implements blockdev.Device, Mapper and Provisioner. All methods may be
// called from any goroutine.
type Volume struct {
	s     *store.Store
	disk  blockdev.Attended
	vol   *store.Vol
	id    store.VolumeID
	locks rangelock.Table
	watch blockdev.Watchers
	// unwatch ends the wait for the store to fail.
	unwatch func()

	geometry atomic.Pointer[blockdev.Geometry]

	waiting  sync.Mutex // one Resize or Close at a time; held while they wait
	mu       sync.Mutex // guards changes of geometry and the flags; never held while waiting
	readOnly bool       // as set by SetReadOnly
	failed   bool       // the store is read-only
	closed   atomic.Bool
	inflight atomic.Int64
	drained  chan struct{}
}

var (
	_ blockdev.Device      = (*Volume)(nil)
	_ blockdev.Mapper      = (*Volume)(nil)
	_ blockdev.Provisioner = (*Volume)(nil)
)

// Open opens volume id of s. A volume that has no data yet reads as zeroes. Data
// beyond SizeBytes, left by a shrink that a crash interrupted, is freed first.
func Open(s *store.Store, id [16]byte, o Options) (*Volume, error) {
	if o.BlockSize == 0 {
		o.BlockSize = 4096
	}
	if o.BlockSize != 512 && o.BlockSize != 4096 {
		return nil, fmt.Errorf("open volume %x: block size %d: want 512 or 4096", id, o.BlockSize)
	}
	if err := checkSize(o.SizeBytes); err != nil {
		return nil, fmt.Errorf("open volume %x: %w", id, err)
	}
	vol, err := s.OpenVolume(id)
	if err != nil {
		return nil, fmt.Errorf("open volume %x: %w", id, err)
	}
	v := &Volume{s: s, disk: o.Attended, vol: vol, id: id, readOnly: o.ReadOnly, drained: make(chan struct{}, 1)}
	v.geometry.Store(&blockdev.Geometry{
		SizeBytes: o.SizeBytes, BlockSize: o.BlockSize, PhysicalBlockSize: blockBytes,
		OptimalIOBytes: store.ChunkBytes, UnmapGranularity: blockBytes, Thin: true, ReadOnly: o.ReadOnly, Poisons: true,
	})
	v.unwatch = s.Watch(func(e store.Event) {
		if e.State == store.StateFailed {
			v.storeFailed()
		}
	})
	if state, _ := s.State(); state != store.StateOnline {
		v.storeFailed()
	} else if err := v.trim(o.SizeBytes); err != nil {
		v.unwatch()
		s.CloseVolume(vol)
		return nil, fmt.Errorf("open volume %x: free what lies beyond its end: %w", id, err)
	}
	return v, nil
}

// Delete frees everything that volume id has on s. The volume must not be open.
// It may be called again after a crash or for a volume that has nothing.
func Delete(s *store.Store, id [16]byte) error { return s.DeleteVolume(id) }

// trim frees what lies beyond size.
func (v *Volume) trim(size int64) error {
	for _, vi := range v.s.Volumes() {
		if vi.ID != v.id || vi.EndBytes <= size {
			continue
		}
		if mapped, n, err := v.s.Mapped(v.vol, size, vi.EndBytes-size); err != nil {
			return err
		} else if mapped || n < vi.EndBytes-size {
			return v.s.ClearFrom(v.vol, size)
		}
	}
	return nil
}

// Attended implements blockdev.Attendable.
func (v *Volume) Attended() blockdev.Attended { return v.disk }

// ID returns the volume's identity.
func (v *Volume) ID() [16]byte { return v.id }

// Geometry returns the current shape.
func (v *Volume) Geometry() blockdev.Geometry { return *v.geometry.Load() }

// Watch calls fn after every change of size, read-only state or health.
func (v *Volume) Watch(fn func(blockdev.Change)) (stop func()) { return v.watch.Add(fn) }

// NextMapped tells which ranges exist, in units of 4 KiB.
func (v *Volume) NextMapped(offset, limit int64) (mapped bool, runBytes int64, err error) {
	size := v.Geometry().SizeBytes
	if offset < 0 || limit < 0 || offset >= size {
		return false, 0, &blockdev.Error{Kind: blockdev.ErrOutOfRange, Op: blockdev.OpRead, Offset: offset, Length: limit}
	}
	limit = min(limit, size-offset)
	base := offset / blockBytes * blockBytes
	mapped, runBytes, err = v.s.Mapped(v.vol, base, limit+offset-base)
	return mapped, min(runBytes-(offset-base), limit), err
}

// Provisioning tells how much the volume uses and how much its store has left.
func (v *Volume) Provisioning() (usedBytes, availableBytes int64) { return v.s.Usage(v.vol) }

// Resize changes the size in bytes, a multiple of 4096. What a shrink cuts off
// is gone: it reads as zeroes should the volume grow again. It waits for the
// requests in that part and for the disk.
func (v *Volume) Resize(sizeBytes int64) error {
	if err := checkSize(sizeBytes); err != nil {
		return fmt.Errorf("resize volume %x: %w", v.id, err)
	}
	v.waiting.Lock()
	defer v.waiting.Unlock()
	if v.closed.Load() {
		return fmt.Errorf("resize volume %x: %w", v.id, store.ErrClosed)
	}
	old := v.Geometry().SizeBytes
	if old == sizeBytes {
		return nil
	}
	v.setSize(sizeBytes)
	if sizeBytes < old {
		l := rangelock.Lock{Off: sizeBytes, Len: old - sizeBytes, Mode: rangelock.Exclusive}
		held := make(chan struct{})
		l.Granted = func(*rangelock.Lock) { close(held) }
		if !v.locks.Acquire(&l) {
			<-held
		}
		err := v.s.ClearFrom(v.vol, sizeBytes)
		v.locks.Release(&l)
		if err != nil {
			v.setSize(old)
			return fmt.Errorf("resize volume %x: free what is cut off: %w", v.id, err)
		}
	}
	v.watch.Notify(blockdev.ChangeSize)
	return nil
}

func (v *Volume) setSize(sizeBytes int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	g := v.Geometry()
	g.SizeBytes = sizeBytes
	v.geometry.Store(&g)
}

// SetReadOnly turns read-only on or off. A volume whose store has failed stays
// read-only.
func (v *Volume) SetReadOnly(on bool) { v.setReadOnly(func() { v.readOnly = on }) }

// storeFailed makes the volume read-only for good.
func (v *Volume) storeFailed() { v.setReadOnly(func() { v.failed = true }) }

func (v *Volume) setReadOnly(change func()) {
	v.mu.Lock()
	change()
	g := v.Geometry()
	on := v.readOnly || v.failed
	differs := g.ReadOnly != on
	g.ReadOnly = on
	v.geometry.Store(&g)
	v.mu.Unlock()
	if differs {
		v.watch.Notify(blockdev.ChangeReadOnly)
	}
}

// Close waits for the requests in flight; later ones end with ErrGone.
func (v *Volume) Close() error {
	v.waiting.Lock()
	defer v.waiting.Unlock()
	if !v.closed.CompareAndSwap(false, true) {
		return fmt.Errorf("close volume %x: %w", v.id, store.ErrClosed)
	}
	if v.inflight.Add(-1) >= 0 { // see enter
		<-v.drained
	}
	v.unwatch()
	v.s.CloseVolume(v.vol)
	v.watch.Notify(blockdev.ChangeGone)
	return nil
}

// enter counts a request in flight; false when the volume is closed. Close takes
// one off, so the count reaches -1 exactly once, when it is closed and drained.
func (v *Volume) enter() bool {
	v.inflight.Add(1)
	if v.closed.Load() {
		v.leave()
		return false
	}
	return true
}

func (v *Volume) leave() {
	if v.inflight.Add(-1) == -1 {
		select {
		case v.drained <- struct{}{}:
		default:
		}
	}
}

// kindOf maps what the store says to what a host is told.
func kindOf(op *store.Op) error {
	if errors.Is(op.Cause, store.ErrClosed) {
		return blockdev.ErrGone
	}
	return op.Err
}

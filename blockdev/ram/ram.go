// Package ram is a blockdev.Device in memory: thin, resizable, and gone with
// the process. Volumes of `--media ram` are such, benchmarks run on it to
// leave the disk out, and tests use it as the device that always works.
//
// Memory is mapped in regions on first write and used in pages of 4 KiB; a
// page that was never written, or was unmapped, reads as zeroes. A region is
// divided into chunks of 64 KiB with a lock each. A request locks one chunk
// at a time and copies under the lock, so that requests on different chunks
// run side by side and no logical block is ever mixed; a compare-and-write,
// and a write to a device of limited capacity, hold all their chunks, locked
// in ascending order. Everything completes inside Submit, in the caller's
// goroutine; the package starts none. No request allocates but for an error.
//
// # Loans
//
// A read that borrows gets the pages themselves, which are then lent: they are
// counted, and a write leaves them alone. It puts the page in a spare, 4 KiB
// from elsewhere, until nothing of the page is lent any more, and the page goes
// home to its place in the region. So memory is that of the mapped pages and
// at most as much again as is lent. A borrowing read of 4 KiB takes some 0.1
// us, a copying one 0.3 us (BenchmarkBorrow4K, BenchmarkRead4K).
//
// Invariants:
//
//  1. A page whose mapped bit is clear reads as zeroes; what memory it has is of
//     no meaning.
//  2. After taking a chunk's lock, a request looks at the device's state
//     again. So once Resize or Close has passed a chunk, nobody touches what
//     they cut off, but for those that it is lent to.
//  3. Device.used is the number of mapped bits, times 4 KiB.
//  4. A page is in a spare only while its home or that spare is lent.
//  5. Memory that is lent is not written to, discarded or unmapped.
package ram

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev"
)

const (
	pageBytes   = 4 << 10
	chunkBytes  = 64 << 10
	chunkPages  = chunkBytes / pageBytes // bits of chunk.mapped
	chunksTotal = regionBytes / chunkBytes

	sizeMax = 1 << 50 // 1 PiB; the region table takes 8 bytes per 32 MiB
)

// Config describes a device. SizeBytes is required.
type Config struct {
	SizeBytes         int64 // a multiple of BlockSize, up to 1 PiB
	BlockSize         int   // 512 or 4096; 0 means 512
	PhysicalBlockSize int   // 0 means 4096
	// CapacityBytes is how much of the device can hold data at a time, as on
	// an overcommitted pool; writes beyond it end with ErrNoSpace. 0 means
	// SizeBytes, whatever the size becomes.
	CapacityBytes int64
	// HugePages asks for transparent huge pages: faster, and resident memory
	// grows in steps of 2 MiB.
	HugePages bool
}

// Device is a RAM disk. It implements blockdev.Device, Mapper and
// Provisioner.
type Device struct {
	watchers  blockdev.Watchers
	capacity  int64 // Config.CapacityBytes
	hugePages bool

	state atomic.Pointer[state]
	table atomic.Pointer[[]atomic.Pointer[region]] // never shrinks
	used  atomic.Int64                             // bytes in mapped pages

	spares sync.Pool // *spare

	mu sync.Mutex // makes changes of state and table, one at a time
}

// state is what every request looks at; it is replaced, never changed.
type state struct {
	geometry blockdev.Geometry
	gone     bool
}

// region is a part of the device that was written to.
type region struct {
	mem    []byte // regionBytes; nil after Close
	chunks []chunk
}

// chunk is the unit of locking. It fills a line of the processor's cache, so
// that a read of data that is not in the cache waits for one other line only.
type chunk struct {
	sync.Mutex
	mapped uint16 // bit per page: it holds data
	lent   uint16 // bit per page: its home is lent
	poison *sectors
	moved  *spare // the spares that pages of this chunk are in
	loans  [chunkPages]uint16
}

// New makes an empty device. It fails on sizes that make no sense.
func New(cfg Config) (*Device, error) {
	if cfg.BlockSize == 0 {
		cfg.BlockSize = 512
	}
	if cfg.BlockSize != 512 && cfg.BlockSize != 4096 {
		return nil, fmt.Errorf("ram: block size of %d bytes: want 512 or 4096", cfg.BlockSize)
	}
	if cfg.PhysicalBlockSize == 0 {
		cfg.PhysicalBlockSize = 4096
	}
	if cfg.PhysicalBlockSize < cfg.BlockSize {
		return nil, fmt.Errorf("ram: physical block size of %d bytes: want at least the block size, %d",
			cfg.PhysicalBlockSize, cfg.BlockSize)
	}
	if cfg.CapacityBytes < 0 {
		return nil, fmt.Errorf("ram: capacity of %d bytes: want 0 or more", cfg.CapacityBytes)
	}
	if err := checkSize(cfg.SizeBytes, cfg.BlockSize); err != nil {
		return nil, err
	}
	d := &Device{capacity: cfg.CapacityBytes, hugePages: cfg.HugePages}
	d.spares.New = func() any { return &spare{mem: new([pageBytes]byte)} }
	d.growTable(cfg.SizeBytes)
	d.state.Store(&state{geometry: blockdev.Geometry{
		SizeBytes:         cfg.SizeBytes,
		BlockSize:         cfg.BlockSize,
		PhysicalBlockSize: cfg.PhysicalBlockSize,
		UnmapGranularity:  pageBytes,
		Thin:              true,
		Poisons:           true,
		Lends:             true,
	}})
	return d, nil
}

func checkSize(size int64, blockSize int) error {
	if size < 0 || size > sizeMax || size%int64(blockSize) != 0 {
		return fmt.Errorf("ram: size of %d bytes: want a multiple of %d up to 1 PiB", size, blockSize)
	}
	return nil
}

// Geometry is the current shape.
func (d *Device) Geometry() blockdev.Geometry { return d.state.Load().geometry }

// Watch reports changes made by Resize, SetReadOnly and Close.
func (d *Device) Watch(fn func(blockdev.Change)) (stop func()) { return d.watchers.Add(fn) }

// Provisioning is the memory in use, and what more the device can take.
func (d *Device) Provisioning() (usedBytes, availableBytes int64) {
	usedBytes = d.used.Load()
	limit := d.capacity
	if limit == 0 {
		limit = (d.Geometry().SizeBytes + pageBytes - 1) / pageBytes * pageBytes
	}
	return usedBytes, max(limit-usedBytes, 0)
}

// Submit executes the batch and completes every request before it returns.
func (d *Device) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		blockdev.Complete(r, d.do(r))
	}
}

func (d *Device) do(r *blockdev.Request) error {
	st := d.state.Load()
	if st.gone {
		return blockdev.NewError(blockdev.ErrGone, r, -1, nil)
	}
	if err := blockdev.Validate(st.geometry, r); err != nil {
		return err
	}
	if r.Op == blockdev.OpFlush || r.Length == 0 {
		return nil
	}
	switch r.Op {
	case blockdev.OpRead:
		if r.Borrow {
			return d.lend(r)
		}
		return d.read(r)
	case blockdev.OpUnmap:
		return d.zero(r)
	case blockdev.OpWrite, blockdev.OpWriteZeroes:
		switch {
		case r.Op == blockdev.OpWriteZeroes && !r.NoUnmap:
			return d.zero(r)
		case d.capacity != 0:
			return d.writeLimited(r)
		}
		return d.write(r)
	case blockdev.OpCompareAndWrite:
		return d.compareAndWrite(r)
	case blockdev.OpPoison:
		return d.setPoison(r)
	}
	return blockdev.NewError(blockdev.ErrInvalid, r, -1, nil)
}

// check is invariant 2: with a chunk locked, is the request still good?
func (d *Device) check(r *blockdev.Request) error {
	st := d.state.Load()
	if st.gone {
		return blockdev.NewError(blockdev.ErrGone, r, -1, nil)
	}
	if r.Offset+r.Length > st.geometry.SizeBytes {
		return blockdev.NewError(blockdev.ErrOutOfRange, r, -1, nil)
	}
	return nil
}

// Resize resizes the device, a multiple of the block size up to 1 PiB, and
// tells the watchers. What a smaller size cuts off is lost: it reads as
// zeroes should the device grow again.
func (d *Device) Resize(sizeBytes int64) error {
	changed, err := d.resize(sizeBytes)
	if changed {
		d.watchers.Notify(blockdev.ChangeSize)
	}
	return err
}

func (d *Device) resize(sizeBytes int64) (changed bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := *d.state.Load()
	if st.gone {
		return false, errors.New("ram: resize: the device is closed")
	}
	if err := checkSize(sizeBytes, st.geometry.BlockSize); err != nil {
		return false, err
	}
	old := st.geometry.SizeBytes
	if old == sizeBytes {
		return false, nil
	}
	d.growTable(sizeBytes)
	st.geometry.SizeBytes = sizeBytes
	d.state.Store(&st)
	for off := sizeBytes; off < old; {
		n := min(chunkBytes-off%chunkBytes, old-off)
		if g, c := d.find(off); g != nil {
			c.Lock()
			d.zeroLocked(g, c, off, n)
			c.Unlock()
		} else {
			n = regionBytes - off%regionBytes
		}
		off += n
	}
	return true, nil
}

// SetReadOnly makes every request but reads and flushes fail with
// ErrReadOnly, or allows them again, and tells the watchers.
func (d *Device) SetReadOnly(readOnly bool) {
	d.mu.Lock()
	st := *d.state.Load()
	changed := st.geometry.ReadOnly != readOnly
	st.geometry.ReadOnly = readOnly
	d.state.Store(&st)
	d.mu.Unlock()
	if changed {
		d.watchers.Notify(blockdev.ChangeReadOnly)
	}
}

// Close frees the memory, but for what is lent, which is freed when it is
// returned. Requests fail with ErrGone from then on, and the watchers are told.
// A second Close does nothing.
func (d *Device) Close() error {
	d.mu.Lock()
	st := *d.state.Load()
	if st.gone {
		d.mu.Unlock()
		return nil
	}
	st.gone = true
	d.state.Store(&st)
	var errs []error
	table := *d.table.Load()
	for i := range table {
		if g := table[i].Load(); g != nil {
			errs = append(errs, g.free())
		}
	}
	d.used.Store(0)
	d.mu.Unlock()
	d.watchers.Notify(blockdev.ChangeGone)
	return errors.Join(errs...)
}

// free unmaps the memory of a region of a closed device, unless some of it is
// lent. By invariant 2 nobody touches it after.
func (g *region) free() error {
	for i := range g.chunks {
		g.chunks[i].Lock()
		defer g.chunks[i].Unlock()
	}
	for i := range g.chunks {
		if g.chunks[i].lent != 0 {
			return nil // TakeBack frees it
		}
	}
	mem := g.mem
	if mem == nil {
		return nil
	}
	g.mem = nil
	for i := range g.chunks {
		g.chunks[i].moved = nil // pages whose spares are lent don't go home
	}
	return unmapRegion(mem)
}

// growTable makes room for regions of a device of size bytes.
func (d *Device) growTable(size int64) {
	want := int((size + regionBytes - 1) / regionBytes)
	var old []atomic.Pointer[region]
	if p := d.table.Load(); p != nil {
		old = *p
	}
	if want <= len(old) && old != nil {
		return
	}
	table := make([]atomic.Pointer[region], want)
	for i := range old {
		table[i].Store(old[i].Load())
	}
	d.table.Store(&table)
}

// find gives the region and chunk of the byte at off, or nil where nothing
// was ever written.
func (d *Device) find(off int64) (*region, *chunk) {
	g := (*d.table.Load())[off/regionBytes].Load()
	if g == nil {
		return nil, nil
	}
	return g, &g.chunks[off%regionBytes/chunkBytes]
}

// make is find, and maps the region where there is none.
func (d *Device) make(r *blockdev.Request, off int64) (*region, *chunk, error) {
	if g, c := d.find(off); g != nil {
		return g, c, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state.Load().gone {
		return nil, nil, blockdev.NewError(blockdev.ErrGone, r, -1, nil)
	}
	if g, c := d.find(off); g != nil {
		return g, c, nil
	}
	mem, err := mapRegion(d.hugePages)
	if err != nil {
		return nil, nil, blockdev.NewError(blockdev.ErrNoSpace, r, off, err)
	}
	g := &region{mem: mem, chunks: make([]chunk, chunksTotal)}
	(*d.table.Load())[off/regionBytes].Store(g)
	_, c := d.find(off)
	return g, c, nil
}

// pagesOf is the bits of the pages that [off, off+n), within one chunk,
// touches, and of those it covers whole.
func pagesOf(off, n int64) (touched, covered uint16) {
	off %= chunkBytes
	first, last := off/pageBytes, (off+n-1)/pageBytes
	touched = span(first, last+1)
	covered = span((off+pageBytes-1)/pageBytes, (off+n)/pageBytes)
	return touched, covered
}

// span is the bits [from, to), none if to <= from.
func span(from, to int64) uint16 {
	if to <= from {
		return 0
	}
	return uint16(uint32(1)<<to - uint32(1)<<from)
}

// zeroLocked makes a range within one chunk read as zeroes and frees the
// pages that it covers whole.
func (d *Device) zeroLocked(g *region, c *chunk, off, n int64) {
	c.poison.clear(off, n)
	touched, covered := pagesOf(off, n)
	freed := touched & covered & c.mapped
	c.mapped &^= freed
	d.used.Add(-int64(bits.OnesCount16(freed)) * pageBytes)
	for m := freed; m != 0 && c.moved != nil; m &= m - 1 {
		d.dropSpareLocked(c, bits.TrailingZeros16(m))
	}
	if freed != 0 && c.mapped == 0 {
		c.discardLocked(g, off)
		return
	}
	for m := touched &^ covered & c.mapped; m != 0; m &= m - 1 {
		page := int64(bits.TrailingZeros16(m)) * pageBytes
		from, to := max(off%chunkBytes, page), min(off%chunkBytes+n, page+pageBytes)
		at := off - off%chunkBytes + from
		d.ownLocked(g, c, at, to-from)
		clear(g.runLocked(c, at, to-from))
	}
}

// discardLocked gives the memory of a chunk without data to the kernel, now or
// when nothing of it is lent any more.
func (c *chunk) discardLocked(g *region, off int64) {
	if c.lent == 0 && g.mem != nil {
		discard(g.home(off))
	}
}

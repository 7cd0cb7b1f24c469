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
// goroutine; the package starts none. A 4 KiB read takes some 0.3 us, most of
// it the copy (BenchmarkRead4K), and no request allocates but for an error.
//
// Invariants:
//
//  1. A page whose mapped bit is clear holds zeroes.
//  2. After taking a chunk's lock, a request looks at the device's state
//     again. So once Resize or Close has passed a chunk, nobody touches what
//     they cut off.
//  3. Device.used is the number of mapped bits, times 4 KiB.
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
	chunks [chunksTotal]chunk
}

// chunk is the unit of locking.
type chunk struct {
	sync.RWMutex
	mapped uint16 // bit per page: it holds data
	poison sectors
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
	d.growTable(cfg.SizeBytes)
	d.state.Store(&state{geometry: blockdev.Geometry{
		SizeBytes:         cfg.SizeBytes,
		BlockSize:         cfg.BlockSize,
		PhysicalBlockSize: cfg.PhysicalBlockSize,
		UnmapGranularity:  pageBytes,
		Thin:              true,
		Poisons:           true,
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

// Close frees the memory. Requests fail with ErrGone from then on, and the
// watchers are told. A second Close does nothing.
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

// free unmaps the region's memory; by invariant 2 nobody touches it after.
func (g *region) free() error {
	for i := range g.chunks {
		g.chunks[i].Lock()
		defer g.chunks[i].Unlock()
	}
	mem := g.mem
	g.mem = nil
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
	g := &region{mem: mem}
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

// mapLocked sets the mapped bits of a range that is about to be written.
func (d *Device) mapLocked(c *chunk, off, n int64) {
	c.poison.clear(off, n)
	touched, _ := pagesOf(off, n)
	if fresh := touched &^ c.mapped; fresh != 0 {
		c.mapped |= fresh
		d.used.Add(int64(bits.OnesCount16(fresh)) * pageBytes)
	}
}

// zeroLocked makes a range within one chunk read as zeroes and frees the
// pages that it covers whole.
func (d *Device) zeroLocked(g *region, c *chunk, off, n int64) {
	c.poison.clear(off, n)
	if c.mapped == 0 || g.mem == nil {
		return
	}
	touched, covered := pagesOf(off, n)
	touched &= c.mapped // clearing the others would make them resident
	freed := touched & covered
	chunkMem := g.mem[off%regionBytes/chunkBytes*chunkBytes:][:chunkBytes]
	off %= chunkBytes
	if c.mapped &^= freed; c.mapped == 0 {
		discard(chunkMem)
	} else {
		for ; touched != 0; touched &= touched - 1 {
			page := int64(bits.TrailingZeros16(touched)) * pageBytes
			clear(chunkMem[max(off, page):min(off+n, page+pageBytes)])
		}
	}
	if freed != 0 {
		d.used.Add(-int64(bits.OnesCount16(freed)) * pageBytes)
	}
}

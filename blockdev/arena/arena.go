// Package arena holds the buffers that data moves through: one mapping made
// at start, of 2 MiB huge pages where the machine has them, cut into size
// classes and lent out by owning handle.
//
// A buffer has one owner at a time. Whoever holds the *Buf may read and write
// Bytes and must either pass the handle on or Release it, exactly once. No
// method allocates on the Go heap after New, except that an SG keeps the
// slices it grew. With the build tag `arenadebug` (and in every -race build)
// released memory is poisoned, a second Release and a use after Release panic
// with the stack that released it, a write after Release panics at the next
// loan, and Leaked lists what was never returned and who took it.
//
// # Inside
//
// The mapping is a row of 2 MiB slabs. A slab is empty, or cut into buffers
// of one class and owned by one shard. A shard is a lock, the slabs of one
// class that have something free, and counters; goroutines spread over the
// shards of a class by the address of their stack, so that two cores seldom
// meet at one lock. A slab whose buffers are all free goes back to the empty
// list as soon as its shard has another one to serve from, and can be cut for
// any class then; when nothing is empty, such last slabs are collected too.
//
//	Get      shard lock, pop
//	 slow    empty list, else other shards, else a slab idle in another class
//	Release  shard lock of the buffer's slab, push
//
// A pair of Get and Release takes some 30 ns (BenchmarkGetRelease).
//
// Lock order: shard before Arena.empty. Never two shards, except in Close,
// which takes all of them in index order.
package arena

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

// Classes are the sizes a Buf can have, in bytes, each a multiple of 4 KiB
// and aligned to 4 KiB in memory.
var Classes = [...]int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20}

// MaxClass is the largest single buffer; longer transfers use an SG.
const MaxClass = 1 << 20

const (
	pageBytes  = 4 << 10 // smallest class, and alignment of every buffer
	slabBytes  = 2 << 20 // one huge page
	shardsMax  = 8
	numClasses = len(Classes)

	// defaultSizeBytes is used for Config.SizeBytes == 0.
	defaultSizeBytes = 256 << 20
)

// Mode says how hard New tries to get huge pages.
type Mode uint8

// The modes.
const (
	// Auto takes reserved huge pages, else asks for transparent ones, else
	// lives with small pages; Stats().Reason tells.
	Auto Mode = iota
	// Require fails where reserved huge pages are not to be had.
	Require
	// Off uses small pages.
	Off
)

// Config says what New maps. The zero value is 256 MiB in mode Auto.
type Config struct {
	// SizeBytes is the size of the mapping, rounded up to 2 MiB; 0 means
	// 256 MiB. It is address space: only what is used becomes resident,
	// unless reserved huge pages are taken.
	SizeBytes int64
	// HugePages says how hard to try for huge pages.
	HugePages Mode
}

// Arena lends out buffers. All methods may be called from any goroutine.
type Arena struct {
	mem     mapping
	bufs    []Buf // one per 4 KiB page; a larger buffer uses that of its first page
	slabs   []slab
	classes [numClasses]class
	mask    uint32 // shards per class - 1

	empty struct {
		sync.Mutex
		list     *slab // slabs given back, linked by next
		fresh    int   // slabs[fresh:] were never cut; some may be reserved
		reserved int   // slabs in Regions
	}
}

// class is what the shards of one size have in common.
type class struct {
	sizeBytes int
	perSlab   int32
	shards    []shard
	failures  atomic.Int64
}

// shard serves one class to some of the goroutines.
type shard struct {
	sync.Mutex
	partial *slab // slabs with something free, doubly linked
	used    int64 // buffers out
	peak    int64 // most of used
	slabs   int64 // slabs owned
	_       [128 - 40]byte
}

// slab is 2 MiB of the mapping. The fields belong to the lock of its shard,
// or to Arena.empty while it has none.
type slab struct {
	shard      *shard
	class      *class
	next, prev *slab
	free       *Buf // released buffers, last in first out (first in in debug builds)
	tail       *Buf // last of free, kept in debug builds only
	freeCount  int32
	fresh      int32 // buffers [fresh:perSlab] were not lent since the slab was cut
	linked     bool  // in shard.partial
	reserved   bool  // part of a Region; belongs to Arena.empty
	debug      slabDebug
}

// New maps an arena. It fails when the memory can't be mapped, or when huge
// pages are required and not there; the error says how to reserve them.
func New(cfg Config) (*Arena, error) {
	size := cfg.SizeBytes
	if size == 0 {
		size = defaultSizeBytes
	}
	if size < 0 || size > 1<<42 {
		return nil, fmt.Errorf("arena: size of %d bytes: want between 2 MiB and 4 TiB", size)
	}
	size = (size + slabBytes - 1) / slabBytes * slabBytes
	mem, err := mapMemory(int(size), cfg.HugePages)
	if err != nil {
		return nil, fmt.Errorf("arena: %w", err)
	}
	a := &Arena{
		mem:   mem,
		bufs:  make([]Buf, size/pageBytes),
		slabs: make([]slab, size/slabBytes),
	}
	shards := shardCount(len(a.slabs))
	a.mask = uint32(shards - 1)
	for i := range a.classes {
		c := &a.classes[i]
		c.sizeBytes = Classes[i]
		c.perSlab = int32(slabBytes / Classes[i])
		c.shards = make([]shard, shards)
	}
	return a, nil
}

// shardCount is a power of two near the number of CPUs, and small enough that
// every class and shard can have a few slabs of its own.
func shardCount(slabs int) int {
	n := 1
	for n < runtime.GOMAXPROCS(0) && n < shardsMax && 2*n*numClasses*2 <= slabs {
		n *= 2
	}
	return n
}

// Close unmaps the arena. Buffers that are still out make it fail and leave
// the mapping as it is, since the kernel or a goroutine may still write there;
// in a debug build the error has the stacks that took them. Get returns nil
// after a successful Close. A second Close does nothing.
func (a *Arena) Close() error {
	for i := range a.classes {
		for j := range a.classes[i].shards {
			s := &a.classes[i].shards[j]
			s.Lock()
			defer s.Unlock()
		}
	}
	var out, outBytes int64
	for i := range a.classes {
		for j := range a.classes[i].shards {
			out += a.classes[i].shards[j].used
			outBytes += a.classes[i].shards[j].used * int64(a.classes[i].sizeBytes)
		}
	}
	if out > 0 {
		return fmt.Errorf("arena: close: %d buffers of %d bytes in total were not released%s",
			out, outBytes, a.leakTextLocked())
	}
	a.empty.Lock()
	defer a.empty.Unlock()
	if n := a.empty.reserved; n > 0 {
		return fmt.Errorf("arena: close: regions of %d MiB in total were not released", n*slabBytes>>20)
	}
	a.empty.list, a.empty.fresh = nil, len(a.slabs)
	for i := range a.classes {
		for j := range a.classes[i].shards {
			a.classes[i].shards[j].partial = nil
		}
	}
	if err := a.mem.unmap(); err != nil {
		return fmt.Errorf("arena: close: %w", err)
	}
	return nil
}

// ErrExhausted is for callers that must turn a nil Buf or a refused SG into an
// error. It is temporary: other requests release buffers.
var ErrExhausted = errors.New("arena: out of buffers; raise its size or lower the number of requests in flight")

// Get lends a buffer of the smallest class that holds n bytes. It returns nil
// when that class is exhausted, when n is negative or larger than MaxClass.
// The content is whatever was there before.
func (a *Arena) Get(n int) *Buf {
	ci := classFor(n)
	if ci < 0 {
		return nil
	}
	b := a.take(ci)
	if b == nil {
		a.classes[ci].failures.Add(1)
		return nil
	}
	b.n = int32(n)
	return b
}

// classFor is the index of the smallest class of at least n bytes, or -1.
func classFor(n int) int {
	if n < 0 {
		return -1
	}
	for i, size := range Classes {
		if n <= size {
			return i
		}
	}
	return -1
}

// take pops a buffer of class ci, or returns nil.
func (a *Arena) take(ci int) *Buf {
	c := &a.classes[ci]
	home := stackHash() & a.mask
	s := &c.shards[home]
	s.Lock()
	b := a.popLocked(s)
	s.Unlock()
	if b == nil {
		b = a.takeSlow(c, home)
	}
	if b != nil {
		b.lent()
	}
	return b
}

// takeSlow finds memory elsewhere when the home shard has none.
func (a *Arena) takeSlow(c *class, home uint32) *Buf {
	// Twice: a slab may move from a shard to the empty list between the looks
	// at the one and the other.
	for range 2 {
		if sl := a.popEmpty(); sl != nil {
			return a.cut(sl, c, &c.shards[home])
		}
		for i := range c.shards {
			s := &c.shards[(home+uint32(i))&a.mask]
			s.Lock()
			b := a.popLocked(s)
			s.Unlock()
			if b != nil {
				return b
			}
		}
		if sl := a.reclaim(); sl != nil {
			return a.cut(sl, c, &c.shards[home])
		}
	}
	return nil
}

// popEmpty takes a slab that no shard owns, or returns nil.
func (a *Arena) popEmpty() *slab {
	e := &a.empty
	e.Lock()
	defer e.Unlock()
	if sl := e.list; sl != nil {
		e.list, sl.next = sl.next, nil
		return sl
	}
	for e.fresh < len(a.slabs) {
		sl := &a.slabs[e.fresh]
		e.fresh++
		if !sl.reserved {
			return sl
		}
	}
	return nil
}

// reclaim takes a wholly free slab from whatever shard keeps one, or returns
// nil.
func (a *Arena) reclaim() *slab {
	for i := range a.classes {
		c := &a.classes[i]
		for j := range c.shards {
			s := &c.shards[j]
			s.Lock()
			for sl := s.partial; sl != nil; sl = sl.next {
				if sl.idleLocked() {
					s.unlinkLocked(sl)
					s.slabs--
					s.Unlock()
					return sl
				}
			}
			s.Unlock()
		}
	}
	return nil
}

// cut gives the slab, which nobody else sees, to class c and shard s, and pops
// its first buffer.
func (a *Arena) cut(sl *slab, c *class, s *shard) *Buf {
	sl.shard, sl.class = s, c
	sl.free, sl.tail, sl.freeCount, sl.fresh = nil, nil, c.perSlab, 0
	sl.debug.cut(c)
	s.Lock()
	defer s.Unlock()
	s.slabs++
	s.linkLocked(sl)
	return a.popLocked(s)
}

// popLocked lends a buffer from the shard's first slab, or returns nil.
func (a *Arena) popLocked(s *shard) *Buf {
	sl := s.partial
	if sl == nil {
		return nil
	}
	b := sl.free
	if b != nil {
		sl.free, b.next = b.next, nil
	} else {
		b = a.freshBuf(sl)
	}
	b.state = stateOut
	if sl.freeCount--; sl.freeCount == 0 {
		s.unlinkLocked(sl)
	}
	if s.used++; s.used > s.peak {
		s.peak = s.used
	}
	return b
}

// freshBuf sets up the next buffer of sl that was not used since it was cut.
func (a *Arena) freshBuf(sl *slab) *Buf {
	first := slabIndex(a.slabs, sl) * (slabBytes / pageBytes)
	page := first + int(sl.fresh)*(sl.class.sizeBytes/pageBytes)
	b := &a.bufs[page]
	b.slab, b.arena, b.next = sl, a, nil // next may be left from an earlier cut
	b.mem = a.mem.page(page)
	b.order = sl.fresh
	sl.fresh++
	return b
}

// giveBack returns b to its slab; it panics when b is not out.
func (a *Arena) giveBack(b *Buf) {
	sl := b.slab
	s := sl.shard
	s.Lock()
	if b.state != stateOut {
		s.Unlock()
		b.badRelease()
	}
	b.state = stateFree
	sl.pushLocked(b)
	s.used--
	sl.freeCount++
	if !sl.linked {
		s.linkLocked(sl)
	} else if sl.idleLocked() && (s.partial != sl || sl.next != nil) {
		// The shard has another slab to serve from.
		s.unlinkLocked(sl)
		s.slabs--
		a.empty.Lock()
		sl.next, a.empty.list = a.empty.list, sl
		a.empty.Unlock()
	}
	s.Unlock()
}

// idleLocked reports whether no buffer of the slab is out.
func (sl *slab) idleLocked() bool { return sl.freeCount == sl.class.perSlab }

// linkLocked puts sl first in line.
func (s *shard) linkLocked(sl *slab) {
	sl.prev, sl.next = nil, s.partial
	if s.partial != nil {
		s.partial.prev = sl
	}
	s.partial = sl
	sl.linked = true
}

// unlinkLocked takes sl out of line.
func (s *shard) unlinkLocked(sl *slab) {
	if sl.prev != nil {
		sl.prev.next = sl.next
	} else {
		s.partial = sl.next
	}
	if sl.next != nil {
		sl.next.prev = sl.prev
	}
	sl.prev, sl.next = nil, nil
	sl.linked = false
}

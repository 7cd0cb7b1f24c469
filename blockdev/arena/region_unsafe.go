package arena

import (
	"fmt"
	"unsafe"
)

// Region is a part of the arena that one owner keeps for long: contiguous,
// aligned to 2 MiB and a multiple of it, not cut into buffers. It is for
// memory that is registered with the kernel as a whole, such as a UMEM.
type Region struct {
	arena *Arena
	first int // slab
	slabs int // 0 once released
}

// Reserve takes n bytes, rounded up to 2 MiB, from what no class uses now. It
// fails with ErrExhausted when so much contiguous memory is not there, as can
// be later in the arena's life: regions are best reserved at start.
func (a *Arena) Reserve(n int) (*Region, error) {
	if n <= 0 || n > len(a.slabs)*slabBytes {
		return nil, fmt.Errorf("arena: reserve %d bytes: want 1 to %d, the arena's size", n, len(a.slabs)*slabBytes)
	}
	slabs := (n + slabBytes - 1) / slabBytes
	e := &a.empty
	e.Lock()
	defer e.Unlock()
	first := a.findRunLocked(slabs)
	if first < 0 {
		return nil, fmt.Errorf("arena: reserve %d MiB of %d: %w", slabs*slabBytes>>20, len(a.slabs)*slabBytes>>20, ErrExhausted)
	}
	for i := first; i < first+slabs; i++ {
		a.slabs[i].reserved = true
	}
	for at := &e.list; *at != nil; {
		if sl := *at; sl.reserved {
			*at, sl.next = sl.next, nil
		} else {
			at = &sl.next
		}
	}
	e.reserved += slabs
	return &Region{arena: a, first: first, slabs: slabs}, nil
}

// findRunLocked returns the start of the last run of n slabs that nobody has,
// or -1. The last, so that buffers and regions grow towards each other.
func (a *Arena) findRunLocked(n int) int {
	idle := make([]bool, len(a.slabs))
	for sl := a.empty.list; sl != nil; sl = sl.next {
		idle[slabIndex(a.slabs, sl)] = true
	}
	for i := a.empty.fresh; i < len(a.slabs); i++ {
		idle[i] = !a.slabs[i].reserved
	}
	run := 0
	for i := len(idle) - 1; i >= 0; i-- {
		if run++; !idle[i] {
			run = 0
		}
		if run == n {
			return i
		}
	}
	return -1
}

// Bytes is the memory, with whatever was there before. Valid until Release.
func (r *Region) Bytes() []byte {
	if r.slabs == 0 {
		panic("arena: Bytes of a region after its Release")
	}
	return unsafe.Slice((*byte)(r.arena.mem.page(r.first*(slabBytes/pageBytes))), r.slabs*slabBytes)
}

// Release gives the region back; the kernel must have let go of it. A second
// Release panics.
func (r *Region) Release() {
	a, e := r.arena, &r.arena.empty
	e.Lock()
	defer e.Unlock()
	if r.slabs == 0 {
		panic("arena: second Release of a region")
	}
	for i := r.first; i < r.first+r.slabs; i++ {
		sl := &a.slabs[i]
		sl.reserved = false
		// The history of buffers that were there before does not hold any more.
		sl.debug = slabDebug{}
		if i < e.fresh {
			sl.next, e.list = e.list, sl
		}
	}
	e.reserved -= r.slabs
	r.slabs = 0
}

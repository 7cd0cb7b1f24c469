//go:build !linux

package arena

import (
	"errors"
	"unsafe"
)

// mapping is the memory of an arena.
type mapping struct {
	base   unsafe.Pointer // first byte used, aligned to 2 MiB
	kind   string         // Stats.HugePages
	reason string         // Stats.Reason
}

// page is the address of the n-th 4 KiB page.
func (m *mapping) page(n int) unsafe.Pointer {
	return unsafe.Add(m.base, n*pageBytes)
}

func (m *mapping) unmap() error {
	m.base = nil
	return nil
}

// mapMemory takes size bytes from the Go heap, a multiple of 2 MiB.
func mapMemory(size int, mode Mode) (mapping, error) {
	const reason = "huge pages are supported on Linux only"
	if mode == Require {
		return mapping{}, errors.New(reason)
	}
	mem := make([]byte, size+slabBytes)
	base := unsafe.Pointer(&mem[0])
	if over := uintptr(base) % slabBytes; over != 0 {
		base = unsafe.Add(base, slabBytes-over)
	}
	return mapping{base: base, kind: "none", reason: reason}, nil
}

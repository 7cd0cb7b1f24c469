//go:build linux && !race

package ram

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// regionBytes is how much is mapped at a time.
const regionBytes = 32 << 20

// mapRegion maps address space; pages come as they are written.
func mapRegion(hugePages bool) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, regionBytes, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mmap of %d bytes: %w", regionBytes, err)
	}
	if hugePages {
		// A kernel without transparent huge pages refuses; small ones do.
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	}
	return mem, nil
}

func unmapRegion(mem []byte) error {
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("ram: munmap of %d bytes: %w", len(mem), err)
	}
	return nil
}

// discard zeroes mem, which is whole pages, and gives them to the kernel.
func discard(mem []byte) {
	if unix.Madvise(mem, unix.MADV_DONTNEED) != nil {
		clear(mem)
	}
}

//go:build linux

package arena

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapping is the memory of an arena.
type mapping struct {
	whole  []byte         // as mapped, for munmap; nil after it
	base   unsafe.Pointer // first byte used, aligned to 2 MiB
	kind   string         // Stats.HugePages
	reason string         // Stats.Reason
}

// page is the address of the n-th 4 KiB page.
func (m *mapping) page(n int) unsafe.Pointer {
	return unsafe.Add(m.base, n*pageBytes)
}

func (m *mapping) unmap() error {
	if m.whole == nil {
		return nil
	}
	if err := unix.Munmap(m.whole); err != nil {
		return fmt.Errorf("munmap of %d bytes: %w", len(m.whole), err)
	}
	m.whole, m.base = nil, nil
	return nil
}

// mapMemory maps size bytes, a multiple of 2 MiB.
func mapMemory(size int, mode Mode) (mapping, error) {
	var why string
	if mode != Off {
		// Without MAP_NORESERVE the kernel sets the pages aside now, so a
		// later touch can't end in SIGBUS.
		const flags = unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_HUGETLB | 21<<unix.MAP_HUGE_SHIFT
		mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
		if err == nil {
			return mapping{whole: mem, base: unsafe.Pointer(&mem[0]), kind: "hugetlb"}, nil
		}
		why = noHugetlb(err, size)
		if mode == Require {
			return mapping{}, errors.New(why)
		}
	}
	mem, err := unix.Mmap(-1, 0, size+slabBytes, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return mapping{}, fmt.Errorf("mmap of %d bytes: %w", size, err)
	}
	base := unsafe.Pointer(&mem[0])
	if over := uintptr(base) % slabBytes; over != 0 {
		base = unsafe.Add(base, slabBytes-over)
	}
	m := mapping{whole: mem, base: base, kind: "none"}
	if mode == Off {
		m.reason = "huge pages are turned off in the configuration"
		return m, nil
	}
	if thp := noTransparent(mem); thp != "" {
		m.reason = why + "; " + thp
	} else {
		m.kind, m.reason = "thp", why
	}
	return m, nil
}

// noHugetlb says why there are no reserved huge pages, and what to do.
func noHugetlb(err error, size int) string {
	if errors.Is(err, unix.ENOMEM) {
		return fmt.Sprintf("not enough free 2 MiB huge pages for %d MiB: run `sysctl vm.nr_hugepages=%d` and start again",
			size>>20, size/slabBytes)
	}
	return fmt.Sprintf("no 2 MiB huge pages (mmap: %v): the kernel lacks hugetlbfs or forbids it here", err)
}

// noTransparent asks for transparent huge pages and says why that is vain,
// or "".
func noTransparent(mem []byte) string {
	const path = "/sys/kernel/mm/transparent_hugepage/enabled"
	if s, err := os.ReadFile(path); err == nil && strings.Contains(string(s), "[never]") {
		return "transparent huge pages are off too: run `echo madvise > " + path + "`"
	}
	if err := unix.Madvise(mem, unix.MADV_HUGEPAGE); err != nil {
		return fmt.Sprintf("transparent huge pages are refused too (madvise: %v)", err)
	}
	return ""
}

package pump

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// newMemory maps n bytes in huge pages where there are any, and touches them.
func newMemory(n int64) ([]byte, error) {
	if n > 1<<40 {
		return nil, fmt.Errorf("pump: %d bytes of memory: give at most 1 TiB", n)
	}
	mem, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("pump: %d bytes of memory: %w", n, err)
	}
	if err := unix.Madvise(mem, unix.MADV_HUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: a kernel without them
		return nil, errors.Join(err, unix.Munmap(mem))
	}
	for i := range min(len(mem), 4096) {
		mem[i] = byte(i * 7)
	}
	for n := 4096; n < len(mem); n *= 2 {
		copy(mem[n:], mem[:n])
	}
	return mem, nil
}

// source is what the replies of one connection are.
type source struct {
	mem    []byte
	unit   int
	places uint64
	rnd    *rand.PCG
}

// sources numbers them, so that no two connections read the same places.
var sources atomic.Uint64

func newSource(mem []byte, unit int) source {
	return source{mem, unit, uint64(len(mem) / unit), rand.NewPCG(sources.Add(1), 1)}
}

// next is one reply.
func (s *source) next() []byte {
	at := 0
	if s.places > 1 {
		at = int(s.rnd.Uint64()%s.places) * s.unit
	}
	return s.mem[at : at+s.unit]
}

// sender sends replies without blocking.
type sender struct {
	from source
	list [][]byte // replies, of which those before first are out
	// first is not out in full.
	first int
}

func (s *sender) add(units int) {
	for range units {
		s.list = append(s.list, s.from.next())
	}
}

func (s *sender) empty() bool { return s.first == len(s.list) }

// vectors lists at most n of what is to be sent.
func (s *sender) vectors(n int) [][]byte { return s.list[s.first:min(s.first+n, len(s.list))] }

// wrote takes note of n bytes that are out.
func (s *sender) wrote(n int) {
	for n > 0 && n >= len(s.list[s.first]) {
		n -= len(s.list[s.first])
		s.first++
	}
	if s.empty() {
		s.list, s.first = s.list[:0], 0
		return
	}
	s.list[s.first] = s.list[s.first][n:]
}

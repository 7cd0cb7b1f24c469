// Package umem holds the memory that AF_XDP sockets and the kernel share: one
// region of the arena's huge pages, registered once (UMEM), cut into shares of
// 4 KiB chunks, one share for each queue that uses it.
//
// A share belongs to one queue's pump, which says what each of its chunks is
// used for (afxdp/queue), so nothing is locked when packets move. Addresses in
// rings count from the start of the UMEM.
//
// The kernel takes no chunk larger than a page. Frames that are larger lie in
// adjacent chunks.
package umem

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"blockd.dev/blockdev/arena"
)

// ChunkBytes is the size of a chunk, and its alignment in memory.
const ChunkBytes = 4096

// UMEM is memory for the sockets of several queues, of one NIC or more. Its
// methods may be called from any goroutine.
type UMEM struct {
	region *arena.Region

	mu struct {
		sync.Mutex
		taken   []bool    // by chunk
		sockets []Binding // oldest first
		closed  bool
	}
}

// New reserves memory for the given number of chunks, rounded up to a multiple
// of 2 MiB; the arena lends it until Close.
func New(a *arena.Arena, chunks int) (*UMEM, error) {
	if chunks <= 0 {
		return nil, fmt.Errorf("umem: %d chunks; want 1 or more", chunks)
	}
	region, err := a.Reserve(chunks * ChunkBytes)
	if err != nil {
		return nil, fmt.Errorf("umem of %d chunks: %w", chunks, err)
	}
	u := &UMEM{region: region}
	u.mu.taken = make([]bool, len(region.Bytes())/ChunkBytes)
	return u, nil
}

// Bytes is the whole memory, what is registered with the kernel. Valid until
// Close.
func (u *UMEM) Bytes() []byte { return u.region.Bytes() }

// ErrFull is returned by Cut when no run of free chunks is long enough.
var ErrFull = errors.New("umem: no room for another queue; make it larger or close a queue first")

// Cut takes the first run of free chunks that is long enough.
func (u *UMEM) Cut(chunks int) (*Share, error) {
	if chunks <= 0 {
		return nil, fmt.Errorf("umem: a share of %d chunks; want 1 or more", chunks)
	}
	m := &u.mu
	m.Lock()
	defer m.Unlock()
	run := 0
	for i := range m.taken {
		if run++; m.taken[i] {
			run = 0
		}
		if run == chunks {
			first := i + 1 - chunks
			for j := first; j <= i; j++ {
				m.taken[j] = true
			}
			return &Share{umem: u, first: first, chunks: chunks}, nil
		}
	}
	return nil, fmt.Errorf("%w: %d chunks wanted of %d", ErrFull, chunks, len(m.taken))
}

// Binding is a socket that is bound on a UMEM.
type Binding struct {
	FD          int
	MultiBuffer bool // frames may take several chunks; all sockets alike
}

// Bind runs open, which makes and binds one more socket on this memory. It
// passes a socket that is bound already, for XDP_SHARED_UMEM, or nil for the
// first, which has to register the memory. One open runs at a time.
func (u *UMEM) Bind(open func(shared *Binding) (Binding, error)) error {
	m := &u.mu
	m.Lock()
	defer m.Unlock()
	if m.closed {
		return errors.New("umem: closed")
	}
	var shared *Binding
	if len(m.sockets) > 0 {
		shared = &m.sockets[0]
	}
	b, err := open(shared)
	if err != nil {
		return err
	}
	m.sockets = append(m.sockets, b)
	return nil
}

// Unbind runs closeSocket, which closes fd, and forgets fd before another
// socket may be shared with it. The kernel keeps the registration as long as
// any socket has it.
func (u *UMEM) Unbind(fd int, closeSocket func() error) error {
	m := &u.mu
	m.Lock()
	defer m.Unlock()
	m.sockets = slices.DeleteFunc(m.sockets, func(b Binding) bool { return b.FD == fd })
	return closeSocket()
}

// Close gives the memory back to the arena. It fails, and changes nothing,
// while a socket is bound or a share is out: the kernel may still write there.
func (u *UMEM) Close() error {
	m := &u.mu
	m.Lock()
	defer m.Unlock()
	if n := len(m.sockets); n > 0 {
		return fmt.Errorf("umem: close: %d sockets are still bound to it", n)
	}
	if slices.Contains(m.taken, true) {
		return errors.New("umem: close: a queue still has its share")
	}
	if !m.closed {
		m.closed = true
		u.region.Release()
	}
	return nil
}

// Share is a run of chunks that one queue has.
type Share struct {
	umem   *UMEM
	first  int
	chunks int
}

// Base is the address of the first chunk, from the start of the UMEM.
func (s *Share) Base() uint64 { return uint64(s.first) * ChunkBytes }

// Bytes is the memory of the share. Valid until Release.
func (s *Share) Bytes() []byte {
	return s.umem.region.Bytes()[s.first*ChunkBytes:][: s.chunks*ChunkBytes : s.chunks*ChunkBytes]
}

// Release gives the chunks back. The socket that used them must be closed. A
// second Release does nothing.
func (s *Share) Release() {
	m := &s.umem.mu
	m.Lock()
	defer m.Unlock()
	for i := s.first; i < s.first+s.chunks; i++ {
		m.taken[i] = false
	}
	s.chunks = 0
}

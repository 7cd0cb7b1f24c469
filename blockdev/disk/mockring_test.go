package disk

import (
	"math/rand/v2"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"blockd.dev/blockdev/uring"
)

// mockRing is a kernel that the tests own: requests run on memory, and fate
// decides what each is answered.
type mockRing struct {
	fate func(e *uring.SQE, want int) int32 // the CQE's Res; may say that less was moved
	// enter, when set, may refuse an Enter that submits, or limit what it takes.
	enter func(n uint32) (uint32, syscall.Errno)

	mu     sync.Mutex
	ready  sync.Cond
	medium []byte
	sqes   []uring.SQE // filled
	seen   int         // of sqes, published
	cqes   []uring.CQE
	size   int
}

func newMockRing(sizeBytes, entries int) *mockRing {
	m := &mockRing{medium: make([]byte, sizeBytes), size: entries, sqes: make([]uring.SQE, 0, entries)}
	m.ready.L = &m.mu
	return m
}

func (m *mockRing) Next() *uring.SQE {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.sqes) == m.size {
		return nil
	}
	m.sqes = append(m.sqes, uring.SQE{})
	return &m.sqes[len(m.sqes)-1]
}

func (m *mockRing) Publish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = len(m.sqes)
}

func (m *mockRing) Enter(submit, wait uint32) (int, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := min(submit, uint32(m.seen))
	if submit > 0 && m.enter != nil {
		var errno syscall.Errno
		if n, errno = m.enter(n); errno != 0 {
			return 0, errno
		}
	}
	for i := range n {
		m.cqes = append(m.cqes, uring.CQE{UserData: m.sqes[i].UserData, Res: m.run(&m.sqes[i])})
	}
	m.sqes = m.sqes[:copy(m.sqes, m.sqes[n:])]
	m.seen -= int(n)
	m.ready.Broadcast()
	for len(m.cqes) < int(wait) {
		m.ready.Wait()
	}
	return int(n), 0
}

func (m *mockRing) run(e *uring.SQE) int32 {
	bufs := segments(e)
	want := 0
	for _, b := range bufs {
		want += len(b)
	}
	res := int32(want)
	if m.fate != nil {
		res = m.fate(e, want)
	}
	left := max(res, 0)
	at := m.medium[min(e.Off, uint64(len(m.medium))):]
	for _, b := range bufs {
		b = b[:min(int(left), len(b))]
		if e.Opcode == uring.OpRead || e.Opcode == uring.OpReadv {
			copy(b, at)
		} else {
			copy(at, b)
		}
		at, left = at[len(b):], left-int32(len(b))
	}
	return res
}

// segments is the memory that a read or write names.
func segments(e *uring.SQE) [][]byte {
	at := *(*unsafe.Pointer)(unsafe.Pointer(&e.Addr))
	switch e.Opcode {
	case uring.OpRead, uring.OpWrite:
		return [][]byte{unsafe.Slice((*byte)(at), e.Len)}
	case uring.OpReadv, uring.OpWritev:
		var out [][]byte
		for _, v := range unsafe.Slice((*unix.Iovec)(at), e.Len) {
			out = append(out, unsafe.Slice(v.Base, v.Len))
		}
		return out
	}
	return nil
}

func (m *mockRing) Ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.cqes) > 0
}

func (m *mockRing) Reap(dst []uring.CQE) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	// Requests in flight together complete in any order: take the newest first.
	n := 0
	for ; n < len(dst) && len(m.cqes) > 0; n++ {
		dst[n] = m.cqes[len(m.cqes)-1]
		m.cqes = m.cqes[:len(m.cqes)-1]
	}
	return n
}

func (m *mockRing) FD() int { return -1 }

func (m *mockRing) UnregisterFiles() error { return nil }

func (m *mockRing) Close() error { return nil }

// mischief answers as the kernel may on a bad day: interrupted, to be tried
// again, cancelled, and above all short, at any sector.
func mischief(seed uint64) func(*uring.SQE, int) int32 {
	rng := rand.New(rand.NewPCG(seed, 0))
	return func(_ *uring.SQE, want int) int32 {
		switch rng.IntN(8) {
		case 0:
			return -int32(syscall.EINTR)
		case 1:
			return -int32(syscall.EAGAIN)
		case 2:
			return -int32(syscall.ECANCELED)
		case 3, 4, 5:
			if want > SectorBytes {
				return int32(1+rng.IntN(want/SectorBytes-1)) * SectorBytes
			}
		}
		return int32(want)
	}
}

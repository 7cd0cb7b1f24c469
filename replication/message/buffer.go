package message

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev/arena"
	"blockd.dev/replication/wire"
)

// Buffer is memory for data on its way, with a count of those who still look
// at it: the op it belongs to, each send of it that is under way. Whoever holds
// it last gives it back; so a host that was told of a timeout, and a
// connection that still sends, never meet in it.
type Buffer struct {
	data  []byte
	class int
	huge  *arena.Buf // that data is of; nil for memory of pools
	refs  atomic.Int32
}

const (
	classMin = 12 // 4 KiB; Go aligns what is a power of two from there on to 4 KiB
	classes  = 10 // up to 2 MiB
)

var pools [classes]sync.Pool

// Buffers of more than largeMin bytes, which are those of copies, come from huge pages as long as there are any: the kernel
// finds the pages of a read or write of 512 KiB at once rather than one by one, and nothing is cleared or given
// back between two of them. A disk that is emptied has some 16 MiB of them in use.
const (
	largeMin   = 256 << 10
	largeBytes = 64 << 20 // of address space; what was used once stays
)

// large is mapped when the first is asked for; nil where that fails.
var large = sync.OnceValue(func() *arena.Arena {
	a, err := arena.New(arena.Config{SizeBytes: largeBytes})
	if err != nil {
		return nil
	}
	return a
})

// getLarge returns nil when all are in use, or n is more than the largest.
func getLarge(n int) *Buffer {
	a := large()
	if a == nil {
		return nil
	}
	h := a.Get(n)
	if h == nil {
		return nil
	}
	b := &Buffer{data: h.Bytes()[:n], huge: h}
	b.refs.Store(1)
	return b
}

// GetBuffer returns a buffer of n bytes, held once. Its content is whatever
// was there before.
func GetBuffer(n int) *Buffer {
	if n > largeMin {
		if b := getLarge(n); b != nil {
			return b
		}
	}
	class := max(0, bits.Len(uint(max(n, 1)-1))-classMin)
	b, _ := pools[class].Get().(*Buffer)
	if b == nil {
		b = &Buffer{data: make([]byte, 1<<(class+classMin)), class: class}
	}
	b.data = b.data[:n]
	b.refs.Store(1)
	return b
}

// Alloc is for wire.Config: memory for messages that arrive.
func Alloc(n int) wire.Buffer { return GetBuffer(n) }

// Bytes is the memory, until the holder's Release.
func (b *Buffer) Bytes() []byte { return b.data }

// Hold is for somebody else to look at it, too. The caller holds it.
func (b *Buffer) Hold() { b.refs.Add(1) }

// Release ends what GetBuffer or Hold began.
func (b *Buffer) Release() {
	switch n := b.refs.Add(-1); {
	case n < 0:
		panic("message: a buffer was released more often than it was held")
	case n == 0 && b.huge != nil:
		b.huge.Release()
	case n == 0:
		pools[b.class].Put(b)
	}
}

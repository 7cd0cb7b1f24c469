package arena

import (
	"fmt"
	"unsafe"
)

// Buf is the owning handle of one buffer. It must not be copied.
type Buf struct {
	arena *Arena
	slab  *slab
	next  *Buf           // in slab.free
	mem   unsafe.Pointer // first byte, outside the Go heap
	n     int32          // bytes asked for
	order int32          // which buffer of its slab
	state bufState       // belongs to the slab's shard
}

// bufState says who has the buffer.
type bufState uint8

const (
	stateFree bufState = iota
	stateOut
)

// Bytes is the memory: as many bytes as were asked for, aligned to 4 KiB.
// Valid until Release.
func (b *Buf) Bytes() []byte {
	b.check("Bytes")
	return unsafe.Slice((*byte)(b.mem), b.slab.class.sizeBytes)[:b.n]
}

// Cap is the size of the buffer's class in bytes, at least len(Bytes()).
func (b *Buf) Cap() int {
	b.check("Cap")
	return b.slab.class.sizeBytes
}

// SetLen changes the length of Bytes to n, at most Cap.
func (b *Buf) SetLen(n int) {
	b.check("SetLen")
	if n < 0 || n > b.slab.class.sizeBytes {
		panic(fmt.Sprintf("arena: SetLen(%d) on a buffer of %d bytes", n, b.slab.class.sizeBytes))
	}
	b.n = int32(n)
}

// Release ends the loan. The caller must not touch the handle or the memory
// again. A second Release panics.
func (b *Buf) Release() {
	b.returning()
	b.arena.giveBack(b)
}

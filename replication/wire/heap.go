package wire

// heapAlloc is the Config.Alloc of who has no arena. Go's size classes that are
// multiples of 4 KiB start at such multiples.
func heapAlloc(n int) Buffer {
	if n < alignment {
		return heapBuffer(make([]byte, n))
	}
	return heapBuffer(make([]byte, n, (n+alignment-1)&^(alignment-1)))
}

// alignment in bytes of messages that are at least as long.
const alignment = 4096

// heapBuffer is memory of the Go heap.
type heapBuffer []byte

func (b heapBuffer) Bytes() []byte { return b }
func (b heapBuffer) Release()      {}

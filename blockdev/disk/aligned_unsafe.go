package disk

import "unsafe"

// NewAligned returns n bytes of Go memory whose address is a multiple of
// BlockBytes, as IO.Bufs wants it. It is for tools, tests and small metadata
// buffers; data that moves at speed comes from the arena.
func NewAligned(n int) []byte {
	b := make([]byte, n+BlockBytes)
	skip := int(-addr(b) & (BlockBytes - 1))
	return b[skip : skip+n : skip+n]
}

// addr is where b's memory starts. The Go heap does not move objects, so the
// alignment it shows stays true.
func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

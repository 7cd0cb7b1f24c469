package arena

import "unsafe"

// stackHash differs between goroutines and is mostly the same for one: it is
// made from the address of the stack, at the 8 KiB that most stacks fit in.
func stackHash() uint32 {
	var here byte
	p := uint64(uintptr(unsafe.Pointer(&here))) >> 13
	return uint32(p * 0x9E3779B97F4A7C15 >> 40)
}

// slabIndex is the position of sl in slabs.
func slabIndex(slabs []slab, sl *slab) int {
	return int((uintptr(unsafe.Pointer(sl)) - uintptr(unsafe.Pointer(&slabs[0]))) / unsafe.Sizeof(*sl))
}

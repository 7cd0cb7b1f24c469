package store

import (
	"hash/crc32"
	"unsafe"
)

// sgSlice appends the segments of data that cover [off, off+n) to dst. aligned
// is false when one of them can't go to the disk without a copy.
func sgSlice(dst [][]byte, data [][]byte, off, n int) (_ [][]byte, aligned bool) {
	aligned = true
	for _, p := range data {
		if n == 0 {
			break
		}
		if off >= len(p) {
			off -= len(p)
			continue
		}
		q := p[off:min(len(p), off+n)]
		off = 0
		n -= len(q)
		if len(q)%BlockBytes != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(q)))%BlockBytes != 0 {
			aligned = false
		}
		dst = append(dst, q)
	}
	return dst, aligned
}

// sgCopyOut copies [off, off+len(dst)) of data to dst.
func sgCopyOut(dst []byte, data [][]byte, off int) {
	for _, p := range data {
		if len(dst) == 0 {
			return
		}
		if off >= len(p) {
			off -= len(p)
			continue
		}
		n := copy(dst, p[off:])
		dst, off = dst[n:], 0
	}
}

// sgCopyIn copies src to data at off.
func sgCopyIn(data [][]byte, off int, src []byte) {
	for _, p := range data {
		if len(src) == 0 {
			return
		}
		if off >= len(p) {
			off -= len(p)
			continue
		}
		n := copy(p[off:], src)
		src, off = src[n:], 0
	}
}

// sgCRC is the CRC32C of [off, off+n) of data.
func sgCRC(data [][]byte, off, n int) (crc uint32) {
	for _, p := range data {
		if n == 0 {
			break
		}
		if off >= len(p) {
			off -= len(p)
			continue
		}
		q := p[off:min(len(p), off+n)]
		off = 0
		n -= len(q)
		crc = crc32.Update(crc, castagnoli, q)
	}
	return crc
}

func sgZero(data [][]byte, off, n int) {
	for _, p := range data {
		if n == 0 {
			return
		}
		if off >= len(p) {
			off -= len(p)
			continue
		}
		q := p[off:min(len(p), off+n)]
		off = 0
		n -= len(q)
		clear(q)
	}
}

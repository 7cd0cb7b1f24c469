package ram

import "unsafe"

const _ = uint(64-unsafe.Sizeof(chunk{})) + uint(unsafe.Sizeof(chunk{})-64) // it fills a line

//go:build !amd64

package ram

// prefetch leaves it to the processor.
func prefetch(*byte, int) {}

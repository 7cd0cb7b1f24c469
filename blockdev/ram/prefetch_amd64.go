package ram

// prefetch asks for n bytes at p, more than 0, to be brought into the
// processor's cache.
//
//go:noescape
func prefetch(p *byte, n int)

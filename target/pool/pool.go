// Package pool keeps the structs of one connection's commands, from the
// arrival of a command until nobody holds it any more. One goroutine takes
// structs, the connection's reader; any may give them back, which takes no
// lock. There are as many as were ever needed at once, up to a limit: a peer
// that has that many commands under way breaks its protocol.
package pool

import "sync/atomic"

// Item is a pointer to a struct that a Pool can link.
type Item[T any] interface {
	*T
	// Next is a field for the pool to use while it has the struct.
	Next() **T
}

// Pool is a set of structs. The zero value has none and, as its limit is 0,
// lends none. Get, SetLimit and Wait belong to one goroutine.
type Pool[T any, I Item[T]] struct {
	limit, made int
	free        *T // the taker's

	back   atomic.Pointer[T] // given back, the last one first
	out    atomic.Int64
	ending atomic.Bool
	empty  chan struct{} // told of when out falls to 0 after ending
}

// SetLimit bounds how many structs there are.
func (p *Pool[T, I]) SetLimit(n int) { p.limit = n }

// Get lends a struct that was given back. When there is none it returns nil,
// and an index that counts from 1 if the caller is to make one more, which is
// lent then; 0 means that the limit is reached.
func (p *Pool[T, I]) Get() (item *T, index int) {
	if p.free == nil {
		p.free = p.back.Swap(nil)
	}
	if item = p.free; item != nil {
		next := I(item).Next()
		p.free, *next = *next, nil
		p.out.Add(1)
		return item, 0
	}
	if p.made >= p.limit {
		return nil, 0
	}
	p.made++
	p.out.Add(1)
	return nil, p.made
}

// Put gives a struct back. Any goroutine may call it; the struct is the pool's
// from then on.
func (p *Pool[T, I]) Put(item *T) {
	next := I(item).Next()
	for {
		head := p.back.Load()
		*next = head
		if p.back.CompareAndSwap(head, item) {
			break
		}
	}
	if p.out.Add(-1) == 0 && p.ending.Load() {
		select {
		case p.empty <- struct{}{}:
		default: // it has been told
		}
	}
}

// InUse is how many structs are lent now. Any goroutine may call it.
func (p *Pool[T, I]) InUse() int { return int(p.out.Load()) }

// Wait blocks until every struct is back. Nothing may be taken any more.
func (p *Pool[T, I]) Wait() {
	p.empty = make(chan struct{}, 1)
	p.ending.Store(true)
	// Whoever gives back the last one sees ending, or this sees that it has.
	if p.out.Load() > 0 {
		<-p.empty
	}
}

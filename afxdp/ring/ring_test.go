package ring_test

import (
	"runtime"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"blockd.dev/afxdp/ring"
	"blockd.dev/afxdp/ring/ringtest"
)

// heap makes a ring on the heap whose indexes start at first.
func heap[T any](entries int, first uint32) ring.Memory[T] {
	w := [3]uint32{first, first, 0}
	return ring.Memory[T]{ProducerIndex: &w[0], ConsumerIndex: &w[1], Flags: &w[2], Entries: make([]T, entries)}
}

// TestRingIsAQueue compares both sides with a slice, with starting indexes near
// the wrap at 2^32 as well as anywhere.
func TestRingIsAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := 1 << rapid.IntRange(0, 5).Draw(t, "log size")
		first := rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(1<<32-40, 1<<32-1)).Draw(t, "first index")
		m := heap[uint64](size, first)
		p, c := ring.NewProducer(m), ring.NewConsumer(m)
		if p.Size() != size || c.Size() != size {
			t.Fatalf("sizes %d and %d, want %d", p.Size(), c.Size(), size)
		}
		var pushed, published, popped, released, next uint64
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				want := rapid.Uint32Range(1, uint32(size)).Draw(t, "want")
				free := p.Free(want)
				real := uint64(size) - (pushed - released)
				// Free may know of less than there is, but not when that is less than want.
				if uint64(free) > real || uint64(free) < min(real, uint64(want)) {
					t.Fatalf("Free(%d) = %d with %d free", want, free, real)
				}
				for range min(free, want) {
					p.Push(next)
					next++
					pushed++
				}
			},
			"publish": func(*rapid.T) { p.Publish(); published = pushed },
			"pop": func(t *rapid.T) {
				n := c.Available()
				if uint64(n) > published-popped || n == 0 && published > popped {
					t.Fatalf("Available() = %d with %d there", n, published-popped)
				}
				for range rapid.Uint32Range(0, n).Draw(t, "pops") {
					if got := c.Pop(); got != popped {
						t.Fatalf("popped %d, want %d", got, popped)
					}
					popped++
				}
			},
			"release": func(*rapid.T) { c.Release(); released = popped },
			"": func(t *rapid.T) {
				if got := uint64(p.Unconsumed()); got != published-released {
					t.Fatalf("Unconsumed() = %d, want %d", got, published-released)
				}
			},
		})
	})
}

// TestNeedsWakeupFollowsTheFlag: bit 0 and no other.
func TestNeedsWakeupFollowsTheFlag(t *testing.T) {
	m := heap[uint64](2, 0)
	p := ring.NewProducer(m)
	for flags, want := range map[uint32]bool{0: false, 1: true, 2: false, 3: true} {
		atomic.StoreUint32(m.Flags, flags)
		if p.NeedsWakeup() != want {
			t.Errorf("flags %d: NeedsWakeup is not %v", flags, want)
		}
	}
	m.Flags = nil
	if p = ring.NewProducer(m); p.NeedsWakeup() {
		t.Error("a ring without flags needs a wake-up")
	}
}

// TestOddSizesPanic: the arithmetic holds for powers of two only.
func TestOddSizesPanic(t *testing.T) {
	for _, n := range []int{0, 3, 12} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a ring of %d entries was accepted", n)
				}
			}()
			ring.NewProducer(heap[uint64](n, 0))
		}()
	}
}

// TestZeroRingsHaveNothing: sockets without a direction have zero rings.
func TestZeroRingsHaveNothing(t *testing.T) {
	var p ring.Producer[uint64]
	var c ring.Consumer[uint64]
	if p.Free(1) != 0 || c.Available() != 0 {
		t.Error("a zero ring has room or entries")
	}
}

// TestOrderAcrossGoroutines has a real reader and writer on two goroutines:
// the race detector sees a missing barrier, the sums a lost or repeated entry.
func TestOrderAcrossGoroutines(t *testing.T) {
	const total = 20000
	m := heap[ring.Desc](8, 1<<32-1000)
	done := make(chan uint64)
	go func() {
		c := ring.NewConsumer(m)
		var sum, seen uint64
		for seen < total {
			n := c.Available()
			if n == 0 {
				// The test may have one core.
				runtime.Gosched()
			}
			for range n {
				d := c.Pop()
				if d.Addr != seen || d.Len != uint32(seen)*3 {
					t.Errorf("entry %d is %+v", seen, d)
				}
				sum += d.Addr
				seen++
			}
			c.Release()
		}
		done <- sum
	}()
	p := ring.NewProducer(m)
	for i := uint64(0); i < total; {
		n := p.Free(4)
		if n == 0 {
			runtime.Gosched()
		}
		for range min(n, 5) {
			if i < total {
				p.Push(ring.Desc{Addr: i, Len: uint32(i) * 3})
				i++
			}
		}
		p.Publish()
	}
	if got := <-done; got != total*(total-1)/2 {
		t.Errorf("the sum is %d", got)
	}
}

// TestSimulatedKernelCatchesMisuse proves that the simulation, on which other
// tests rely, can fail.
func TestSimulatedKernelCatchesMisuse(t *testing.T) {
	for name, misuse := range map[string]func(k *ringtest.Kernel){
		"chunk twice": func(k *ringtest.Kernel) {
			p := ring.NewProducer(k.TX.Memory())
			p.Push(ring.Desc{Addr: 0, Len: 1})
			p.Push(ring.Desc{Addr: 64, Len: 1})
			p.Publish()
			k.Transmit()
			k.Transmit()
		},
		"across chunks": func(k *ringtest.Kernel) {
			p := ring.NewProducer(k.TX.Memory())
			p.Push(ring.Desc{Addr: 4000, Len: 97})
			p.Publish()
			k.Transmit()
		},
		"unfinished frame": func(k *ringtest.Kernel) {
			p := ring.NewProducer(k.TX.Memory())
			p.Push(ring.Desc{Addr: 0, Len: 1, Options: ring.Continued})
			p.Publish()
			k.Transmit()
		},
		"outside": func(k *ringtest.Kernel) {
			p := ring.NewProducer(k.Fill.Memory())
			p.Push(4 * 4096)
			p.Publish()
			k.Receive([]byte{1})
		},
		"index ran away": func(k *ringtest.Kernel) {
			atomic.StoreUint32(k.Fill.Memory().ProducerIndex, 100)
			k.Receive([]byte{1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("was not noticed")
				}
			}()
			misuse(ringtest.New(ringtest.Config{Chunks: 4, Fill: 4, Completion: 4, RX: 4, TX: 4}))
		})
	}
}

func TestRingOperationsDoNotAllocate(t *testing.T) {
	m := heap[ring.Desc](4, 0)
	p, c := ring.NewProducer(m), ring.NewConsumer(m)
	if n := testing.AllocsPerRun(100, func() {
		p.Free(1)
		p.Push(ring.Desc{})
		p.Publish()
		p.NeedsWakeup()
		c.Available()
		c.Pop()
		c.Release()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

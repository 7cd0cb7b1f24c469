package rangelock

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// oracle is the same locking done dumbly: all locks in a row, in order of
// arrival; one is held when no earlier one conflicts.
type oracle []*Lock

func (o oracle) mayHold(l *Lock) bool {
	for _, e := range o {
		if e == l {
			return true
		}
		shared := e.Mode == Shared && l.Mode == Shared
		if !shared && max(e.Off, l.Off) < min(e.Off+e.Len, l.Off+l.Len) {
			return false
		}
	}
	panic("not in the row")
}

func (o oracle) without(l *Lock) oracle {
	return slices.DeleteFunc(slices.Clone(o), func(e *Lock) bool { return e == l })
}

// Any sequence of Acquire, Release and Cancel holds exactly the locks that
// the oracle holds, after every step.
func TestSameLocksAreHeldAsByTheOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table Table
		var row oracle
		holds := map[*Lock]bool{}
		grants := 0
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				l := &Lock{
					Off:  rapid.Int64Range(0, 40).Draw(t, "off"),
					Len:  rapid.Int64Range(0, 15).Draw(t, "len"),
					Mode: rapid.SampledFrom([]Mode{Shared, Exclusive}).Draw(t, "mode"),
				}
				l.Granted = func(got *Lock) {
					if got != l || holds[l] {
						t.Fatalf("wrong or second grant")
					}
					holds[l] = true
					grants++
				}
				row = append(row, l)
				if table.Acquire(l) {
					holds[l] = true
				}
			},
			"release": func(t *rapid.T) {
				var all []*Lock
				for _, l := range row {
					if holds[l] {
						all = append(all, l)
					}
				}
				if len(all) == 0 {
					return
				}
				l := rapid.SampledFrom(all).Draw(t, "held")
				row = row.without(l)
				delete(holds, l)
				table.Release(l)
			},
			"cancel": func(t *rapid.T) {
				if len(row) == 0 {
					return
				}
				l := rapid.SampledFrom(row).Draw(t, "any")
				was := holds[l]
				if table.Cancel(l) == was {
					t.Fatalf("Cancel of a lock with held=%v returned %v", was, !was)
				}
				if !was {
					row = row.without(l)
				}
			},
			"": func(t *rapid.T) {
				waiting := 0
				for _, l := range row {
					if holds[l] != row.mayHold(l) {
						t.Fatalf("lock %d+%d mode %d: held %v", l.Off, l.Len, l.Mode, holds[l])
					}
					if !holds[l] {
						waiting++
					}
				}
				if h, w := table.Count(); h != len(holds) || w != waiting {
					t.Fatalf("Count %d, %d; want %d, %d", h, w, len(holds), waiting)
				}
			},
		})
	})
}

func TestConflictingLocksAreGrantedInOrder(t *testing.T) {
	var table Table
	var order []string
	var locks []*Lock
	add := func(name string, off, n int64, m Mode) {
		l := &Lock{Off: off, Len: n, Mode: m, Granted: func(*Lock) { order = append(order, name) }}
		locks = append(locks, l)
		if table.Acquire(l) {
			order = append(order, name)
		}
	}
	add("A", 0, 10, Shared)
	add("B", 5, 10, Exclusive) // waits for A
	add("C", 0, 10, Shared)    // could share with A, but must not pass B
	add("D", 20, 5, Exclusive) // touches nobody
	add("E", 8, 1, Exclusive)  // waits for A, B, C
	if got := fmt.Sprint(order); got != "[A D]" {
		t.Fatal(got)
	}
	for i, want := range []string{"[A D B]", "[A D B C]", "[A D B C E]"} {
		table.Release(locks[i])
		if got := fmt.Sprint(order); got != want {
			t.Fatalf("after release %d: %s, want %s", i, got, want)
		}
	}
}

// A callback that releases at once hands the range down a long line.
func TestCallbacksMayRelease(t *testing.T) {
	var table Table
	const n = 2000
	count := 0
	first := &Lock{Len: 8, Mode: Exclusive}
	table.Acquire(first)
	for range n {
		l := &Lock{Len: 8, Mode: Exclusive, Granted: func(l *Lock) { count++; table.Release(l) }}
		if table.Acquire(l) {
			t.Fatal("granted beside an exclusive lock")
		}
	}
	table.Release(first)
	if h, w := table.Count(); count != n || h != 0 || w != 0 {
		t.Fatalf("%d grants, %d held, %d waiting", count, h, w)
	}
}

func TestMisusePanics(t *testing.T) {
	mustPanic := func(what string, f func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s did not panic", what)
			}
		}()
		f()
	}
	var table Table
	l := &Lock{Len: 8, Mode: Exclusive}
	mustPanic("Release of an idle lock", func() { table.Release(l) })
	mustPanic("negative range", func() { table.Acquire(&Lock{Off: -1, Len: 1}) })
	mustPanic("overflow", func() { table.Acquire(&Lock{Off: 1 << 62, Len: 1 << 62}) })
	table.Acquire(l)
	mustPanic("second Acquire", func() { table.Acquire(l) })
	w := &Lock{Len: 8, Granted: func(*Lock) {}}
	table.Acquire(w)
	mustPanic("Release of a waiting lock", func() { table.Release(w) })
	table.Release(l)
	table.Release(w)
}

// Under many goroutines no two conflicting locks are ever held together.
func TestExclusionUnderConcurrency(t *testing.T) {
	const cells, workers, rounds = 64, 8, 500
	var table Table
	var owners [cells]atomic.Int32 // -1 exclusive, n shared
	var wg sync.WaitGroup
	for g := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 11))
			granted := make(chan struct{}, 1)
			l := &Lock{Granted: func(*Lock) { granted <- struct{}{} }}
			for range rounds {
				l.Off = rng.Int64N(cells)
				l.Len = 1 + rng.Int64N(cells-l.Off)
				l.Mode = Mode(rng.IntN(2))
				if !table.Acquire(l) {
					<-granted
				}
				step := int32(1)
				if l.Mode == Exclusive {
					step = -1
				}
				for i := l.Off; i < l.end(); i++ {
					if v := owners[i].Add(step); l.Mode == Exclusive && v != -1 || l.Mode == Shared && v < 1 {
						t.Errorf("cell %d: %d owners for mode %d", i, v, l.Mode)
					}
				}
				for i := l.Off; i < l.end(); i++ {
					owners[i].Add(-step)
				}
				table.Release(l)
			}
		})
	}
	wg.Wait()
	if h, w := table.Count(); h != 0 || w != 0 {
		t.Fatalf("%d held, %d waiting at the end", h, w)
	}
}

func TestLocksDoNotAllocate(t *testing.T) {
	var table Table
	locks := make([]Lock, 64)
	for i := range locks {
		locks[i] = Lock{Off: int64(i%32) * 100, Len: 150, Mode: Exclusive, Granted: func(*Lock) {}}
	}
	if n := testing.AllocsPerRun(100, func() {
		for i := range locks {
			table.Acquire(&locks[i])
		}
		for left := len(locks); left > 0; {
			for i := range locks {
				if locks[i].state == held {
					table.Release(&locks[i])
					left--
				}
			}
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// One lock taken and released while as many others as a queue is deep are
// held beside it.
func BenchmarkUncontended(b *testing.B) {
	for _, others := range []int{0, 32, 256} {
		b.Run(fmt.Sprint(others, "-held"), func(b *testing.B) {
			var table Table
			for i := range others {
				table.Acquire(&Lock{Off: int64(i) * 8192, Len: 4096, Mode: Exclusive})
			}
			l := &Lock{Len: 4096, Mode: Exclusive}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				l.Off = int64(i%(others+1))*8192 + 4096
				i++
				if !table.Acquire(l) {
					b.Fatal("had to wait")
				}
				table.Release(l)
			}
		})
	}
}

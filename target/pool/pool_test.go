package pool

import (
	"sync"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type thing struct {
	index int
	next  *thing
	held  int // by how many, for tests
}

func (t *thing) Next() **thing { return &t.next }

type things = Pool[thing, *thing]

func take(p *things) *thing {
	t, index := p.Get()
	if index > 0 {
		t = &thing{index: index}
	}
	return t
}

// Whatever the order of takes and returns, a struct has one holder, no more
// are made than were needed at once, and the limit holds.
func TestEachStructHasOneHolder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p things
		limit := rapid.IntRange(0, 5).Draw(t, "limit")
		p.SetLimit(limit)
		var out []*thing
		most := 0
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			if len(out) > 0 && rapid.Bool().Draw(t, "back") {
				i := rapid.IntRange(0, len(out)-1).Draw(t, "which")
				out[i].held--
				p.Put(out[i])
				out = append(out[:i], out[i+1:]...)
			} else if x := take(&p); x != nil {
				if x.held++; x.held != 1 || x.next != nil {
					t.Fatalf("struct %d has %d holders and next %v", x.index, x.held, x.next)
				}
				out = append(out, x)
				most = max(most, len(out))
				if x.index > most {
					t.Fatalf("%d structs were made, %d were needed at once", x.index, most)
				}
			} else if len(out) != limit {
				t.Fatalf("refused with %d of %d out", len(out), limit)
			}
			if p.InUse() != len(out) || len(out) > limit {
				t.Fatalf("%d in use, %d are out, limit %d", p.InUse(), len(out), limit)
			}
		}
		for _, x := range out {
			p.Put(x)
		}
		p.Wait()
	})
}

// Structs come back from many goroutines while others are taken; Wait returns
// when the last is back.
func TestStructsComeBackFromAnywhere(t *testing.T) {
	var p things
	const limit, rounds, givers = 16, 20_000, 4
	p.SetLimit(limit)
	work := make(chan *thing, limit)
	var wg sync.WaitGroup
	for range givers {
		wg.Go(func() {
			for x := range work {
				x.held--
				p.Put(x)
			}
		})
	}
	for range rounds {
		x := take(&p)
		for x == nil { // all are on their way back
			x = take(&p)
		}
		if x.held++; x.held != 1 {
			t.Fatalf("struct %d has %d holders", x.index, x.held)
		}
		work <- x
	}
	close(work)
	p.Wait()
	if p.InUse() != 0 {
		t.Fatalf("%d are out after Wait", p.InUse())
	}
	wg.Wait()
}

func TestTakingAndGivingBackDoesNotAllocate(t *testing.T) {
	var p things
	p.SetLimit(4)
	p.Put(take(&p))
	if n := testing.AllocsPerRun(100, func() { p.Put(take(&p)) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkGetPut(b *testing.B) {
	var p things
	p.SetLimit(4)
	p.Put(take(&p))
	for b.Loop() {
		p.Put(take(&p))
	}
}

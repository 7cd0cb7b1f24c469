package inbox

import (
	"reflect"
	"slices"
	"sync"
	"testing"

	"blockd.dev/internal/turn"
)

// Every event is run once, one at a time, those of one goroutine in order, and
// a Post from Run does not recurse.
func TestEventsRunOneAtATimeInOrder(t *testing.T) {
	type event struct{ from, n int }
	const posters, events = 4, 2000
	var in Inbox[event]
	last := map[int]int{} // the race detector sees to it that only one looks
	depth, depthMax, extra := 0, 0, 0
	in.Run = func(batch []event) {
		depth++
		depthMax = max(depthMax, depth)
		for _, e := range batch {
			if last[e.from] != e.n-1 {
				t.Errorf("event %d of poster %d came after %d", e.n, e.from, last[e.from])
			}
			last[e.from] = e.n
			if e.from == 0 && extra < events {
				extra++
				in.Post(event{-1, extra})
			}
		}
		depth--
	}
	var all sync.WaitGroup
	for from := range posters {
		all.Go(func() {
			for n := 1; n <= events; n++ {
				in.Post(event{from, n})
			}
		})
	}
	all.Wait()
	in.Post(event{posters, 1}) // returns when nobody else is at work, or has seen to it
	for from := range posters {
		if last[from] != events {
			t.Errorf("poster %d: %d of %d events were run", from, last[from], events)
		}
	}
	if last[-1] != events || depthMax != 1 {
		t.Errorf("%d of %d events posted by Run, depth %d", last[-1], events, depthMax)
	}
}

// What PostSoon leaves is one batch at the end of the turn; without a turn it is done at once, and a Post
// takes along what was left.
func TestEventsThatAreLeftAreOneBatch(t *testing.T) {
	var in Inbox[int]
	var batches [][]int
	in.Run = func(batch []int) { batches = append(batches, slices.Clone(batch)) }
	var now turn.Turn
	now.Begin()
	in.PostSoon(1, now.Leave)
	in.PostSoon(2, now.Leave)
	in.PostSoon(3, now.Leave)
	if len(batches) != 0 {
		t.Fatalf("%v was run before the end of the turn", batches)
	}
	now.End()
	in.PostSoon(4, now.Leave)
	in.PostSoon(5, nil)
	now.Begin()
	in.PostSoon(6, now.Leave)
	in.Post(7)
	now.End()
	if want := [][]int{{1, 2, 3}, {4}, {5}, {6, 7}}; !reflect.DeepEqual(batches, want) {
		t.Errorf("batches %v, want %v", batches, want)
	}
}

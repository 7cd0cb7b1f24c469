package turn

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

type task func()

func (t task) Do() { t() }

// TestTasksAreDoneInTheTurnTheyWereLeftTo: once, in order, with what they themselves leave; nothing
// is taken outside of a turn.
func TestTasksAreDoneInTheTurnTheyWereLeftTo(t *testing.T) {
	var turn Turn
	var done []string
	add := func(s string) task { return func() { done = append(done, s) } }
	if turn.Leave(add("too early")) {
		t.Error("a task was taken before the turn")
	}
	for round := range 3 {
		done = nil
		turn.Begin()
		turn.Leave(add("a"))
		turn.Leave(task(func() { turn.Leave(add("c")) }))
		turn.Leave(add("b"))
		if len(done) != 0 {
			t.Fatalf("done before the end: %v", done)
		}
		turn.Run()
		if want := []string{"a", "b", "c"}; !slices.Equal(done, want) {
			t.Fatalf("round %d: Run has done %v, want %v", round, done, want)
		}
		turn.Leave(add("d"))
		turn.End()
		if want := []string{"a", "b", "c", "d"}; !slices.Equal(done, want) {
			t.Fatalf("round %d: End has done %v, want %v", round, done, want)
		}
		if turn.Leave(add("too late")) {
			t.Error("a task was taken after the turn")
		}
	}
	Soon(nil).Do(add("nobody there"))
	Soon(turn.Leave).Do(add("over"))
	if !slices.Contains(done, "nobody there") || !slices.Contains(done, "over") {
		t.Errorf("done %v: what nobody takes is the caller's to do", done)
	}
}

// TestNothingTakenIsForgotten: tasks come from other goroutines while turns begin and end.
func TestNothingTakenIsForgotten(t *testing.T) {
	const each = 2000 // tasks that are taken of each poster's; it goes on until these are
	var turn Turn
	var done atomic.Int64
	var posters sync.WaitGroup
	for range 3 {
		posters.Go(func() {
			for taken := 0; taken < each; {
				if turn.Leave(task(func() { done.Add(1) })) {
					taken++
				}
			}
		})
	}
	stop := make(chan struct{})
	go func() { posters.Wait(); close(stop) }()
	for open := true; open; {
		select {
		case <-stop:
			open = false
		default:
		}
		turn.Begin()
		runtime.Gosched()
		turn.Run()
		turn.End()
		runtime.Gosched()
		turn.mu.Lock()
		late := len(turn.left)
		turn.mu.Unlock()
		if late > 0 {
			t.Fatalf("%d tasks were taken after the turn", late)
		}
	}
	if done.Load() != 3*each {
		t.Errorf("%d tasks were taken, %d done", 3*each, done.Load())
	}
}

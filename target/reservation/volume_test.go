package reservation

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// TestAllowsDoesNotAllocate: the check before every command is free of
// garbage, whether or not the volume is reserved.
func TestAllowsDoesNotAllocate(t *testing.T) {
	id, other := party("A"), party("B")
	for _, s := range samples(t) {
		v := NewVolume(s)
		if n := testing.AllocsPerRun(100, func() {
			v.Allows(&id, AccessWrite)
			v.Allows(&other, AccessRead)
		}); n != 0 {
			t.Errorf("%s: %v allocations", describe(s), n)
		}
	}
}

// TestWatchersSeeEveryChange in order and before Apply returns, and no more
// after stop.
func TestWatchersSeeEveryChange(t *testing.T) {
	var m Memory
	v, err := m.Volume(vol)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	stop := v.Watch(func(c *Change) {
		if c.State != v.State() {
			t.Error("told before it is in force")
		}
		seen = append(seen, describe(c.State))
	})
	other := 0
	stopOther := v.Watch(func(*Change) { other++ })
	mustApply(t, &m, "A register new=1")
	mustApply(t, &m, "A reserve key=9 type=we") // a conflict is no change
	mustApply(t, &m, "A reserve key=1 type=we")
	stop()
	mustApply(t, &m, "A clear key=1")
	stopOther()
	mustApply(t, &m, "A register new=1")
	if len(seen) != 2 || seen[0] != "gen 1: A=1" || seen[1] != "gen 1: A=1* (write exclusive)" || other != 3 {
		t.Fatalf("seen %q, the other %d", seen, other)
	}
	if err := m.Remove(vol); err != nil {
		t.Fatal(err)
	}
	if got := stateOf(t, &m); got != "gen 0:" {
		t.Fatalf("after removal: %s", got)
	}
}

// TestApplyWaitsForAborts: a preemption answers when every frontend has ended
// the tasks of the preempted, while other commands of the volume go on.
func TestApplyWaitsForAborts(t *testing.T) {
	for name, b := range map[string]Backend{"memory": &Memory{}, "local": open(t, t.TempDir())} {
		mustApply(t, b, "A register new=1")
		mustApply(t, b, "B register new=2")
		v, err := b.Volume(vol)
		if err != nil {
			t.Fatal(err)
		}
		releases := make(chan func(), 2)
		for range 2 { // as the two protocols do
			defer v.Watch(func(c *Change) {
				if len(c.Aborts) == 1 && c.Aborts[0] == party("A") {
					releases <- c.Hold()
				}
			})()
		}
		answered := make(chan Result)
		go func() {
			res, err := b.Apply(context.Background(), vol, command(t, "B preempt-abort key=2 new=1 type=we"))
			if err != nil {
				t.Error(err)
			}
			answered <- res
		}()
		first, second := <-releases, <-releases
		mustApply(t, b, "A register new=1") // not held up
		first()
		select {
		case <-answered:
			t.Fatalf("%s: answered while a task was running", name)
		default:
		}
		second()
		if res := <-answered; res.Status != StatusOK {
			t.Fatalf("%s: %v", name, res.Status)
		}
	}
}

// TestApplyDoesNotWaitForEver: a device that never completes what it was given
// keeps a preemption from being answered as done, but not for longer than the
// caller allows; the preempted party is out all the same.
func TestApplyDoesNotWaitForEver(t *testing.T) {
	for name, b := range map[string]Backend{"memory": &Memory{}, "local": open(t, t.TempDir())} {
		mustApply(t, b, "A register new=1")
		mustApply(t, b, "B register new=2")
		v, err := b.Volume(vol)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var release func()
		stop := v.Watch(func(c *Change) {
			release = c.Hold()
			cancel()
		})
		if _, err := b.Apply(ctx, vol, command(t, "B preempt-abort key=2 new=1 type=we")); !errors.Is(err, ErrUnfinished) {
			t.Errorf("%s: %v", name, err)
		}
		stop()
		if v.State().Find(party("A")) >= 0 {
			t.Errorf("%s: the preempted party is still registered", name)
		}
		release()
	}
}

// TestConcurrentUse lets strangers read while three registrants fight for a
// write exclusive reservation: they may read all the time, and the race
// detector sees nothing.
func TestConcurrentUse(t *testing.T) {
	var m Memory
	v, err := m.Volume(vol)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var readers, writers sync.WaitGroup
	for _, name := range []string{"Y", "Z"} {
		readers.Go(func() {
			id := party(name)
			for {
				select {
				case <-done:
					return
				default:
				}
				if !v.Allows(&id, AccessRead) {
					t.Error("write exclusive denies a read")
					return
				}
				v.State().Check()
			}
		})
	}
	for _, name := range []string{"A", "B", "C"} {
		writers.Go(func() {
			key := uint64(name[0])
			for range 300 {
				for _, c := range []Command{
					{Op: OpRegisterIgnore, NewKey: key},
					{Op: OpReserve, Key: key, Type: TypeWriteExclusive},
					{Op: OpPreemptAndAbort, Key: key, NewKey: v.State().HolderKey(), Type: TypeWriteExclusive},
				} {
					c.From = party(name)
					if _, err := m.Apply(context.Background(), vol, &c); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	if n := v.State().Check(); n != 0 {
		t.Fatalf("invariant %d", n)
	}
}

func benchmarkAllows(b *testing.B, s *State) {
	v := NewVolume(s)
	id := party("n")
	b.ReportAllocs()
	for b.Loop() {
		v.Allows(&id, AccessWrite)
	}
}

func BenchmarkAllowsUnreserved(b *testing.B) { benchmarkAllows(b, empty) }

func BenchmarkAllowsRegistrant(b *testing.B) {
	benchmarkAllows(b, samples(b)[3+2]) // registrants only
}

// TestAllThatWaitAreWoken: a change that two commands wait for ends for both.
func TestAllThatWaitAreWoken(t *testing.T) {
	var c Change
	release := c.Hold()
	// A context that tells when its Done is asked for: then that caller is inside.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	inside := make(chan struct{})
	ended := make(chan error)
	for range 2 {
		go func() { ended <- c.Wait(tellingContext{ctx, inside}) }()
	}
	<-inside
	<-inside
	release()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if err := c.Wait(ctx); err != nil {
		t.Error(err)
	}
}

// tellingContext tells whenever it is asked for Done.
type tellingContext struct {
	context.Context
	asked chan<- struct{}
}

func (c tellingContext) Done() <-chan struct{} {
	c.asked <- struct{}{}
	return c.Context.Done()
}

package trial

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/testenv/cluster"
	"blockd.dev/tools/blockbench/history"
	"blockd.dev/tools/blockbench/multipath"
)

// Pauses are how long a host with one operation at a time waited, once for each
// change of owner, in ascending order.
type Pauses []time.Duration

// At is the pause that a share of them does not exceed; share is 0 to 1.
func (p Pauses) At(share float64) time.Duration {
	if len(p) == 0 {
		return 0
	}
	return p[min(int(share*float64(len(p))), len(p)-1)]
}

// String says the percentiles.
func (p Pauses) String() string {
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("%d pauses: p50 %v, p99 %v, longest %v", len(p), ms(p.At(0.5)), ms(p.At(0.99)), ms(p.At(1)))
}

// A Change is one change of owner.
type Change struct {
	Pause  time.Duration   // the longest time that the host waited for an answer
	Events []cluster.Event // what nodes and host logged from shortly before until shortly after the pause
}

// around is how much before and after a pause belongs to its events.
const around = 250 * time.Millisecond

// Kills kills the owner n times while a host works by two paths, of which one is
// the owner's, and returns the pauses. tell is told each.
func (t *Trial) Kills(ctx context.Context, n int, tell func(Change)) (Pauses, error) {
	return t.changes(ctx, n, tell, func(ctx context.Context, owner, _ string) (func() error, error) {
		return func() error { return t.c.Restart(ctx, owner) }, t.c.Kill(owner)
	})
}

// Moves moves the volume to another node n times, as an operator would.
func (t *Trial) Moves(ctx context.Context, n int, tell func(Change)) (Pauses, error) {
	return t.changes(ctx, n, tell, func(ctx context.Context, _, to string) (func() error, error) {
		return func() error { return nil }, t.move(ctx, to)
	})
}

// move has another node own the volume, and returns when it does.
func (t *Trial) move(ctx context.Context, to string) error {
	id := fmt.Sprintf("trial-%d", time.Now().UnixNano())
	err := t.ask(ctx, "the move to be ordered", readyPatience, func(ctx context.Context, client connect.HTTPClient, address string) error {
		_, err := blockdv1connect.NewLeaseServiceClient(client, address).MoveLease(ctx,
			connect.NewRequest(&blockdv1.MoveLeaseRequest{RequestId: id, Volume: volumeName, To: to}))
		return err
	})
	if err != nil {
		return err
	}
	return t.AwaitOwner(ctx, "the volume to move", func(owner string) bool { return owner == to })
}

// changes measures what changes of owner cost, each of which begin makes.
func (t *Trial) changes(ctx context.Context, n int, tell func(Change),
	begin func(ctx context.Context, owner, to string) (end func() error, err error)) (pauses Pauses, err error) {
	for range n {
		if _, err := t.AwaitSync(ctx); err != nil {
			return pauses, err
		}
		change, err := t.change(ctx, begin)
		if err != nil {
			return pauses, err
		}
		pauses = append(pauses, change.Pause)
		tell(change)
	}
	if _, err := t.AwaitSync(ctx); err != nil {
		return pauses, err
	}
	if err := t.readAll(ctx); err != nil {
		return pauses, err
	}
	ops := t.rec.Ops()
	verdict := history.Check(ops)
	t.rec = t.rec.Next()
	slices.Sort(pauses)
	return pauses, verdict.Err(ops)
}

// change is one of them.
func (t *Trial) change(ctx context.Context, begin func(ctx context.Context, owner, to string) (func() error, error)) (Change, error) {
	owner, err := t.Owner(ctx)
	if err != nil {
		return Change{}, err
	}
	to := t.others(owner)[rand.IntN(copies-1)]
	s := &single{stop: make(chan struct{}), grew: make(chan struct{}, 1)}
	dev, err := t.connectTo(ctx, overNVMe, 0, silence, multipath.Config{Patience: hostPatience, Again: s.again}, owner, to)
	if err != nil {
		return Change{}, err
	}
	s.h = t.newHost(0, dev)
	var working sync.WaitGroup
	working.Go(func() { s.work(t) })
	err = s.progress(ctx)
	var end func() error
	if err == nil {
		// The change comes at any moment of whatever is periodic.
		pass(ctx, time.Duration(rand.Int64N(int64(500*time.Millisecond))))
		s.event("change", "of owner begins: "+owner+" has the volume")
		end, err = begin(ctx, owner, to)
	}
	if err == nil {
		err = s.progress(ctx)
	}
	close(s.stop)
	working.Wait()
	err = errors.Join(err, s.err, dev.Close())
	if end != nil {
		err = errors.Join(err, end())
	}
	if err != nil {
		return Change{}, err
	}
	events, err := s.pause(t)
	return Change{s.slowest, events}, err
}

// single is a host that works without a break until stop.
type single struct {
	h       *host
	stop    chan struct{}
	grew    chan struct{} // an operation was acknowledged
	slowest time.Duration // these belong to work
	from    time.Time     // when the slowest began
	err     error

	mu     sync.Mutex
	events []cluster.Event // the host's own
}

// event notes what the host sees.
func (s *single) event(kind, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, cluster.Event{Time: time.Now(), Node: cluster.HostName, Kind: kind, Message: message})
}

// again is multipath.Config.Again.
func (s *single) again(_ *blockdev.Request, why error) { s.event("host.again", why.Error()) }

// pause is what happened around the longest one.
func (s *single) pause(t *Trial) ([]cluster.Event, error) {
	nodes, err := t.Events(s.from, s.slowest)
	s.event("host.waited", fmt.Sprintf("for %v, from %v on", s.slowest.Round(time.Millisecond), s.from.Format("05.000")))
	all := slices.Concat(nodes, s.events)
	slices.SortStableFunc(all, func(a, b cluster.Event) int { return a.Time.Compare(b.Time) })
	return all, err
}

func (s *single) work(t *Trial) {
	for i := int64(0); s.err == nil; i++ {
		select {
		case <-s.stop:
			return
		default:
		}
		block := i / 2 % windowBlocks
		began, from := t.rec.Now(), time.Now()
		if i%2 == 0 {
			t.blocks[block] = true
			s.err = s.h.write(block)
		} else {
			s.err = s.h.read(block)
		}
		if took := t.rec.Now() - began; took > s.slowest {
			s.slowest, s.from = took, from
		}
		select {
		case s.grew <- struct{}{}:
		default:
		}
	}
}

// progressOps is how many operations show that all is well.
const progressOps = 50

// progress waits for operations to be acknowledged.
func (s *single) progress(ctx context.Context) error {
	timeout := time.After(hostPatience)
	for range progressOps {
		select {
		case <-s.grew:
		case <-timeout:
			return fmt.Errorf("trial: fewer than %d operations in %v", progressOps, hostPatience)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

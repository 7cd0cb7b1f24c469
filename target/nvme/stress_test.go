package nvme

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"blockd.dev/blockdev"
)

// detached is a device that completes on goroutines of its own, as real ones.
type detached struct{ blockdev.Device }

func (d detached) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		go d.Device.Submit([]*blockdev.Request{r})
	}
}

// Hosts work on their queues, fused pairs among it, while commands are
// aborted, hosts preempt each other, the configuration changes, connections
// go away and keep-alive runs. Every command ends once (the channel of a call
// panics on a second), none hangs, and no buffer leaks (the bed checks).
func TestEverythingAtOnce(t *testing.T) {
	b := newBed(t, func(c *Config, _ *Deps) { c.Namespaces[0].Device = detached{c.Namespaces[0].Device} })
	const hosts, rounds = 4, 150
	var wg sync.WaitGroup
	for n := range hosts {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(n), 1))
			nqn := []string{hostA, hostB}[n%2]
			h := b.connect(nqn)
			for range rounds {
				var list []*call
				for range 1 + rnd.IntN(6) {
					switch rnd.IntN(8) {
					case 0:
						list = append(list, b.start(h.io, rw(OpVerify, 0, 1024, 0), nil, 0))
					case 1:
						x := b.prepare(h.io, fuse(rw(OpCompare, 0, 2, 0), fuseFirst), fill(1024, 0), 0)
						y := b.prepare(h.io, fuse(rw(OpWrite, 0, 2, 0), fuseSecond), fill(1024, 0), 0)
						for _, c := range []*call{y, x} {
							if !c.finished() {
								h.io.Execute(c.Command)
							}
						}
						list = append(list, x, y)
					case 2:
						list = append(list, b.start(h.io, register(2, ignoreKey), keys(0, uint64(n)+1), 0))
					case 3:
						list = append(list, b.start(h.io, acquire(2, 1+rnd.Uint32N(6)), keys(uint64(n)+1, uint64(rnd.IntN(hosts))+1), 0))
					case 4:
						list = append(list, b.start(h.io, release(1, 0), keys(uint64(n)+1, 0)[:8], 0))
					default:
						list = append(list, b.start(h.io, rw(OpWrite, rnd.Uint64N(64), 2, 0), fill(1024, 0), 0),
							b.start(h.io, rw(OpRead, rnd.Uint64N(64), 2, 0), nil, 1024))
					}
				}
				victim := list[rnd.IntN(len(list))]
				b.start(h.admin, sqe(OpAbort, 0, uint32(h.io.ID())|uint32(victim.CID())<<16), nil, 0).wait()
				if rnd.IntN(20) == 0 {
					h.admin.Disconnect()
				}
				for _, c := range list {
					c.wait()
				}
				if h.admin.gone.Load() {
					h = b.connect(nqn)
				}
			}
		})
	}
	wg.Go(func() {
		cfg := b.cfg
		for i := range rounds {
			cfg.ANAGroups = []ANAGroup{{ID: 1, State: []ANAState{ANAOptimized, ANAInaccessible}[i%2]}}
			if err := b.sub.Configure(cfg); err != nil {
				t.Error(err)
			}
			b.sub.Tick(b.clock())
			b.sub.Stats()
		}
	})
	wg.Wait()
	b.sub.Drop(errors.New("the test is over"), func(ControllerInfo) bool { return true })
	if n := len(b.sub.Controllers()); n != 0 {
		t.Errorf("%d controllers are left", n)
	}
	if next := b.sub.Tick(b.clock()); next.Sub(b.clock()) > time.Second {
		t.Errorf("next tick after %v", next.Sub(b.clock()))
	}
}

// Abort and Divert look at commands of several steps, and at fused pairs, while these go on.
func TestAbortWhileStepsGoOn(t *testing.T) {
	b := newBed(t)
	h := b.host
	var ends sync.WaitGroup
	stop := make(chan struct{})
	ends.Add(1)
	go func() {
		defer ends.Done()
		for {
			select {
			case <-stop:
				return
			default:
				h.io.abortAll(func(c *Command) bool { _ = c.stoppable(); return false }, CommandAborted, nil)
			}
		}
	}()
	for range 200 {
		b.start(h.io, rw(OpVerify, 0, bedBlocks, 0), nil, 0).wait()
		x := b.start(h.io, fuse(rw(OpCompare, 0, 1, 0), fuseFirst), fill(bedBlock, 0), 0)
		y := b.start(h.io, fuse(rw(OpWrite, 0, 1, 0), fuseSecond), fill(bedBlock, 0), 0)
		x.wait()
		y.wait()
	}
	close(stop)
	ends.Wait()
}

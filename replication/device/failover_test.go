package device_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk/sim"
)

// workload writes numbers into blocks, and knows which must be there: for each
// block not less than the last one that was acknowledged, and not more than the
// last one that was begun. Each block has one writer at a time, so anything else
// is a write that was lost, or one that came after a later one.
type workload struct {
	t      *testing.T
	c      *cluster
	blocks []block
	stop   atomic.Bool
	done   sync.WaitGroup
	acked  atomic.Int64
	busy   atomic.Int64
	worst  atomic.Int64 // ns
}

type block struct {
	off          int64
	acked, begun uint64
}

const blockBytes = 4096

// start has workers on each of the nodes write, 16 blocks each.
func (c *cluster) load(t *testing.T, seed uint64, workers int, nodes ...*node) *workload {
	const each = 16
	w := &workload{t: t, c: c, blocks: make([]block, workers*len(nodes)*each)}
	for i := range w.blocks {
		w.blocks[i].off = int64(i) * (volumeBytes / int64(len(w.blocks))) / blockBytes * blockBytes
	}
	for i := range workers * len(nodes) {
		n, own := nodes[i%len(nodes)], w.blocks[i*each:(i+1)*each]
		w.done.Go(func() { w.work(n, own, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	return w
}

func (w *workload) work(n *node, own []block, rng *rand.Rand) {
	p := make([]byte, blockBytes)
	for !w.stop.Load() && !n.dead.Load() {
		b := &own[rng.IntN(len(own))]
		began := time.Now()
		var err error
		if rng.IntN(4) == 0 {
			if err = blockdev.ReadAt(n.vol, p, b.off); err == nil {
				w.check("a read", b, p)
			}
		} else {
			b.begun++
			fill(p, b.off, b.begun)
			if err = blockdev.WriteAt(n.vol, p, b.off); err == nil {
				b.acked = b.begun
				w.acked.Add(1)
			}
		}
		switch {
		case err == nil:
			took := int64(time.Since(began))
			for old := w.worst.Load(); took > old && !w.worst.CompareAndSwap(old, took); old = w.worst.Load() {
			}
		case errors.Is(err, blockdev.ErrBusy):
			w.busy.Add(1)
		case errors.Is(err, blockdev.ErrGone) && n.dead.Load():
		default:
			w.t.Errorf("%s: %v", n.id, err)
			return
		}
	}
}

func fill(p []byte, off int64, seq uint64) {
	for i := 0; i < len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], uint64(off))
		binary.LittleEndian.PutUint64(p[i+8:], seq)
	}
}

func (w *workload) check(what string, b *block, p []byte) {
	off, seq := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
	want := make([]byte, blockBytes)
	if seq != 0 {
		fill(want, b.off, seq)
	}
	switch {
	case string(want) != string(p):
		w.t.Errorf("%s: the block at %d is a mixture: it begins with %d of block %d", what, b.off, seq, off)
	case seq < b.acked || seq > b.begun:
		w.t.Errorf("%s: the block at %d has write %d; %d was acknowledged and %d begun", what, b.off, seq, b.acked, b.begun)
	}
}

// end stops the workers.
func (w *workload) end() {
	w.stop.Store(true)
	w.done.Wait()
	w.t.Logf("%d writes acknowledged, %d requests told to come again, the slowest took %v",
		w.acked.Load(), w.busy.Load(), time.Duration(w.worst.Load()))
}

// verify reads every block through a node.
func (w *workload) verify(n *node) {
	p := make([]byte, blockBytes)
	for i := range w.blocks {
		b := &w.blocks[i]
		if err := blockdev.ReadAt(n.vol, p, b.off); err != nil {
			w.t.Errorf("read at %d through %s: %v", b.off, n.id, err)
			return
		}
		w.check("through "+n.id, b, p)
	}
}

// verifyAll has one node after the other own the volume, which reads from its
// own disk.
func (w *workload) verifyAll() {
	for _, n := range w.c.nodes {
		w.c.handOver(n)
		w.verify(n)
	}
}

// handOver drains the owner and makes n the next one.
func (c *cluster) handOver(n *node) {
	drained := make(chan struct{})
	c.meta.present().vol.Drain(func() { close(drained) })
	<-drained
	c.meta.release()
	c.meta.grant(n)
}

// until waits for progress: n more acknowledged writes.
func (w *workload) until(n int64) {
	w.t.Helper()
	w.c.await("the workload to go on", func(from int64) func() bool {
		return func() bool { return w.acked.Load() >= from+n || w.t.Failed() }
	}(w.acked.Load()))
}

// await polls, since what it waits for are other machines, so to speak.
func (c *cluster) await(what string, is func() bool) {
	c.Helper()
	for end := time.Now().Add(60 * time.Second); !is(); {
		if time.Now().After(end) {
			for _, n := range c.nodes {
				s := n.vol.Status()
				c.Logf("%s: owner %v of epoch %d, serving %v, over %v, %d ops wait and %d pieces are in flight; forwards to %q; %d requests wait",
					n.id, s.Owner, s.Epoch, s.Volume.Serving, s.Volume.Over, s.Volume.Waiting, s.Volume.InFlight, s.Forward, s.Waiting)
				for d, m := range s.Volume.Members {
					c.Logf("  member %d: sync %d, generation %d, connected %v, required %v, %d of %d regions left, away %v, tail %d; peer %v",
						d, m.Sync, m.Gen, m.Connected, m.Required, m.Left, m.Regions, m.Away, m.Tail, n.ep.Peer(c.nodes[d].id).Stats().Up)
				}
				c.Logf("  the catalog says %+v", c.meta.view)
			}
			c.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(2 * time.Millisecond) // sleep: between two looks at something that no one announces
	}
}

// The owner dies under load; another node takes over with what the survivors
// have, and nothing that was acknowledged is missing. The dead one comes back,
// its disk as a power cut has left it, and is brought up to date, so that it can
// serve by itself what was written without it.
func TestOwnerDies(t *testing.T) {
	c := newCluster(t, options{failover: true, lease: 500 * time.Millisecond, disk: sim.Options{Mode: sim.Async, Shuffle: true, Seed: 1}})
	c.meta.grant(c.nodes[0])
	w := c.load(t, 1, 8, c.nodes[2]) // which never dies
	for round, r := range []struct{ victim, next int }{{0, 1}, {1, 2}, {0, 2}, {1, 0}, {0, 1}} {
		victim, next := c.nodes[r.victim], c.nodes[r.next]
		w.until(300)
		victim.kill()
		c.meta.grant(next)
		w.until(300)
		victim.restart(uint64(round))
		victim.vol.Forward(next.id)
		w.until(100)
		c.await("all replicas to be in sync", c.meta.settled)
	}
	w.end()
	w.verifyAll()
}

// All nodes lose power at once, and in every second round one of the disks with it the last of what it had said to be durable:
// a little, much, or all since its node had started, also that it has the volume.
func TestPowerCutOfAll(t *testing.T) {
	const everything = 1 << 30
	for seed := range uint64(6) {
		c := newCluster(t, options{failover: true, lease: 500 * time.Millisecond, disk: sim.Options{Mode: sim.Async, Shuffle: true, Seed: seed + 10}})
		c.meta.grant(c.nodes[0])
		w := c.load(t, seed, 4, c.nodes...)
		w.until(500)
		for _, n := range c.nodes {
			n.kill()
		}
		w.stop.Store(true)
		for _, n := range c.nodes {
			n.close()
		}
		w.end()
		for i, n := range c.nodes {
			lies := 0
			if seed%2 == 1 && i == int(seed/2) {
				lies = []int{20, 300, everything}[i]
			}
			n.cut(seed+uint64(i), lies)
			n.start()
		}
		for _, n := range c.nodes {
			n.connect()
		}
		for _, n := range c.nodes {
			c.meta.grant(n)
			w.verify(n)
			c.await("all replicas to be in sync", c.meta.settled)
		}
	}
}

// An owner that is cut off, with hosts that still reach it, answers nothing
// that is not so; when it is back, its hosts' requests go on by the new owner.
func TestOwnerIsCutOff(t *testing.T) {
	c := newCluster(t, options{failover: true, lease: 500 * time.Millisecond, disk: sim.Options{Mode: sim.Async, Seed: 5}})
	c.meta.grant(c.nodes[0])
	w := c.load(t, 5, 4, c.nodes...)
	for round := range 4 {
		old, next := c.nodes[round%3], c.nodes[(round+1)%3]
		w.until(200)
		old.link.cut.Store(true)
		c.meta.cutOff(old)
		c.meta.grant(next)
		w.until(200)
		old.link.cut.Store(false)
		w.until(200)
		c.await("all replicas to be in sync", c.meta.settled)
	}
	w.end()
	w.verifyAll()
}

// Nodes that don't answer for a while, some of them long enough for connections
// to end and replicas to be marked out, cost time and nothing else.
func TestPauses(t *testing.T) {
	c := newCluster(t, options{failover: true, deadAfter: 400 * time.Millisecond, disk: sim.Options{Mode: sim.Async, Seed: 6}})
	c.meta.grant(c.nodes[0])
	w := c.load(t, 6, 4, c.nodes...)
	rng := rand.New(rand.NewPCG(6, 6))
	for range 12 {
		n := c.nodes[rng.IntN(len(c.nodes))]
		n.link.cut.Store(true)
		time.Sleep(time.Duration(rng.IntN(700)) * time.Millisecond) // sleep: the pause
		n.link.cut.Store(false)
		w.until(20)
	}
	c.await("all replicas to be in sync", c.meta.settled)
	w.end()
	w.verifyAll()
}

// The lease moves on purpose, again and again, under load from all nodes.
func TestDrain(t *testing.T) {
	c := newCluster(t, options{lease: 500 * time.Millisecond, disk: sim.Options{Mode: sim.Async, Seed: 7}})
	c.meta.grant(c.nodes[0])
	w := c.load(t, 7, 4, c.nodes...)
	for round := range 12 {
		w.until(100)
		began := time.Now()
		c.handOver(c.nodes[(round+1)%3])
		w.until(1)
		t.Logf("handed over in %v", time.Since(began))
	}
	w.end()
	if n := w.busy.Load(); n != 0 {
		t.Errorf("%d requests were told to come again", n)
	}
	for _, n := range c.nodes {
		w.verify(n)
	}
}

// A replica that dies right before the lease moves doesn't keep the owner: what was in flight to
// it is done again by the next one.
func TestDrainDoesNotWaitForTheDead(t *testing.T) {
	c := newCluster(t, options{failover: true, disk: sim.Options{Mode: sim.Async, Seed: 8}})
	c.meta.grant(c.nodes[0])
	w := c.load(t, 8, 4, c.nodes[:2]...)
	w.until(100)
	c.nodes[2].link.cut.Store(true)
	began := time.Now()
	c.handOver(c.nodes[1])
	w.until(100)
	if took := time.Since(began); took > 15*time.Second { // a second for the drain; in vain it would wait for 30 s, twice
		t.Errorf("it took %v", took)
	}
	c.nodes[2].link.cut.Store(false)
	c.await("all replicas to be in sync", c.meta.settled)
	w.end()
	w.verifyAll()
}

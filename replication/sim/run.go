package sim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"time"

	"blockd.dev/replication/replica"
	"blockd.dev/replication/volume"
)

// A tiny volume, so that everything meets: 4 extents of 2 regions of 4 blocks.
const (
	blockBytes   = 8
	regionBytes  = 4 * blockBytes
	extentBytes  = 2 * regionBytes
	volumeBytes  = 4 * extentBytes
	volumeBlocks = volumeBytes / blockBytes
	replicas     = 3
	faultsFor    = 900 * time.Millisecond
	settlesIn    = 8 * time.Second
)

var config = volume.Config{
	BlockBytes: blockBytes, RegionBytes: regionBytes, ExtentBytes: extentBytes, VolumeBytes: volumeBytes,
	MinInSync: 2, OpTimeout: 120 * time.Millisecond, RequestTimeout: 12 * time.Millisecond,
	HedgeAfter: 3 * time.Millisecond, RetryAfter: 4 * time.Millisecond, OutAfter: 15 * time.Millisecond,
	StableAfter: 3 * time.Millisecond, CompareRegions: 3, RebuildJobs: 2,
}

// Result is what became of one run.
type Result struct {
	Ops     int    // that hosts started
	OK      int    // that were acknowledged
	Epochs  uint64 // owners there were
	Changes uint64 // of the membership, and refused ones
	Broken  string // what went wrong, or ""
}

// Run simulates one cluster; everything follows from seed.
func Run(seed uint64) Result {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0x5eed))}
	w.hasty = w.rng.Float64() * 0.3
	w.lossy, w.doubly, w.laggy = w.rng.Float64()*0.03, w.rng.Float64()*0.05, w.rng.Float64()*0.06
	count := replicas + w.rng.IntN(3)
	for i := range count {
		n := &node{w: w, index: i, rate: 0.99 + 0.02*w.rng.Float64()}
		if i < replicas {
			n.disk = newDisk(w)
		}
		w.nodes = append(w.nodes, n)
	}
	for range count + 1 {
		w.cut = append(w.cut, make([]bool, count+1))
	}
	w.meta = newMeta(w, replicas)
	for _, n := range w.nodes {
		n.start()
	}
	for range 4 {
		h := &host{w: w, last: map[int64]uint64{}}
		w.hosts = append(w.hosts, h)
		h.again()
	}
	w.faults()
	w.runUntil(faultsFor, nil)
	w.settle()
	res := Result{Ops: len(w.ops), Epochs: w.meta.view.Epoch, Changes: w.meta.view.Revision}
	for _, r := range w.ops {
		if r.ok {
			res.OK++
		}
	}
	if len(w.broken) > 0 {
		res.Broken = w.broken[0]
	} else {
		res.Broken = check(w.ops)
	}
	return res
}

// faults goes on until the calm.
func (w *world) faults() {
	w.after(w.between(5*time.Millisecond, 60*time.Millisecond), func() {
		if w.calm {
			return
		}
		w.faults()
		n := w.nodes[w.rng.IntN(len(w.nodes))]
		d := w.nodes[w.rng.IntN(replicas)].disk
		switch w.rng.IntN(11) {
		case 0, 1: // cut a side off
			side := w.rng.IntN(1 << len(w.cut))
			oneWay := w.chance(0.2)
			for i := range w.cut {
				for j := range w.cut {
					a, b := side>>i&1, side>>j&1
					w.cut[i][j] = a != b && (!oneWay || a == 1)
				}
			}
			w.healAfter(w.between(5*time.Millisecond, 300*time.Millisecond))
		case 2: // cut one link
			i, j := w.rng.IntN(len(w.cut)), w.rng.IntN(len(w.cut))
			w.cut[i][j], w.cut[j][i] = true, true
			w.healAfter(w.between(5*time.Millisecond, 200*time.Millisecond))
		case 3, 4:
			if n.alive {
				n.crash()
				w.after(w.between(time.Millisecond, 150*time.Millisecond), func() {
					if !n.alive {
						n.start()
					}
				})
			}
		case 5:
			n.paused = w.now + w.between(time.Millisecond, 250*time.Millisecond)
		case 6:
			d.slow = w.between(0, 30*time.Millisecond)
			w.after(w.between(time.Millisecond, 200*time.Millisecond), func() { d.slow = 0 })
		case 7:
			d.spoil()
		case 8:
			d.failing = true
		case 9, 10: // cut an owner off with its own disk; hosts still reach it
			for _, n := range w.nodes {
				if n.alive && n.owner != nil && !n.owner.Over() && n.disk != nil {
					for j := range w.cut {
						w.cut[n.index][j], w.cut[j][n.index] = j != n.index, j != n.index
					}
					w.healAfter(w.between(50*time.Millisecond, 400*time.Millisecond))
					break
				}
			}
		}
	})
}

// spoil makes a block unreadable that all other replicas can read.
func (d *disk) spoil() {
	b := d.w.rng.Int64N(volumeBlocks) * blockBytes
	for _, n := range d.w.nodes {
		if n.disk != nil && n.disk.bad[b] {
			return
		}
	}
	d.bad[b] = true
}

// healAfter ends all cuts after d, unless there was another meanwhile.
func (w *world) healAfter(d time.Duration) {
	w.cuts++
	cuts := w.cuts
	w.after(d, func() {
		if w.cuts == cuts {
			w.heal()
		}
	})
}

func (w *world) heal() {
	for _, row := range w.cut {
		clear(row)
	}
}

// settle ends the faults, waits until everything is well again, and looks.
func (w *world) settle() {
	w.calm = true
	w.heal()
	for _, n := range w.nodes {
		n.paused = 0
		if n.disk != nil {
			n.disk.bad, n.disk.slow = map[int64]bool{}, 0
			if n.disk.dead || n.disk.failing {
				n.crash()
			}
		}
		if !n.alive {
			n.start()
		}
	}
	end := w.now + settlesIn
	w.runUntil(w.now+2*config.OpTimeout, nil) // hosts get their answers or give up
	w.runUntil(end, func() bool { return w.well() != nil })
	if n := w.well(); n == nil && len(w.broken) == 0 {
		w.fail("no owner has all replicas in sync %v after the last fault: %+v", settlesIn, w.meta.view)
	}
	left := volumeBlocks
	for b := range int64(volumeBlocks) {
		w.readAtLast(b, func() { left-- })
	}
	w.runUntil(end, func() bool { return left == 0 })
	if left > 0 && len(w.broken) == 0 {
		w.fail("%d blocks can't be read %v after the last fault", left, settlesIn)
	}
	w.runUntil(w.now+20*time.Millisecond, nil)
	w.compare()
}

// readAtLast reads block b until it works: leases may still change hands.
func (w *world) readAtLast(b int64, done func()) {
	n := w.well()
	if n == nil {
		w.after(5*time.Millisecond, func() { w.readAtLast(b, done) })
		return
	}
	r := &record{kind: volume.Read, off: b * blockBytes, blocks: 1}
	(&host{w: w, last: map[int64]uint64{}}).issue(n, r, func() {
		if r.ok {
			done()
		} else {
			w.readAtLast(b, done)
		}
	})
}

// well returns the owner if it serves with all replicas in sync.
func (w *world) well() *node {
	for _, m := range w.meta.view.Members {
		if m.Sync != volume.InSync {
			return nil
		}
	}
	for _, n := range w.nodes {
		if n.owner != nil && n.owner.Serving() && n.epoch == w.meta.view.Epoch {
			return n
		}
	}
	return nil
}

func (w *world) compare() {
	a := w.nodes[0].disk
	for i, n := range w.nodes[:replicas] {
		if !bytes.Equal(a.image, n.disk.image) {
			b := int64(0)
			for valueAt(a.image, b) == valueAt(n.disk.image, b) {
				b += blockBytes
			}
			w.fail("replicas 0 and %d are in sync and differ: block %d is %d and %d, versions %v and %v", i, b/blockBytes,
				valueAt(a.image, b), valueAt(n.disk.image, b), a.versions[b/regionBytes], n.disk.versions[b/regionBytes])
		}
		for r, v := range n.disk.versions {
			if v == replica.NoVersion {
				w.fail("replica %d is in sync and region %d has no version", i, r)
			}
		}
	}
}

// String is for test logs.
func (r Result) String() string {
	return fmt.Sprintf("%d ops, %d ok, %d epochs, %d revisions, %s", r.Ops, r.OK, r.Epochs, r.Changes, r.Broken)
}

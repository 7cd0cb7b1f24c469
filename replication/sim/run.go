package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"blockd.dev/replication/replica"
	"blockd.dev/replication/volume"
)

// A tiny volume, so that everything meets: at first 4 extents of 2 regions of 4
// blocks, at last 6.
const (
	blockBytes  = 8
	regionBytes = 4 * blockBytes
	extentBytes = 2 * regionBytes
	copyRegions = 2
	fewExtents  = 4
	mostExtents = 6
	mostBytes   = mostExtents * extentBytes
	mostBlocks  = mostBytes / blockBytes
	maxNodes    = 8
	faultsFor   = 900 * time.Millisecond
	settlesIn   = 8 * time.Second
)

var config = volume.Config{
	BlockBytes: blockBytes, RegionBytes: regionBytes, ExtentBytes: extentBytes, MaxData: 3 * blockBytes, OpTimeout: 120 * time.Millisecond, RequestTimeout: 12 * time.Millisecond,
	HedgeAfter: 3 * time.Millisecond, RetryAfter: 4 * time.Millisecond, OutAfter: 15 * time.Millisecond,
	GoneAfter: 2 * time.Millisecond, FullAfter: 10 * time.Millisecond, StableAfter: 3 * time.Millisecond, CompareRegions: 3, RebuildJobs: 2, TailMax: 12,
	Pace: 2 * time.Millisecond, PaceListen: 5 * time.Millisecond, PaceMax: 8 * time.Millisecond,
}

// config is for the owner of n.
func (n *node) config() volume.Config {
	c := config
	c.VolumeBytes, c.MinInSync = n.known.bytes, n.w.minInSync
	if n.w.broadly {
		c.CopyRegions, c.RebuildJobs = copyRegions, 3*copyRegions
	}
	if n.w.slowly {
		c.Pace, c.PaceMax, c.RebuildJobs, c.CompareRegions = 1, 100*time.Millisecond, 1, 1
	}
	if !n.w.whole {
		c.Sets = func(extent int64) []int { return n.known.sets[extent] }
		c.Arriving = func(extent int64) int { return n.known.to[extent] }
		c.ArrivingSince = n.known.began + 1
	}
	return c
}

// Result is what became of one run.
type Result struct {
	Ops     int    // that hosts started
	OK      int    // that were acknowledged
	Epochs  uint64 // owners there were
	Changes uint64 // of the membership, and refused ones
	Drains  int    // owners that handed over with nothing to repair
	Refused int    // ops that failed since a disk was full
	Moved   int    // extents that have got another disk
	Lies    int    // outages after which a disk had lost what it had acknowledged
	Broken  string // what went wrong, or ""
}

// newWorld is a cluster at work, without faults; everything follows from seed.
func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0x5eed))}
	w.hasty, w.hinty = w.rng.Float64()*0.3, 0.001
	if w.chance(0.25) {
		w.hasty = 1
	}
	w.lossy, w.doubly, w.laggy = w.rng.Float64()*0.03, w.rng.Float64()*0.05, w.rng.Float64()*0.06
	w.slowly, w.broadly, w.tardy, w.lazy = w.chance(0.4), w.chance(0.4), w.chance(0.3), w.chance(0.7)
	w.lying = w.chance(0.4)
	w.shape()
	count := max(w.disks, 3+w.rng.IntN(3))
	for i := range count {
		n := &node{w: w, index: i, rate: 0.99 + 0.02*w.rng.Float64()}
		if i < w.disks {
			n.disk, n.older = newDisk(w), w.chance(0.2)
		}
		w.nodes = append(w.nodes, n)
	}
	for range count + 1 {
		w.cut = append(w.cut, make([]bool, count+1))
	}
	w.meta = newMeta(w)
	for _, n := range w.nodes {
		n.start()
	}
	for range 4 {
		w.addHost()
	}
	return w
}

func (w *world) addHost() {
	h := &host{w: w, last: map[int64]uint64{}}
	w.hosts = append(w.hosts, h)
	h.again()
}

// Run simulates one cluster; everything follows from seed.
func Run(seed uint64) Result {
	w := newWorld(seed)
	w.faults()
	switch {
	case w.whole:
	case w.chance(0.4): // a part of what moves has to be there for a while
		w.rare, w.broadly, w.tardy, w.lazy = true, false, false, true
		w.meta.toAndFro()
	case w.chance(0.5):
		w.meta.restless()
	}
	if w.lying && w.copies == 2 && w.chance(0.5) {
		w.unnoticed()
	}
	w.runUntil(faultsFor, nil)
	w.settle()
	res := Result{Ops: len(w.ops), Epochs: w.meta.view.Epoch, Changes: w.meta.view.Revision, Drains: w.handovers, Moved: w.meta.count, Lies: w.lies}
	for _, r := range w.ops {
		if r.ok {
			res.OK++
		}
		if r.refused {
			res.Refused++
		}
	}
	if len(w.broken) > 0 {
		res.Broken = w.broken[0]
	} else {
		res.Broken = check(w.ops)
	}
	return res
}

// shape decides how many disks there are, and how the extents lie on them.
func (w *world) shape() {
	w.disks, w.copies, w.minInSync = 3, 3, 2
	switch w.rng.IntN(10) {
	case 0, 1, 2: // one set for all
		w.whole = true
	case 3:
		w.copies, w.minInSync = 2, 1
	case 4:
		w.disks, w.copies = 4, 2
	default:
		w.disks = 4 + w.rng.IntN(2)
	}
}

// faults goes on until the calm.
func (w *world) faults() {
	w.after(w.between(5*time.Millisecond, 60*time.Millisecond), func() {
		if w.calm {
			return
		}
		w.faults()
		if w.rare && w.chance(0.8) || w.now < w.still {
			return
		}
		n := w.nodes[w.rng.IntN(len(w.nodes))]
		d := w.nodes[w.rng.IntN(w.disks)].disk
		if w.lying && w.chance(0.15) || w.chance(0.01) {
			w.outage(n, w.chance(0.6))
			return
		}
		switch w.rng.IntN(24) {
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
			w.crash(n)
		case 5:
			n.paused = w.now + w.between(time.Millisecond, 250*time.Millisecond)
		case 6:
			if !w.rare && w.chance(0.4) {
				d.hang(w.between(time.Millisecond, 200*time.Millisecond))
				break
			}
			if !w.rare && w.chance(0.3) {
				d.each = w.between(time.Millisecond, 5*time.Millisecond)
				w.after(w.between(time.Millisecond, 200*time.Millisecond), func() { d.each = 0 })
				break
			}
			d.slow = w.between(0, 30*time.Millisecond)
			w.after(w.between(time.Millisecond, 200*time.Millisecond), func() { d.slow = 0 })
		case 7:
			d.spoil()
		case 8:
			d.failing = true
		case 9, 10: // cut an owner off with its own disk; hosts still reach it
			for _, n := range w.nodes {
				if n.alive && n.owner != nil && !n.owner.Over() && n.disk != nil {
					w.cutOff(n)
					break
				}
			}
		case 11, 12, 13:
			w.drain()
		case 14:
			w.meta.grow()
		case 18, 19, 20:
			w.meta.move()
		case 21, 22, 23:
			w.gap()
		case 15: // a disk is full
			d.fill()
			w.after(w.between(20*time.Millisecond, 300*time.Millisecond), func() { d.space = 0 })
		case 16, 17: // so are all
			for _, n := range w.nodes[:w.disks] {
				n.disk.fill()
				w.after(w.between(20*time.Millisecond, 500*time.Millisecond), func() { n.disk.space = 0 })
			}
		}
	})
}

// crash kills n, for a while.
func (w *world) crash(n *node) {
	if n.alive {
		w.crashFor(n, w.between(time.Millisecond, 150*time.Millisecond))
	}
}

func (w *world) crashFor(n *node, dur time.Duration) {
	n.crash()
	w.after(dur, func() {
		if !n.alive {
			n.start()
		}
	})
}

// cutOff leaves an owner with its own disk; hosts still reach it.
func (w *world) cutOff(n *node) {
	w.isolate(n)
	w.healAfter(w.between(50*time.Millisecond, 400*time.Millisecond))
	w.rival(n)
	w.watch(n, w.rng.IntN(len(w.meta.sets)))
}

// isolate cuts n off from all others.
func (w *world) isolate(n *node) {
	for j := range w.cut {
		w.cut[n.index][j], w.cut[j][n.index] = j != n.index, j != n.index
	}
}

// gap has messages lost of the last things that hosts ask for, for a while: nothing that
// comes later makes good what a replica has missed. The owner may drain amid that.
func (w *world) gap() {
	w.storm = w.now + w.between(2*time.Millisecond, 8*time.Millisecond)
	w.quiet = w.storm + w.between(20*time.Millisecond, 120*time.Millisecond)
	w.after(w.storm-w.now, func() {
		if !w.calm && w.chance(0.1) {
			w.drain()
		}
	})
}

// rival has another node become owner soon, perhaps before the lease of n ends.
func (w *world) rival(n *node) {
	r := w.nodes[w.rng.IntN(len(w.nodes))]
	if r == n || !w.chance(w.hasty) {
		return
	}
	w.after(w.between(0, 20*time.Millisecond), func() {
		r.do(func() {
			sent, boot := r.clock(), r.boot
			w.send(r.index, w.meta.index(), func() { w.meta.acquire(r, sent, boot, true) })
		})
	})
}

// drain has an owner hand over.
func (w *world) drain() {
	for _, n := range w.nodes {
		if n.alive && n.owner != nil && n.owner.Serving() && n.epoch == w.meta.view.Epoch {
			n.do(func() {
				if n.owner != nil {
					n.owner.Drain(n.clock())
					n.draining = n.epoch
				}
			})
		}
	}
}

// handed is the last owner that has handed over.
type handed struct {
	epoch uint64
	boots []uint64 // of the replicas at that moment
}

func (w *world) boots() []uint64 {
	var list []uint64
	for _, n := range w.nodes[:w.disks] {
		list = append(list, n.boot)
	}
	return list
}

// drained notes that n has handed over.
func (w *world) drained(n *node) {
	if n.owner.Drained() {
		w.handed = handed{n.epoch, w.boots()}
	}
}

// handedOver checks that the owner after a drain had nothing to repair, once
// it serves. A replica that has restarted meanwhile may have forgotten the
// watermark, which is durable with writes only.
func (w *world) handedOver(n *node) {
	if w.handed.epoch == 0 || n.epoch != w.handed.epoch+1 || !n.owner.Serving() {
		return
	}
	if slices.Equal(w.handed.boots, w.boots()) {
		w.handovers++
		if again := n.owner.Status().Equalized; again > 0 {
			w.fail("the owner of epoch %d had %d writes to repeat after a drain", n.epoch, again)
		}
	}
	w.handed = handed{}
}

// spoil makes a block unreadable that all other replicas can read.
func (d *disk) spoil() {
	b := d.w.rng.Int64N(mostBlocks) * blockBytes
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
			n.disk.bad, n.disk.slow, n.disk.each, n.disk.space = map[int64]bool{}, 0, 0, 0
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
	w.everywhere(volume.Read, blockBytes, end) // it waits for writes that go on though hosts gave up
	w.forsake(end)
	w.stick(end)
	w.compare()
	w.rot()
	w.everywhere(volume.Scrub, regionBytes, end)
	w.everywhere(volume.Read, blockBytes, end)
	w.compare()
}

// forsake cuts the owner off from the other nodes, and later from Meta: the others,
// of whom enough for writes were in sync and connected all the time, have to serve
// what it has left. It writes meanwhile, so that it notices.
func (w *world) forsake(end time.Duration) {
	n := w.well()
	if n == nil || n.disk == nil || w.minInSync < 2 || !w.chance(0.3) {
		return
	}
	for i := range w.nodes {
		w.cut[n.index][i], w.cut[i][n.index] = i != n.index, i != n.index
	}
	r := &record{kind: volume.Write, off: w.rng.Int64N(w.meta.bytes()/blockBytes) * blockBytes, blocks: 1}
	(&host{w: w, last: map[int64]uint64{}}).issue(n, r, func() {})
	epoch := n.epoch
	w.runUntil(w.now+w.between(config.GoneAfter, 3*config.OutAfter), nil)
	w.cut[n.index][w.meta.index()], w.cut[w.meta.index()][n.index] = true, true
	if w.meta.view.Epoch == epoch { // else there was a takeover amid this: that may go down to one replica
		w.runUntil(end, func() bool {
			return slices.ContainsFunc(w.nodes, func(o *node) bool { return o.epoch > epoch && o.owner != nil && o.owner.Serving() })
		})
		if w.now >= end && len(w.broken) == 0 {
			w.fail("nobody serves what the owner of epoch %d was cut off from: %+v", epoch, w.meta.view)
		}
	}
	w.heal()
	w.runUntil(end, func() bool { return w.well() != nil })
	w.everywhere(volume.Read, blockBytes, end)
}

// sticksFor is the longest that a write may take because of one disk: that is silent, has a session again just
// before it would be marked out, takes some writes and keeps others. Then the owner does without it, and Meta has to agree.
const sticksFor = (12 + 15 + 3*12 + 10) * time.Millisecond

// stick has changes hang on the disk that the owner reads from, all or some. Hosts who read
// notice nothing, and no write waits for long.
func (w *world) stick(end time.Duration) {
	n := w.well()
	if n == nil || n.disk == nil || w.copies == w.minInSync || w.lazy || !w.chance(0.6) {
		return
	}
	e := slices.IndexFunc(w.meta.sets, func(s []int) bool { return slices.Contains(s, n.index) })
	if e < 0 {
		return
	}
	n.disk.hang(2 * sticksFor)
	epoch, until := n.epoch, w.now+sticksFor/2
	for i := range int64(6) {
		h := &host{w: w, last: map[int64]uint64{}}
		var again func()
		again = func() {
			if w.now > until || w.meta.view.Epoch != epoch {
				return
			}
			r := &record{kind: volume.Read, off: int64(e)*extentBytes + i*blockBytes, blocks: 1}
			if i < 3 {
				r.kind = volume.Write
			}
			h.issue(n, r, func() {
				if took := w.now - r.call; (took > sticksFor || !r.ok) && w.meta.view.Epoch == epoch && !n.owner.Over() {
					w.fail("an op of kind %d took %v, ok: %v, since changes hang on disk %d", r.kind, took, r.ok, n.index)
				}
				again()
			})
		}
		again()
	}
	w.runUntil(w.now+3*sticksFor, nil)
	w.runUntil(end, func() bool { return w.well() != nil })
	w.everywhere(volume.Read, blockBytes, end)
}

// everywhere does an op of kind to each part of the volume.
func (w *world) everywhere(kind volume.OpKind, each int64, end time.Duration) {
	left := w.meta.bytes() / each
	for n := range left {
		w.atLast(&record{kind: kind, off: n * each, blocks: each / blockBytes}, func() { left-- })
	}
	w.runUntil(end, func() bool { return left == 0 })
	if left > 0 && len(w.broken) == 0 {
		w.fail("%d ops of kind %d don't end well %v after the last fault", left, kind, settlesIn)
	}
	w.runUntil(w.now+20*time.Millisecond, nil)
}

// atLast does what r says until it works: leases may still change hands.
func (w *world) atLast(r *record, then func()) {
	n := w.well()
	if n == nil {
		w.after(5*time.Millisecond, func() { w.atLast(r, then) })
		return
	}
	try := *r
	(&host{w: w, last: map[int64]uint64{}}).issue(n, &try, func() {
		if try.ok {
			then()
		} else {
			w.atLast(r, then)
		}
	})
}

// rot changes a block of one replica, or has it go back to what it was before
// all writes, as a disk does that has lost them. Where there are two copies only
// the version can tell which is right.
func (w *world) rot() {
	w.rotten = true
	set := w.meta.sets[w.rng.IntN(len(w.meta.sets))]
	e := slices.IndexFunc(w.meta.sets, func(s []int) bool { return slices.Equal(s, set) })
	b := int64(e)*extentBytes + w.rng.Int64N(extentBytes/blockBytes)*blockBytes
	d := w.nodes[set[w.rng.IntN(len(set))]].disk
	switch v := &d.versions[b/regionBytes]; {
	case *v == replica.Version{}: // nobody knows better
	case len(set) == 2 || w.chance(0.5):
		*v = replica.Version{}
		clear(d.image[b : b+blockBytes])
	default:
		copy(d.image[b:], "rotten!!")
	}
}

// well returns the owner if it serves with all replicas in sync.
func (w *world) well() *node {
	for _, m := range w.meta.view.Members {
		if m.Sync != volume.InSync {
			return nil
		}
	}
	if w.meta.moving() {
		return nil
	}
	for _, n := range w.nodes {
		if n.owner != nil && n.owner.Serving() && n.epoch == w.meta.view.Epoch {
			return n
		}
	}
	return nil
}

func (w *world) compare() {
	for e, set := range w.meta.sets {
		first := w.nodes[set[0]].disk
		for _, i := range set {
			d := w.nodes[i].disk
			for b := int64(e) * extentBytes; b < int64(e+1)*extentBytes; b += blockBytes {
				r := b / regionBytes
				if x, y := valueAt(first.image, b), valueAt(d.image, b); x != y {
					w.fail("replicas %d and %d are in sync and differ: block %d is %d and %d, versions %v and %v", set[0], i, b/blockBytes,
						x, y, first.versions[r], d.versions[r])
				}
				if d.versions[r] == replica.NoVersion && !w.late[r] { // else it is copied once more than need be, in each resync
					w.fail("replica %d is in sync and region %d has no version", i, r)
				}
			}
		}
	}
}

// String is for test logs.
func (r Result) String() string {
	return fmt.Sprintf("%d ops, %d ok, %d epochs, %d revisions, %d drains, %d without space, %d extents moved, %d lies, %s",
		r.Ops, r.OK, r.Epochs, r.Changes, r.Drains, r.Refused, r.Moved, r.Lies, r.Broken)
}

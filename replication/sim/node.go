package sim

import (
	"slices"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
	"blockd.dev/replication/volume"
)

// node is a process: perhaps a replica, perhaps an owner.
type node struct {
	w        *world
	index    int
	rate     float64
	alive    bool
	paused   time.Duration // until
	boot     uint64
	disk     *disk // nil: only an owner
	older    bool  // its replica takes one region at a time
	replica  *replica.Replica
	owner    *volume.Owner
	epoch    uint64
	known    news       // what the owner was told last
	moves    [2]uint64  // news.began and ended of what it began with
	asked    uint64     // newest epoch granted in this boot
	draining uint64     // epoch whose lease is given back when its owner is over
	armed    clock.Mono // when the next tick is due
	turn     uint64     // of that tick
}

func (n *node) clock() clock.Mono { return clock.Mono(float64(n.w.now)*n.rate) + 1e9 }

// do runs f in the process that is there now, or when its pause has ended.
func (n *node) do(f func()) {
	if !n.alive {
		return
	}
	if n.w.now < n.paused && !n.w.calm {
		boot := n.boot
		n.w.after(n.paused-n.w.now, func() {
			if n.boot == boot {
				n.do(f)
			}
		})
		return
	}
	f()
	n.arm()
}

func (n *node) start() {
	n.alive = true
	n.boot++
	n.armed = clock.Never
	n.owner, n.asked, n.paused, n.draining = nil, 0, 0, 0
	if n.disk != nil {
		n.disk.wakes(n)
		st := n.disk.state
		st.Tail = slices.Clone(st.Tail)
		copyMax := int64(copyRegions * regionBytes)
		if n.older {
			copyMax = 0
		}
		n.replica = replica.New(replica.Config{Boot: n.boot, RegionBytes: regionBytes, CopyMax: copyMax}, replicaEnv{n, n.boot}, st)
	}
	n.tick(n.boot)
}

func (n *node) crash() {
	n.alive = false
	n.owner = nil
	if n.disk != nil {
		n.disk.powerCut()
	}
}

// next is when the owner wants a tick, or somewhat before or later.
func (n *node) next() time.Duration {
	if n.owner == nil || n.owner.Over() {
		return n.w.between(time.Millisecond, 3*time.Millisecond)
	}
	due := max(0, n.owner.Deadline().Sub(n.clock()))
	return due*2/3 + n.w.between(0, due*2/3+time.Millisecond)
}

// arm sets the timer if the owner wants a tick earlier than it did. A lazy node does not look.
func (n *node) arm() {
	at := clock.Never
	if n.owner != nil && !n.owner.Over() {
		at = n.owner.Deadline()
	}
	if n.w.lazy || n.armed != clock.Never && at >= n.armed {
		return
	}
	n.turn++
	turn, boot, next := n.turn, n.boot, n.next()
	n.armed = min(at, n.clock().Add(next))
	n.w.after(next, func() {
		if n.turn == turn {
			n.tick(boot)
		}
	})
}

// tick drives the owner, and the lease.
func (n *node) tick(boot uint64) {
	if n.boot != boot || !n.alive {
		return
	}
	n.armed = clock.Never
	if n.w.lazy {
		n.w.after(n.next(), func() { n.tick(boot) })
	}
	n.do(func() {
		sent := n.clock()
		switch {
		case n.owner != nil && !n.owner.Over():
			n.owner.Tick(sent)
			n.w.handedOver(n)
			n.w.accused(n)
			if epoch := n.epoch; n.w.chance(0.2) {
				n.w.send(n.index, n.w.meta.index(), func() { n.w.meta.renew(n, epoch, sent) })
			}
		case n.owner != nil && n.draining == n.epoch:
			n.draining = 0
			n.w.drained(n)
			epoch := n.epoch
			n.w.send(n.index, n.w.meta.index(), func() { n.w.meta.release(n, epoch) })
		case n.w.chance(0.04):
			early := n.w.chance(n.w.hasty) && !n.w.calm && n.w.now >= n.w.still
			n.w.send(n.index, n.w.meta.index(), func() { n.w.meta.acquire(n, sent, boot, early) })
		}
	})
}

// learn passes on what Meta says.
func (n *node) learn(v news) {
	if n.owner == nil {
		return
	}
	if v.view.Revision > n.known.view.Revision {
		n.known = v
	}
	n.owner.Meta(n.clock(), v.view)
	n.owner.Grow(n.known.bytes)
	if n.moves != [2]uint64{n.known.began, n.known.ended} && n.draining != n.epoch { // its sets are not those any more
		n.owner.Drain(n.clock())
		n.draining = n.epoch
	}
}

func (n *node) granted(v news, sent clock.Mono, boot uint64, wait time.Duration) {
	if boot != n.boot || v.view.Epoch <= n.asked {
		return
	}
	n.asked = v.view.Epoch
	if n.owner != nil {
		n.owner.Stop(n.clock())
	}
	local := -1
	if n.index < len(v.view.Members) {
		local = n.index
	}
	n.epoch, n.known, n.moves = v.view.Epoch, v, [2]uint64{v.began, v.ended}
	n.owner = volume.New(n.config(), ownerEnv{n, boot}, volume.Grant{View: v.view, Until: sent.Add(lease), Waits: n.clock().Add(wait), Local: local}, n.clock())
}

type replicaEnv struct {
	n    *node
	boot uint64
}

// Submit gives op to the model disk.
func (e replicaEnv) Submit(op *replica.Op) {
	r := e.n.replica
	op.Data = slices.Clone(op.Data)
	e.n.disk.submit(op, func() {
		e.n.do(func() {
			if e.n.boot == e.boot {
				if r == nil {
					r = e.n.replica
				}
				r.Done(op)
			}
		})
	})
}

// Answer sends resp.
func (e replicaEnv) Answer(to int, resp replica.Response) {
	w, d := e.n.w, e.n.index
	arrives := responseSent(resp)
	w.send(d, to, func() {
		w.nodes[to].do(func() {
			if o := w.nodes[to].owner; o != nil {
				resp := arrives()
				o.Answer(w.nodes[to].clock(), d, resp)
				for i := range resp.Data {
					resp.Data[i] = 0xdd // it is the network's again
				}
			}
		})
	})
}

type ownerEnv struct {
	n    *node
	boot uint64
}

// Send sends q.
func (e ownerEnv) Send(disk int, q replica.Request) {
	if q.Kind == replica.Fence && q.Session > 1 {
		e.n.w.sessions++
	}
	to := e.n.w.nodes[disk]
	from := e.n.index
	arrives := requestSent(q)
	e.n.w.send(from, disk, func() { to.do(func() { to.replica.Handle(from, arrives()) }) })
	if w := e.n.w; !w.calm && (!to.alive && w.chance(0.3) || w.chance(w.hinty)) { // true, and not
		epoch := e.n.epoch
		w.after(w.between(100*time.Microsecond, time.Millisecond), func() {
			e.n.do(func() {
				if e.n.boot == e.boot && e.n.owner != nil && e.n.epoch == epoch {
					e.n.owner.Unreachable(e.n.clock(), disk)
				}
			})
		})
	}
}

// Propose sends p to Meta.
func (e ownerEnv) Propose(p volume.Proposal) {
	w := e.n.w
	propose := func() { w.meta.propose(e.n, p) }
	if p.Change == volume.MarkOut {
		w.meta.leaving[p.Disk] = w.now + latest + commits
	}
	w.send(e.n.index, w.meta.index(), propose)
	if w.tardy && !w.calm && p.Change == volume.MarkIn && w.chance(0.5) { // it is lost and back when a copy comes
		w.after(w.between(time.Millisecond, 10*time.Millisecond), func() {
			if !w.calm {
				w.isolate(w.nodes[p.Disk])
				w.healAfter(w.between(16*time.Millisecond, 30*time.Millisecond))
			}
		})
		w.after(w.between(20*time.Millisecond, 70*time.Millisecond), propose)
	}
}

// Complete answers the host.
func (e ownerEnv) Complete(op *volume.Op) {
	r := op.Tag.(*record)
	w := e.n.w
	err := op.Err
	data := slices.Clone(op.Data)
	for i := range op.Data {
		op.Data[i] = 0xee // the buffer is the host's again
	}
	switch {
	case err != nil || op.Kind == volume.Read:
	case op.Kind == volume.Scrub:
		if op.Found.Differ > 0 && !w.rotten {
			w.fail("a scrub of %d bytes at %d found %d that differ", op.Len, op.Off, op.Found.Differ)
		}
	default:
		for b := op.Off; b < op.Off+r.blocks*blockBytes; b += blockBytes {
			if n := w.copiesOf(b, r); n < w.minInSync {
				w.fail("op %d was acknowledged with %d copies of block %d", r.n, n, b/blockBytes)
			}
		}
	}
	sent := op.Sent || op.Kind == volume.Read || op.Kind == volume.Scrub
	w.after(w.between(20*time.Microsecond, 400*time.Microsecond), func() { r.answered(w, err, sent, data) })
}

// copiesOf counts the replicas of the extent of block b that have had what r
// wrote there.
func (w *world) copiesOf(b int64, r *record) int {
	copies := 0
	for _, d := range w.meta.sets[b/extentBytes] {
		if at, ok := w.nodes[d].disk.held[b/blockBytes][r.value]; ok && at >= r.call {
			copies++
		}
	}
	return copies
}

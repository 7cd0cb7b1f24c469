package volume

import (
	"time"

	"blockd.dev/replication/replica"
)

// Status is how an owner stands. It is a copy.
type Status struct {
	Epoch    uint64
	Serving  bool // the takeover is done, of every extent
	Draining bool
	Over     bool
	Members  []MemberStatus

	Waiting  int    // ops that have not begun, for want of replicas
	InFlight int    // pieces that have begun or wait for a lock
	Unserved int64  // bytes whose takeover is not done
	Unsure   int64  // of these, nobody who is there can tell what is right: who is in sync may have lost something, and others are Awaited; see Owner.Trust
	Below    int64  // bytes that are not writable: fewer than MinInSync required replicas, or one is waited for
	Seq      uint64 // sequence number of the newest write
	Stable   uint64 // the watermark

	Equalized uint64 // writes of earlier owners that this one had to repeat
	Repairs   uint64 // ranges that a replica could not read and that were written again

	Compared uint64 // bytes of replicas that rebuilds compared by their versions
	Copied   uint64 // bytes that rebuilds sent; a hole is none

	// Pause is what each step of a resync waits for the sake of hosts.
	Pause time.Duration

	Lock   Latency // host's pieces, from Submit to the lock
	Reads  Latency // host's ops that succeeded, from Submit to Complete
	Writes Latency // all that change data
	Slow   Latency // host's changes, from the lock to the slowest required replica

	LockReads  Latency // those of Lock that read
	LockWrites Latency // and the others
	Others     Latency // host's changes, from the lock to the slowest of the replicas that are not local
	OtherNode  Latency // of these the part for which the node of that replica had them, where it tells
	Hedged     Latency // host's reads of which a second replica was asked, from the lock to the first answer
}

// MemberStatus is how one replica stands.
type MemberStatus struct {
	Sync      Sync
	Gen       uint64
	Connected bool
	Required  bool          // must have a write before it is acknowledged
	Missed    bool          // is away and can't be done without: its extents are not writable
	Away      time.Duration // since when it has no session
	Left      int64         // regions that a rebuild has not found or made equal yet
	Regions   int64         // that it keeps; 0 while in sync
	Arriving  Arriving
	Unproven  bool // its machine went down, not by a shutdown, and what it kept was not vouched for since
	Shut      bool // it is not let in for that before it is out
	Awaited   bool // it is in sync and missing, and extents that are Unsure wait for it
	// LostRegions are those that were copied to it since it had lost, for sure, writes there that it had acknowledged.
	// LostWrites is more than 0 when it came back without the last writes that it had acknowledged to this owner: how far its sequence number went back.
	LostRegions int64
	LostWrites  uint64

	Tail      int      // unstable writes, about
	Refused   uint64   // writes and copies for which its disk had no space
	Obstacle  Obstacle // what keeps it from being in sync though nothing is down
	Reads     Latency  // of hosts, from request to answer
	Writes    Latency
	ReadsNode Latency // of Reads, for how long the replica's node had them, where it tells

	Rebuilding time.Duration // for how long it has been brought back; 0 while it isn't
}

// Arriving is how far the extents have come that are moved to a member, in regions.
type Arriving struct {
	Regions int64
	Left    int64 // that were not found or made equal yet
}

// Status describes the owner.
func (o *Owner) Status() Status {
	s := Status{
		Epoch: o.epoch, Serving: o.Serving(), Draining: o.drain.on, Over: o.over,
		Waiting: len(o.waiting), InFlight: len(o.pieces.all), Seq: o.seq, Stable: o.seq,
		Equalized: o.stats.equalized, Repairs: o.stats.repairs, Pause: o.pace.gap,
		Compared: o.stats.compared, Copied: o.stats.copied,
		Reads: o.stats.reads, Writes: o.stats.writes, Slow: o.stats.slow,
		Lock: o.stats.locks[0], LockReads: o.stats.locks[0], LockWrites: o.stats.locks[1],
		Others: o.stats.others, OtherNode: o.stats.otherNode, Hedged: o.stats.hedged,
	}
	s.Lock.Merge(&s.LockWrites)
	if o.unstable.head != nil {
		s.Stable = o.unstable.head.place - 1
	}
	var awaited disks
	for _, g := range o.groups {
		if g.phase != serving {
			s.Unserved += g.bytes
		}
		if o.waitsForSure(g) {
			s.Unsure += g.bytes
			awaited |= g.disks & o.inSync &^ o.up
		}
		if !o.writable(g) {
			s.Below += g.bytes
		}
	}
	for d, c := range o.conns {
		m := o.view.Members[d]
		x := MemberStatus{
			Sync: m.Sync, Gen: m.Gen, Connected: c.state == up, Required: o.required.has(d), Missed: o.missed.has(d),
			Tail: c.tailed.len(), Refused: c.refused, Reads: c.reads, Writes: c.write, ReadsNode: c.readsNode,
		}
		x.Unproven, x.Shut, x.Awaited = c.proof.unproven, c.proof.shut != 0, awaited.has(d)
		x.LostRegions, x.LostWrites = c.loss.regions, c.loss.writes
		x.Obstacle = c.obstacle.status(o, c)
		if c.state != up {
			x.Away = o.now.Sub(c.since)
		}
		if m.Sync != InSync {
			x.Regions = o.regionsOf(d)
			if x.Left = x.Regions; c.re.active() {
				x.Left = c.re.left
			}
			if c.re.phase != idle {
				x.Rebuilding = max(o.now.Sub(c.re.since), 1)
			}
		}
		if x.Arriving.Regions = o.regionsTo(d); c.re.arriving() {
			x.Arriving.Left = c.re.left
		} else {
			x.Arriving.Left = x.Arriving.Regions
		}
		s.Members = append(s.Members, x)
	}
	return s
}

// stats are the counters of an owner.
type stats struct {
	equalized, repairs  uint64
	compared, copied    uint64
	reads, writes, slow Latency
	locks               [2]Latency // of reads, and of changes
	others, otherNode   Latency
	hedged              Latency
}

// locked counts a piece of a host that has got its lock.
func (s *stats) locked(o *Owner, p *piece) {
	of := &s.locks[0]
	if p.kind != read {
		of = &s.locks[1]
	}
	of.add(o.now.Sub(p.op.began))
}

// finished counts an op that is being completed.
func (s *stats) finished(o *Owner, op *Op) {
	took := o.now.Sub(op.began)
	switch {
	case op.Err != nil:
	case op.Kind == Scrub:
	case op.Kind == Read:
		s.reads.add(took)
	default:
		s.writes.add(took)
	}
	if op.Err != ErrNotOwner && op.Kind != Scrub {
		o.pace.saw(&o.cfg, o.now, took, o.comparing() > 0)
	}
}

// ended counts a piece that has ended well.
func (s *stats) ended(o *Owner, p *piece) {
	switch {
	case p.kind == rewrite && !p.takeover && !p.undone:
		s.repairs++
	case p.ofHost() && p.changes():
		s.slow.add(o.now.Sub(p.started))
		if p.other != 0 {
			s.others.add(p.other.Sub(p.started))
		}
		if p.otherNode != 0 {
			s.otherNode.add(p.otherNode)
		}
	case p.ofHost() && p.hedged:
		s.hedged.add(o.now.Sub(p.started))
	}
}

// atNode is for how long the node of a replica had a request that took as long as took, as its answer
// tells; 0 if it doesn't.
func atNode(resp *replica.Response, took time.Duration) time.Duration {
	if resp.Last == 0 || resp.Last > uint64(took) { // what can't be is no time
		return 0
	}
	return time.Duration(resp.Last)
}

// tookBy notes that replica d has taken a change, after all those that p has heard of.
func (p *piece) tookBy(o *Owner, d int, resp *replica.Response) {
	if d != o.local {
		p.other, p.otherNode = o.now, atNode(resp, o.now.Sub(p.started))
	}
}

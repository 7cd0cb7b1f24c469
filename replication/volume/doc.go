// Package volume is the owner's side of a replicated volume: it orders the
// hosts' reads and writes, keeps the replicas equal, and decides with Meta who
// counts as in sync. The stores' side is replication/replica;
// docs/REPLICATION.md has the protocol, and numbers the invariants cited here
// as [I1], [I2] and so on.
//
// An Owner is one lease on one volume, whose extents may each have replicas of
// their own: it is made of a Grant and is over when the lease ends, when a newer
// owner shows up, after Drain, or on Stop. It is a state machine. Calls bring events with a reading of the clock, actions leave
// through Env, and Tick has to be called when Deadline has come. It starts no
// goroutine and must be called by one goroutine at a time.
//
// Where to read: config.go has what hosts ask for and owner.go the events; sets.go which replicas keep what, conn.go
// the sessions with them, members.go who is in sync; takeover.go what happens before an extent is served, proof.go
// what that takes when a disk may have lost something, and drain.go what happens before the end; admit.go how ops
// begin and end, piece.go and piece_io.go how the parts of them run, locks.go in which order; lag.go what becomes of
// one that is slow; resync.go and pace.go how a replica is brought back, and how extents that are moved arrive,
// scrub.go how replicas are held against each other, space.go what becomes of a write for which a disk has no space;
// status.go what can be told of all that.
//
// Nothing on the way of a read or a write allocates once it has been gone.
package volume

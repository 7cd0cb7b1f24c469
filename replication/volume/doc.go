// Package volume is the owner's side of a replicated volume: it orders the
// hosts' reads and writes, keeps the replicas equal, and decides with Meta who
// counts as in sync. The stores' side is replication/replica;
// docs/REPLICATION.md has the protocol, and numbers the invariants cited here
// as [I1], [I2] and so on.
//
// An Owner is one lease on one replica set: it is made of a Grant and is over
// when the lease ends, when a newer owner shows up, or on Stop. It is a state
// machine. Calls bring events with a reading of the clock, actions leave
// through Env, and Tick has to be called when Deadline has come. It starts no
// goroutine and must be called by one goroutine at a time.
//
// Where to read: owner.go has the events, conn.go the sessions with replicas,
// members.go who is in sync, takeover.go what happens before it serves,
// piece.go how reads and writes run, resync.go how a replica is brought back.
package volume

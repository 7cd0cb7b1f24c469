// Package director is what the leader of the Raft group does for replicated
// volumes: it gives them disks and an owner, takes leases away from nodes that
// shall have none, and says of each volume how it is and why.
//
// # Parts
//
//	Director   runs while this node leads; answers pulses, proposes commands
//	term       what is known and decided in one term, without goroutines or clock
//	           (term.go; by what it is about: leases.go, extents.go, moves.go, rebalance.go, jobs.go, diskjobs.go)
//	Explain    how a volume is, in words; pure, on any node
//
// # What it decides
//
// From the catalog, the pulses of this term and the lease.Leader of this term:
//
//   - Extents that have no disks get some, of nodes that are up, in distinct failure domains.
//   - Extents on disks that are lost or to be emptied move to others, and with a JobRebalance those on
//     disks that have more than their share; a batch of some volumes at a time (moves.go).
//   - A volume without an owner gets one, and one whose owner's lease has ended
//     for certain another. First choice is where an administrator wants
//     it (Lease.MoveTo), then who had it last, if that is alive and may have it, then, of
//     those with a replica in sync, the node with fewest leases.
//   - Leases are recalled from where a node is drained or leaves, some at a
//     time, and where an administrator moves one. Nothing else moves a lease.
//   - What was deleted is forgotten when nobody can be serving it any more.
//   - Jobs of the kinds JobDrain, JobRemove, JobRebalance, JobDrainDisk and JobRebuild are carried on. Disks that
//     drain or are lost get one of the last two; while it is paused, or when it was canceled, their extents stay.
//
// # Rules of leases
//
// The numbers are those of package lease. Rule 2: a term begins with a Barrier,
// and its lease.Leader with a reading after that. Rule 3: Pulse asks Verify
// before it renews anything, and the term that Verify proves must be that of the lease.Leader.
// Rule 4: each command names its term, and the state machine refuses it in
// any other; so what a leader of the past has decided never counts. When the outcome
// of a command is not known, this node directs nothing more in that term, and
// hands leadership over if it should still have it.
//
// # Goroutines
//
// Run, one that follows the catalog while leading, and one per proposal under way,
// proposalsMax at most. All end with Run. Events are called by Run alone.
package director

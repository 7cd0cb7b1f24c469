// Package group is a replicated log with a state machine behind it: a Raft
// group (hashicorp/raft, raft-wal) whose members know each other by the
// cluster's certificates, agree on which commands they understand, compare
// their states, and choose their voters. What the commands mean is the FSM's.
//
// # Parts
//
//	Group        one member: Apply, Verify, Barrier, membership, backup
//	FSM          the state machine that its user supplies
//	envelope     what an entry of the log looks like
//	meta         the group's own replicated state; a pure fold over entries
//	machine      joins meta and the FSM, and compares hashes
//	Listener     one TLS port for Raft, for members' requests, and for the API
//	ChooseVoters who should vote; pure
//	Backup, Restore, Recover    the state as a file, and ways back from disaster
//
// docs/RAFT.md has what is in the log, the arguments for Verify and for
// retries, and what operators do when members are lost.
//
// # Invariants
//
//  1. An entry that a member's binary doesn't understand never enters the
//     log: the gate opens to a version when every member, voter or not, has
//     announced it, and stays open. A member that is older is not admitted.
//  2. A request takes effect at most once, however often it is proposed.
//  3. Apply without an error means that a majority has the entry on disk.
//     Apply with ErrOutcomeUnknown means nothing; with other errors, that the request had no effect.
//  4. Verify that returns nil proves that no later leader had been elected at
//     some moment after the call began.
//  5. A member whose state differs from the leader's, or whose disk failed,
//     answers nothing any more but why.
//  6. Members of different incarnations don't talk. Restore and Recover begin
//     a new incarnation.
//
// # Goroutines
//
//	hashicorp/raft   main loop, FSM, snapshots; two or three per peer while
//	                 it leads; one per accepted connection
//	raft-wal         segment rotation
//	Group            watch (tells of leadership), keep (announces itself;
//	                 when leading: admits, promotes, removes, opens the gate),
//	                 one per request under way, one per hash being computed
//	Listener         accept loop; one per handshake; one per member's connection
//
// All end with Close. The package does not log: it calls Config.Events.
package group

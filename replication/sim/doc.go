// Package sim runs a whole cluster of replication/volume and
// replication/replica in one goroutine, under a simulated clock, network,
// disks, Meta and hosts, all decided by one seed, and checks what the hosts
// saw. The same seed gives the same run.
//
// What owners and replicas send each other goes through the encoding of package message, as between real nodes.
//
// Faults: messages between any two parts are lost, doubled, delayed by up to
// many timeouts and so reordered; links are cut in one or both directions,
// Meta's too; nodes are killed, and then each operation that their disks
// had not ended has happened or not; machines go down, and then a disk may have lost the last of
// what it had acknowledged (lie.go); nodes stand still; clocks run up to 1% off;
// disks are slow, can't read a block, or fail a write and stop; hints that a peer
// is gone are wrong. Owners drain, the volume grows, extents move to other disks
// (moves.go). Not simulated: a disk that loses that while its machine
// is up, and torn operations, which replica.Op rules out.
//
// Judges: per block, the history is linearizable (check.go); a write that is
// acknowledged is on min_in_sync disks of its extent; what was not sent did not
// happen; no disk is told to have lost something that has not; replicas in sync never differ when they are compared under a lock; after
// a drain nothing is repeated; once the faults end, there is an owner, all
// replicas come back in sync within a set time, all moves come to an end, their contents are equal byte by
// byte, a scrub repairs what is then changed on one of them, and every block reads
// as the history allows.
package sim

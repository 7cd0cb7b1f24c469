// Package sim is a disk in memory whose power can be cut.
//
// A Sim keeps, beside its content, a trace of every write, sync and discard:
// when each was started and when it was acknowledged. Each of these is an
// event. Cut(n, policy, seed) makes the disk that a machine would find if power
// had failed right after the first n events: what a Sync or Dsync made durable
// is there; of the rest, each 512-byte sector is old or new as the policy
// chooses.
//
// Fault model:
//
//  1. A write is durable once it is acknowledged with Dsync, or once a Sync
//     that was submitted after its acknowledgement is itself acknowledged.
//  2. Every other write that was started leaves each of its sectors old or
//     new, independently of each other and of every other write.
//  3. A durable sector is never replaced by a write acknowledged before the
//     durable one.
//  4. After a failed Sync, the writes that it covered are never durable, even
//     when a later Sync succeeds; only writing the data again helps.
//  5. Discarded blocks hold the old data, zeroes or junk.
//  6. Rules (package faulty) may fail, tear, lose, misplace or corrupt I/O.
//
// Data is stored once, in pages that never change; contents are trees of
// pages that share structure, so that a cut costs what it changes and a
// "4 GiB" disk costs what was written to it.
//
// There are no goroutines except in mode Async, and there only while I/O is in
// flight. The same calls and seeds give the same disk, byte for byte.
package sim

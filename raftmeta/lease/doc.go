// Package lease decides who may serve a volume: one node, its owner, for as
// long as its lease lasts. docs/LEASES.md has the argument why two nodes never
// hold one volume at the same instant.
//
// # Parts
//
// Table is the replicated part, an immutable value: for each volume its owner
// and an epoch that only grows. It knows no time. Stores refuse requests of
// older epochs, so a Table alone keeps data from being damaged; the rest keeps
// a former owner from answering reads with what is no longer true.
//
// Leader is what the Raft leader keeps in memory for one term: until when each
// lease may be held. It is lost with the term, and a new leader waits for
// everything that the last one may have promised.
//
// Holder is the owner's side: what it may serve, until when, and what to send.
//
// # Rules that callers keep
//
//  1. Readings come from a clock that counts the time of suspension
//     (clock.Boot), the same one for the life of a Holder or Leader.
//  2. A Leader is made after the node won its election and applied everything
//     before its term. The Table that it is given is the newest applied one.
//  3. When a Renewal arrived, the node first verifies with a majority that it
//     was still leader of this term at some moment after the arrival. Only
//     then does it call Leader.Renew and send the Answer.
//  4. Nothing is granted but what Leader.Propose allowed, and Leader.Settled is
//     called when the outcome is known and applied.
//  5. A Holder's Release is sent after Holder.GiveBack returned it, and all
//     requests that were accepted under the lease have ended.
//  6. The incarnation of a node grows with every start of its process and is
//     durable before it is used; one process at a time has it, since the data
//     folder is locked. So a newer incarnation proves that the older is dead.
//
// The package starts no goroutines. Tables are safe for concurrent use; a
// Leader and a Holder belong to one goroutine, save that Lease.Valid and
// Lease.Deadline may be called from anywhere.
package lease

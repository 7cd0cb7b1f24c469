// Package replica is the store's side of a replicated volume: it decides what
// a replica does with the requests of owners, past and present. The owner's
// side is replication/volume; docs/REPLICATION.md has the protocol and numbers
// the invariants that are cited here as [I1], [I2] and so on.
//
// A Replica is the part of one volume that one disk keeps. It is a state
// machine: requests and completions of its store go in, answers and store
// operations come out through Env. It knows no time, starts no goroutine, and
// must be called by one goroutine at a time.
package replica

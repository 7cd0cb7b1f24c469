// Package membership decides which nodes are alive, from heartbeats and from
// what their peers say. It runs on the Raft leader; a change of state goes
// into the log by whoever drives it, with the reason in words.
//
// Nothing here makes a cluster correct: leases and epochs do. A wrong "down" costs
// a rebuild or a takeover that was not needed, a late one costs time.
//
// # How a node is found dead
//
// Fast: the peers which had a connection to its process report that it died
// (a reset, or a refused port). A majority of those which may speak, the leader
// among them, is enough, unless the leader still hears heartbeats. A process
// that is gone is down as soon as its sockets are.
//
// Sure: nothing was heard for SuspectAfter, and the node is suspect; for
// DownAfter, and it is down, provided that enough peers don't hear it either.
// One way of a connection may be cut: a node which the leader can't hear, but
// at least half of those asked can, is suspect, with that reason, and not down.
//
// # States
//
//	joining -> up -> suspect -> down -> up            the usual way around
//	                            down -> held -> up    a node that flaps
//	up, suspect, held -> draining -> up               by an administrator
//	any -> left                                       by an administrator, for ever
//
// A node that came back is held when it was down often: the first return is
// free, and each further one within FlapMemory doubles the hold, from HoldMin
// to HoldMax. A held node is alive and takes part in nothing new.
//
// All times are readings of one monotonic clock that the caller passes in. The
// package starts no goroutines, and a Table belongs to one.
package membership

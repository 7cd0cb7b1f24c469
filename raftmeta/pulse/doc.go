// Package pulse is a node's side of the control of leases: several times a
// second it tells the leader of the Raft group that it is alive and what it
// serves, and hears what it may serve until when.
//
// # Parts
//
//	Node      sends pulses, keeps the lease.Holder, and tells the daemon by Events
//	holding   what Node knows: decisions without goroutines, sockets or clock
//	Caller    how a pulse gets to the leader, which may be this node
//	Serve     how it gets in there, from the RPC to a Server (package director)
//	Defaults  the times, which are the same on all nodes
//
// # What a pulse is
//
// Each pulse has the node's incarnation, what it thinks of its peers, a
// renewal of all of its leases, and the leases that it gives back. Lost ones
// are not repeated: the next one says the same and more. Several may be under way,
// since one that hangs must not keep the next from renewing.
//
// # The life of a lease here
//
// A grant shows in the catalog; the next pulse claims it, at once. When the
// leader has answered, Events.Acquired is called. From then on each pulse
// renews it, until Events.Lost, or until the daemon calls GaveBack. A lease whose end
// has come without an answer is lost too, although the catalog may still name
// this node: whoever served under it has stopped, and begins again with a new epoch,
// which the leader gives at once to a node that says so.
//
// # Goroutines
//
// Run, one that follows the catalog, and one per pulse that has no answer yet,
// sendingMax at most. All end with Run. Events are called by Run alone, in order.
package pulse

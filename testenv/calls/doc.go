// Package calls has clients call the control API of all nodes of a cluster while
// things happen to it, records what they asked and what they were told, and
// checks that there is an order of it in which every volume's entry in the
// catalog is an object: each call takes effect at one moment between its begin
// and its answer (Herlihy and Wing, "Linearizability", 1990).
//
// A client whose call breaks off asks the next node with the same request id, so a
// call may reach the cluster several times and takes effect once. One that gives up
// leaves the call open: it may take effect at any moment after its begin, or never.
// A read is linearizable: the node first learns how far the group is.
//
// # Goroutines
//
// One per client of a Load; Stop ends them.
package calls

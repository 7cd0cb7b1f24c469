// Package serve is what stands between the replicated volumes of a node and the
// network: Service keeps the replicas on this node's disks and does what owners,
// here and elsewhere, ask of them; Transport carries requests to replicas and to
// owners, on this node by a call and to others by replication/wire/endpoint.
//
// A request that arrives is decoded where it lies, given to its Replica, which
// says what the store shall do, and answered when the store has done it; its
// data goes from the network's memory to the store's log, or from the store's
// buffer to the network, without a copy here. Answers wait in the store or in
// the endpoint, not in this package.
//
// There are no goroutines. Each replica is fed through an inbox, by pumps of the
// endpoint, owners, and completions of its store: whoever comes first works for
// those who come meanwhile.
package serve

// Package pki is how members of a cluster, and those who administer it, know
// each other: its certificate authority, the certificates of nodes and
// clients, the tokens that let a node in, and the keys that protect secrets
// within the replicated state. It opens no connection and serves no request.
//
// # Parts
//
//	Identity    who a certificate says its holder is: blockd://CLUSTER/...
//	Authority   signs certificates; Bundle is what is trusted, one CA or two
//	Token       what a joining node is given: an id, a secret, the hash of the
//	            authority's key, addresses; TokenRecord is what the state keeps
//	Keyring     cluster keys that Seal and Open what must not be read by who
//	            only has a copy of the state
//	Files       a node's key, certificate, trust and cluster keys on its disk
//	Credentials what TLS needs of all this; renewed while connections live
//
// # Where the authority's key lives
//
// It is in the replicated state, sealed by the cluster key, and in no file.
// Every node has the cluster key (cluster.keys, mode 0600, handed over when it
// joins), so any member that leads can admit a node or renew a certificate.
//
// A file on the first node would be simpler, and would mean that nobody joins,
// and no certificate is renewed, once that node is gone; within a year the
// cluster would stop talking to itself. A key kept by the administrator
// would make every renewal a manual act. The price of the choice: who takes
// over one node takes over the authority. Such a node could already read and
// write all volumes, so the authority adds the power to stay, which is ended
// by rotating both it and the cluster key after the node's removal.
//
// A backup of the state has no cluster key in it: to restore one on new
// machines, cluster.keys must have been kept too, apart from it.
//
// # Rotation of the authority
//
// This is the plan, which Bundle and Keyring are made for; no command carries it out yet.
//
//  1. Prepare: a new authority is made, its certificate joins the old one in
//     the Bundle, which every node stores (Bundle.With). The old one signs.
//  2. Switch: when every member has announced the new Bundle, the new
//     authority signs. Nodes renew at once. Tokens that name only the old
//     authority are void: a node that joins by one is refused with an error that says so.
//  3. Retire: when no member's certificate is signed by the old one, or at the
//     latest when the last of them has expired, it leaves the Bundle
//     (Bundle.Without).
//
// A Bundle never has more than two, so a rotation is finished before the next.
//
// # Rotation of the cluster key
//
// Keyring.Add makes a new key the one that seals; old ones still open. Sealed
// values name their key, so the state is sealed again value by value, and
// Keyring.Drop forgets the old key when nothing names it any more.
//
// # Time and randomness
//
// Everything takes the time from its caller, apart from the TLS callbacks,
// which ask Credentials.Now. Keys and secrets come from crypto/rand. The package starts no goroutine.
package pki

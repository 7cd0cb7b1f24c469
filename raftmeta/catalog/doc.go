// Package catalog holds what an administrator has decided: pools, volumes,
// hosts with their secrets, and which host sees which volume at which LUN.
//
// # Parts
//
// State is the whole catalog at one revision, an immutable value. State.Apply
// is a pure function from a state and a command (catalogpb.Command) to the
// next state and a Result. It reads no clock and no random source: identifiers,
// the time and the actor come with the command. The same commands in the same
// order give states with the same Hash on every node.
//
// Catalog puts commands in order, makes each durable in a Journal before it is
// answered, publishes the new state behind an atomic pointer, and tells those
// who Wait. Journal keeps the commands in a log file with a snapshot beside it;
// a replicated log will take its place and leave the rest as it is.
//
// # Invariants of a State
//
//  1. Names are valid, and distinct within pools, volumes and hosts; so are
//     identifiers, and IQNs and NQNs of hosts.
//  2. LUNs of volumes are distinct; a volume's pool exists.
//  3. A mapping's volume exists and is not retired; its host exists or is any.
//  4. No host sees two volumes at one LUN, or one volume at two, counting the
//     mappings to any.
//  5. Sizes are multiples of 4096 between VolumeSizeMin and VolumeSizeMax.
//
// # Goroutines
//
// The package starts none. Do and Close are serialised by a lock; State may be
// called from anywhere and never blocks.
package catalog

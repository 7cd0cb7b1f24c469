// Package catalog holds what an administrator has decided, and what the nodes
// must agree on: pools, volumes, hosts with their secrets, which host sees which volume at
// which LUN, nodes and disks, join tokens, jobs, leases and reservations.
//
// # Parts
//
//	State      all of it at one revision, an immutable value
//	fold       one command being applied to a copy: files by what they are about
//	           (node.go, disk.go, pool.go, job.go, lease.go, replica.go, ...)
//	FSM        State as the state machine of the Raft group
//	Catalog    a member's way to read (State, Wait, Watch) and change (Do, DryRun)
//	Import     takes over the journal of a blockd that had no group
//
// State.Apply is a pure function from a state and a command (catalogpb.Command)
// to the next state and a Result. It reads no clock and no random source: identifiers,
// the time and the actor come with the command. The same commands in the same
// order give states with the same Hash on every node. New kinds and fields of
// commands take a new version: see CommandVersion.
//
// # What it costs
//
// A command copies the list that it changes, and no other: volumes, hosts and
// mappings are at most 16384 each, and administrators change them one by one. What changes
// often is kept otherwise: leases, reservations and the extent map in persistent maps, the audit
// log and remembered requests in arrays that versions share. The log of changes, the audit log and
// the remembered requests are bounded. See BenchmarkApply.
//
// # Secrets
//
// Secrets of hosts and the key of the certificate authority are sealed by the
// cluster key before they get into a command (secrets.go). Nothing that this
// package writes has them in the clear; journals from before did, and stay
// beside as catalog.imported until somebody deletes them.
//
// # Invariants of a State
//
//  1. Names are valid, and distinct within pools, volumes, hosts and nodes; so are
//     identifiers of everything, and IQNs and NQNs of hosts.
//  2. LUNs of volumes are distinct; a volume's pool exists.
//  3. A mapping's volume exists and is not retired; its host exists or is any.
//  4. No host sees two volumes at one LUN, or one volume at two, counting the
//     mappings to any.
//  5. Sizes are multiples of 4096 between VolumeSizeMin and VolumeSizeMax.
//  6. A volume's home is a disk or a node that exists, or zero; a disk's node exists, or is zero.
//  7. Leases and reservations are of volumes that exist. The owner of a lease may be a node
//     that was removed; the one that it shall move to is not.
//  8. At most one job of a kind is under way for a subject; tokens are distinct.
//  9. No list is longer than its bound.
//  10. Numbers of nodes and of disks are distinct, from 1 to the last one given; those of disks
//     ascend. A state of version 1 has none.
//  11. The extent map has the volumes of pools of several copies that are not retired, no
//     others, as the pool says and with extents for the size. They have no home. Its disks exist.
//  12. A pool's MinInSync is no less than it takes to read, and no more than there are copies.
//
// # Goroutines
//
// The package starts none. State may be called from anywhere and never blocks.
package catalog

// Package extmap is the extent map: for every extent of every volume, the
// disks that keep it, in order. It is the part of the Raft group's state that
// grows with the data, so it is small and shares what it can: 1 PiB is 16 Mi
// extents of 64 MiB, at 10 bytes each with three copies.
//
// # Parts
//
// Map is the whole map, an immutable value. Its methods are deterministic: a
// change gives the next Map, or an error that names what is wrong, and then
// nothing is changed, however long the batch was. Volume is one volume in it.
// Layout turns an address of a volume into an extent and an offset.
//
// A volume keeps its extents in pages of 256, below nodes of 256 pages; a
// change copies the pages and nodes that it touches and nothing else. A page
// has one slice of 16-bit words, for each extent
//
//	| 2 words: generation, low first | disk | disk | ... |
//
// as many disks as the policy says, 0 while the extent is not allocated. The
// order matters: with erasure coding the position says which shard it is.
//
// # Invariants of a Map
//
//  1. The disks of an extent are distinct, all set or all 0. Distinct failure
//     domains are checked by each change, by the Topology of that moment.
//  2. The generation of an extent grows with each change of its disks, also
//     when it is freed, so what a disk kept from before is known to be old.
//  3. An extent has at most one move; its source is in the set, its target is
//     not.
//  4. Each allocated extent is in sync on enough disks to be read: one copy, or
//     all data shards. A change that would break this is refused: the last good
//     copy is never called out of sync, nor replaced.
//  5. Growth of a volume changes the place of no byte.
//  6. The generation of a disk for a volume only grows, with every change of its
//     state but MarkIn, and stays when the disk is in sync again or has nothing
//     of the volume any more. Such a disk is in sync.
//  7. The proof of a disk for a volume only grows while the disk has something of it,
//     and is 0 otherwise.
//
// The package starts no goroutines; a Map may be read by anyone at any time.
package extmap

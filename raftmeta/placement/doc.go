// Package placement chooses disks for extents, and plans moves when disks
// come, go, or are unevenly full. It runs on the Raft leader; what it chooses
// goes into commands that every member checks again (extmap.Map.Allocate,
// StartMoves). docs/PLACEMENT.md has the figures.
//
// A Cluster is a view of the disks of one pool, with a failure domain for
// each. Place takes the least full disk, by used over weight, of a domain that
// the extent isn't in yet, and again until the set is complete; disks that are
// equally full are told apart by a hash of the seed, so that the sets are many
// different ones and a lost disk is rebuilt from many to many.
//
// The map is explicit, so nothing moves because a formula changed: when a disk
// comes, a Balance moves what is above the fair share of the others, if somebody asks for it,
// and when one goes, Evacuate moves what it had. Both look at the present map only
// and make a bounded batch of moves of one volume; called again after the batch was
// started or done, they go on, on this leader or another.
//
// The same arguments give the same result: no clock, no randomness but the
// seed. A Cluster counts what it placed, and belongs to one goroutine.
package placement

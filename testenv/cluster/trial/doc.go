// Package trial proves replicated volumes on a cluster of real nodes under
// faults. Hosts with a path to every node read, write, clear and compare-and-write
// blocks while something happens to the cluster (see Faults), and everything
// they did and were told is checked (blockbench/history): each block must have
// behaved like a single register, so that no acknowledged write is lost and no
// read is stale. Further hosts, the watchers, read by one node's path alone,
// which shows what a node says that has lost the volume and may not know it.
//
// A fault that did nothing is an error: a partition that lost no frame, a full disk of which
// no host was told. After each fault every copy must be in sync again, and every block that was ever
// written is read by the path of each node. After the last one the copies are compared on the disks.
package trial

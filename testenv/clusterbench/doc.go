// Package clusterbench measures replicated volumes on a cluster of three real
// nodes on this machine (testenv/cluster): what three copies cost beside one,
// and AF_XDP beside UDP sockets, each in the same run. `bin/testenv cluster
// bench` prints it, and `make bench` runs that.
//
// All nodes, the host and the network between them share the machine's
// processors, and the disks are in memory. So the figures say what the software
// costs, and nothing about disks; ratios hold better than figures.
package clusterbench

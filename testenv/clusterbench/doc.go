// Package clusterbench measures replicated volumes on clusters of real nodes on
// this machine (testenv/cluster). `bin/testenv cluster bench` prints what it
// finds, and `make bench` runs that. Its parts:
//
//	copies    what three copies cost beside one, over AF_XDP and over UDP sockets;
//	          disks in memory, so that it is the software that is measured
//	files     the same with all disks in files of one file system, and each write synced
//	durable   three copies with all disks in files of one file system, beside Ceph's
//	          RBD (testenv/ceph) with its OSDs on the same
//	resync    what is copied to bring a node back that was away, how fast a disk is
//	          emptied onto another, and what hosts see of either
//	rebuild   how fast other disks get the copies of a node that is lost for good, many from
//	          many, and what hosts see of it: of the same volumes, and of another
//	failover  how long a host waits when the owner of its volume is killed, and when
//	          the volume is moved
//	idle      what nodes cost that have nothing to do
//
// All nodes, the host and the network between them share the machine's
// processors, and so do a peer's. Ratios of one run hold better than figures.
package clusterbench

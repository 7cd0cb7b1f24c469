// Package cluster builds clusters of real blockd processes on one machine, and
// does to them what happens to clusters: nodes are killed, stopped and started,
// disks fail and fill up, the network loses, delays and parts. It is for tests and
// for trying out; docs/TESTENV.md shows the same by command line.
//
// # What a cluster is made of
//
//	PREFIX-n1 ... PREFIX-nN   network namespaces, a node in each
//	PREFIX-host               one more, for initiators and blockctl
//	PREFIX-sw                 one with a bridge, a switch between the others
//	DIR/n1/fs                 a tmpfs per node, with its data directory and disks; with OnDisk a directory
//	DIR/n1/log                what its blockd printed
//	DIR/cluster.json          all that another process needs to go on with it
//
// Nothing is made in the machine's own network namespace, so clusters meet
// neither each other nor the machine's network, and all of them use the same
// addresses: 10.77.0.1 and fd77::1 for n1, 10.77.0.200 and fd77::c8 for host.
// PREFIX is drawn at random, and what has such a name already is left alone.
//
// The processes outlive who started them. They are known by pid, start time
// and boot, and signaled by pidfd, so that no process that got a pid later is
// ever hit. A Cluster is not bound to the process that made it: Open finds it in its directory.
//
// # How faults are made
//
//	Kill, Pause, Resume    SIGKILL, SIGSTOP, SIGCONT
//	Partition, Loss        a BPF program where frames leave the switch for a node
//	Delay                  the same program hands frames to a process that sends them later
//	Bandwidth              the qdisc tbf at the same place
//	Reset                  the kernel's own way to end connections (INET_DIAG_DESTROY)
//	SetClock               the function by which blockd reads the wall clock is replaced in its memory
//	DiskFaults             rules of blockdev/disk/faulty, which blockd reads from a file
//	DiskFull               a file that takes all that is left of the node's tmpfs
//
// The program (tcx, Linux 6.6) looks at nothing but the sender's MAC address,
// so what it does is done to all protocols alike, to ARP and neighbour discovery too. The usual
// means, the qdisc netem, is a module that many kernels lack. bpf/fault, which
// tells datagrams apart, may act on the same interfaces besides.
//
// What it can't do: cut power (the tmpfs outlives blockd; see blockdev/disk/sim
// for that), have clocks run too fast or too slowly.
//
// # Goroutines
//
// One per process started by this process, waiting for its end, so that it
// leaves no zombie; it ends when the process does. CarryLate starts two per node.
package cluster

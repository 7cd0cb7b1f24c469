// Package fault damages the cluster's datagrams as they pass a network
// interface: it drops, corrupts, duplicates and delays them at set rates, by
// sender and receiver. It is for tests; the daemon doesn't use it.
//
// # Where it acts
//
// Two programs hang on the interface's traffic control (tcx, Linux 6.6), one on
// each direction. XDP was not chosen, since it can neither hold nor copy a
// frame, and has but one place per NIC, which bpf.Steer needs.
//
// AF_XDP goes past the traffic control of the NIC that its socket is bound to,
// in both directions. So load a Fault at the other end of the wire: for a node
// whose veth interface ends in a switch, at the switch's end of that wire.
// There, what the node sends arrives, and what it is to receive leaves, as the
// kernel's own frames, however the node sends and receives.
//
// # How each fault is made
//
//	Drop       the frame is freed. A rate of 1 is a partition, of that direction only
//	Corrupt    a bit of the UDP payload is inverted and the UDP checksum made
//	           right again: only the receiver's own check can notice
//	Duplicate  a copy is sent at once, by bpf_clone_redirect
//	Delay      the frame goes to this process by a ring buffer, and is sent by an
//	           AF_PACKET socket when it is due, in the order of due times: frames
//	           with different delays are reordered. Only what leaves the
//	           interface can be delayed
//
// The usual means of delay, the qdiscs netem and fq, are modules that many
// kernels lack, and act on all traffic. A frame that the process sends late is
// late by some 50 us more than was asked for. A datagram may suffer several
// faults; one that is dropped suffers no other. A copy, and a frame that was
// late, pass without any.
//
// What a rule does to the n-th datagram that matches it is a function of the
// Config's Seed, the rule and n: the same traffic gives the same faults.
//
// A packet that the kernel has still to cut into datagrams (UDP_SEGMENT) counts
// as one, and can't be delayed; switch that off by ethtool -K where it matters.
//
// A Fault runs two goroutines, one that takes late frames and one that sends
// them, until Close. Programs and rules are gone when the process is.
package fault

// Package nic looks at network interfaces for what AF_XDP needs to know: the
// device below VLANs, the driver and what XDP it offers, queues and how
// received flows are spread over them, whether another XDP program is
// attached. It reads ethtool, rtnetlink and the kernel's netdev family of
// generic netlink (Linux 6.3), needs no privilege, and changes nothing.
//
// # Which queue a flow arrives at
//
// A NIC with several receive queues hashes each packet's addresses and ports
// (RSS) and looks the queue up in its indirection table, modulo the table's
// length. All datagrams between two nodes have one pair of addresses and one
// port at both ends, since a reply goes to where the datagram came from and
// only the cluster's port is steered; so they arrive at one queue, and nodes
// spread over queues, not the datagrams of one node. A node with several
// addresses has as many flows.
package nic

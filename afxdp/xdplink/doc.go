// Package xdplink is a link.Link over AF_XDP: datagrams go between this
// process and a NIC's queue without the kernel's network stack. It joins the
// parts: the steering program (bpf), the neighbours (afxdp/neigh), memory
// (afxdp/umem), a socket and its rings (afxdp/socket, afxdp/queue) and the
// headers (afxdp/packet).
//
// A Device is one NIC: a program, a UMEM, a table of neighbours. A Link is one
// queue of it. Open and OpenAll make both at once.
//
//	bytes per datagram   headers 42 (IPv4) or 62 (IPv6), 4 more per VLAN tag
//	copies               zero-copy: none; else one each way, in the kernel;
//	                     what is received beyond 3.75 KiB of a frame: one more
//	system calls         copy mode: one per Send of up to 32 datagrams (128 from
//	                     Linux 6.17 on), none to
//	                     receive while there is traffic; zero-copy: none when busy
//	allocations          none
//
// # Addresses and ports
//
// All datagrams have the cluster's port as source and destination. A reply
// goes to the source of a datagram, and the program steers the cluster's port
// only, so another source port, which could spread one peer's datagrams over
// the receiver's queues, would lose the replies. Package nic says how flows
// spread instead.
//
// # What is checked of a received datagram
//
// The program has looked at the port and the two addresses. A Link checks all
// lengths, the IPv4 header's checksum, that no piece is missing, that the
// packet is no longer than the MTU, that it is for the link's own address and
// port, and that it has the VLAN tags of the link's interface, or those that are
// left when NICs strip them. The UDP checksum is not checked (package packet
// says why).
//
// A packet beyond the MTU is several datagrams that a sender on the same
// machine left for the hardware to cut (UDP_SEGMENT), where there is no
// hardware: a veth that runs the program in generic mode gets such. In native
// mode the kernel cuts them first. docs/NETWORK.md says what to do.
//
// # Goroutines
//
// None but the two of the neighbour table (afxdp/neigh) of each Device. They
// call back when a way changed; the Device then looks at the interface's MTU,
// and whether it is still there.
package xdplink

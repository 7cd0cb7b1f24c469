// Package bpf holds the programs that run in the kernel's network path, and
// loads them: steer, which gives the cluster's datagrams to AF_XDP sockets,
// and fault, which damages them for tests.
//
// The C sources are in c/, compiled by bpf2go into the object files beside
// this one, which are committed. Nothing is pinned: programs hang on bpf_links
// and maps on file descriptors of this process, so that all of it is gone when
// the process is, however it ends. No goroutine is started, but by a Fault
// (see there).
//
// # What steer decides
//
// For each frame that a NIC receives, in this order:
//
//	frame                                                 verdict  counter
//	not UDP over IPv4 or IPv6, or not to be told            pass     Other
//	a fragment to a local address                           pass     Fragments
//	UDP, but not to the port at a local address             pass     Other
//	to it, from an address that is not allowed              drop     UnknownPeer
//	to it, with a UDP length below 8                        drop     Malformed
//	to it, no socket is registered for the queue            pass     NoSocket
//	to it                                                   redirect Redirected, and the peer's
//
// "Pass" means that the kernel treats the frame as if there was no program:
// ssh, and all that isn't ours, works on as before. A datagram for a queue
// without a socket reaches the kernel's UDP, where a plain socket on the same
// port may take it: so nodes with and without AF_XDP talk to each other, and a
// queue may lose its socket without losing the peer.
//
// Up to two VLAN tags (IEEE 802.1Q, 802.1ad) are stepped over; their numbers
// are not looked at, as a NIC may strip a tag before the program sees it. IPv4
// options are stepped over. With IPv6 (RFC 8200) only a UDP header that
// directly follows is seen: extension headers pass to the kernel. Checksums and
// lengths are the receiver's to check (afxdp/xdplink does). A fragment has no
// port to match on but in its first piece, and blockd never sends any.
//
// The allowlist goes by source address, which anyone on the way can forge: it
// keeps noise away from the process. Who a peer is, the transport's
// authenticated encryption tells (replication/wire/secure).
//
// # One program per NIC
//
// A NIC takes one XDP program, so there is one Steer per NIC, by one process:
// it serves all queues, all ports of the process being one. A second process
// gets ErrBusy, and uses UDP sockets, which work undisturbed, since steer passes
// what isn't for its own port and address. Chaining programs by a dispatcher
// was left out: it adds an indirect call per frame and a daemon's worth of
// state pinned in the filesystem, for hosts that run two kernel-bypass programs
// on one NIC.
//
// # Kernels
//
// Linux 5.10 is the oldest that works: bpf_link for XDP came with 5.9. Frames
// over several buffers (an MTU over about 3,500 bytes in most drivers) need
// 5.18. Fault needs 6.6. Features says what a kernel lacks.
//
// The objects are little-endian only, as are all machines that blockd is built
// for.
package bpf

// Where a packet of the node wire may carry a hint, counted from the start of
// the UDP payload: when the bit HintFlag of the first byte is set, the
// HintSize bytes at HintOffset, right behind the header, name, in any encoding that the sender likes, the
// extent that the packet is for. It stands outside the encryption, so that the
// kernel can count by it; a sender that would rather not tell leaves the bit
// clear, as is the default. The same numbers are in c/steer.c.
const (
	HintFlag   = 0x08
	HintOffset = 16
	HintSize   = 8
)

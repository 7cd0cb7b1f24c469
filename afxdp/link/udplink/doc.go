// Package udplink carries datagrams over the kernel's UDP sockets: the Link
// for hosts where XDP is not allowed, and the measure that AF_XDP must beat.
//
// # Costs
//
// One sendmmsg sends, and one recvmmsg receives, a batch. Where the kernel can
// (4.18 and 5.0), datagrams of the same length to one peer go down its stack
// as one (UDP_SEGMENT), and come up as one (UDP_GRO); where it turns out that
// the device can't, they go singly. Each datagram is copied once by the kernel
// on each side. Buffers are mapped at Open, and nothing is allocated later.
//
// # Buffers
//
// Send slots hold one datagram each. They are free, lent (from Reserve to Send
// or ReleaseTx), or pending (sent by the caller, not yet taken by the kernel,
// whose socket buffer was full). Receive slots hold one datagram or, with
// GRO, up to 64 KiB of them. They are free, armed (to be filled by the next
// recvmmsg), or counted by how many of their datagrams are still to be handed
// out or to be released.
//
// # Path MTU
//
// Datagrams carry the don't-fragment bit, and the kernel's own notion of the
// path MTU is ignored: the transport above probes for it.
//
// There are no goroutines. Wait blocks its thread in ppoll(2), or without traffic only its goroutine
// (afxdp/doze).
package udplink

// Package link defines how datagrams travel between nodes: the Link interface,
// which an AF_XDP queue, a UDP socket and a simulated network implement alike.
//
// A Link is unreliable as a wire is: datagrams may be lost, repeated,
// reordered or damaged. What it promises is that buffers are never confused:
// each is owned either by the Link or by the caller, as the methods say.
//
// # Who calls
//
// One goroutine, the pump, calls Reserve, Send, Recv, Release and Wait. Wake,
// Stats and the descriptive methods may be called from any goroutine, and
// Close from any but once the pump has ended.
package link

import (
	"errors"
	"net/netip"
	"time"
)

// Kind says what carries the datagrams, best first.
type Kind uint8

// The kinds of Link.
const (
	XDPZeroCopy Kind = iota + 1 // AF_XDP, the NIC reads and writes our memory
	XDPCopy                     // AF_XDP in the driver, the kernel copies once
	XDPGeneric                  // AF_XDP after the kernel has built an skb
	UDP                         // plain sockets
	Sim                         // simulated
)

// String returns the name as configuration and blockctl spell it.
func (k Kind) String() string {
	switch k {
	case XDPZeroCopy:
		return "xdp-zerocopy"
	case XDPCopy:
		return "xdp-copy"
	case XDPGeneric:
		return "xdp-generic"
	case UDP:
		return "udp"
	case Sim:
		return "sim"
	}
	return "invalid"
}

// Overhead of the headers in front of a datagram, in bytes, without Ethernet:
// the path MTU less this is the largest datagram.
const (
	OverheadIPv4 = 20 + 8
	OverheadIPv6 = 40 + 8
)

// TxBuf is room for one datagram, owned by whoever holds it: the caller
// between Reserve and Send or Release, the Link otherwise.
type TxBuf struct {
	// Data has length zero and room for at least MaxDatagram bytes after
	// Reserve. The caller extends it, to at least 1 byte, before Send.
	Data []byte
	// Peer is where Send sends it. The same address family as LocalAddr.
	Peer netip.AddrPort
	// Cookie is the Link's own.
	Cookie uint64
}

// RxBuf is one datagram that arrived, owned by the caller from Recv to
// ReleaseRx, which is also free to overwrite Data (to decrypt in place).
type RxBuf struct {
	Data   []byte // at least 1 byte, contiguous
	Peer   netip.AddrPort
	Cookie uint64 // the Link's own
}

// ErrClosed is returned by a Link that was closed, or whose device has gone
// for good. The text of the error that wraps it says which.
var ErrClosed = errors.New("link closed")

// A Link carries datagrams of one local address, through one queue.
type Link interface {
	// Kind says what carries the datagrams; it never changes.
	Kind() Kind
	// LocalAddr is where peers send to. Its port is the cluster's.
	LocalAddr() netip.AddrPort
	// MaxDatagram is the largest Data in bytes that the local interface can
	// send now; the path to a peer may allow less. It may change while the
	// link is up; TxBufs that were reserved before keep their room.
	MaxDatagram() int

	// Reserve fills bufs from the front with empty buffers and returns how
	// many: fewer than asked when the ring is full, and 0 is not an error. A
	// reserved buffer has a place in the ring, so that Send can't run out.
	Reserve(bufs []TxBuf) int
	// Send passes the datagrams to the wire, in order, and takes the buffers
	// back. What can't be sent (no neighbour yet, too long for the path now)
	// is dropped and counted, as a wire would. An error is the end of the link.
	Send(bufs []TxBuf) error
	// ReleaseTx takes back reserved buffers that are not sent.
	ReleaseTx(bufs []TxBuf)

	// Recv fills bufs with datagrams that have arrived, without blocking, and
	// returns how many. An error is the end of the link.
	Recv(bufs []RxBuf) (int, error)
	// ReleaseRx gives received buffers back, in any order.
	ReleaseRx(bufs []RxBuf)
	// RxHoldMax is how many received buffers the caller may keep at once;
	// beyond that the wire would starve.
	RxHoldMax() int

	// Wait blocks until a datagram may have arrived, ring space that Reserve
	// found missing may be there again, Wake was called, or timeout has
	// passed; a timeout of 0 polls, below 0 means no limit. It may return early.
	Wait(timeout time.Duration) error
	// Wake makes the present or else the next Wait return at once.
	Wake()

	// Stats returns the counters; each is exact, together they are no snapshot.
	Stats() Stats
	// Close frees sockets, programs and memory. Buffers still out are invalid.
	Close() error
}

// Watcher is a Link that can wait for something else, too.
type Watcher interface {
	// Watch has Wait return also when one of these descriptors is readable, until
	// Watch is called again. The pump calls it, and the slice stays the pump's.
	Watch(fds []int)
}

// Stats counts what a Link did since it was opened. Counters only grow; one
// that a kind of link can't know stays zero.
type Stats struct {
	TxPackets, TxBytes uint64 // handed to the kernel or the ring; bytes of datagrams
	RxPackets, RxBytes uint64
	TxDroppedNoRoute   uint64 // no route or neighbour (yet)
	TxDroppedTooLong   uint64 // longer than the path takes
	RxDroppedNoBuffer  uint64 // the kernel had no free buffer for it
	RxInvalid          uint64 // not a datagram for us, or broken headers
	TxFull             uint64 // Reserve calls that got fewer than asked
	Syscalls           uint64 // all of Send, Recv and Wait
	Waits              uint64 // Waits that slept
}

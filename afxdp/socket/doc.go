// Package socket makes AF_XDP sockets: it registers the UMEM or shares one that
// is registered, maps the four rings, binds to a queue of a NIC in the best way
// that the kernel grants, and makes the few system calls that remain: to wake
// the kernel and to read its statistics. What moves through the rings is
// afxdp/queue's. Linux's Documentation/networking/af_xdp.rst is the interface.
//
// There are no goroutines. Opening undoes what it did when a step fails. A
// socket that is not closed goes with the process, and its rings too.
//
// # The ladder
//
// Open tries the best way first, and remembers why each better one was refused:
//
//	zero-copy, multi-buffer    the NIC reads and writes the UMEM       Linux 6.6, driver
//	copy, multi-buffer         the kernel copies once                  Linux 6.6
//	zero-copy                  frames up to a chunk only               driver
//	copy                       frames up to a chunk only               Linux 4.18
//
// Multi-buffer comes first, where it is asked for, since without it no frame
// over some 3.5 KiB arrives. A socket that shares its UMEM gets the way of the first.
package socket

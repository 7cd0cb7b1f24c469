// Package afxdp tells how well a machine is set up for the node wire, and what
// would make it better: Probe looks at one interface, Examine at all that the
// wire depends on. Nothing is changed, no socket of the wire is opened and no
// privilege needed; what can't be seen without is said.
//
// The packages below it are the wire's lower half:
//
//	link        what carries datagrams: the interface Link
//	  udplink     by the kernel's UDP sockets
//	  simlink     in memory, for tests
//	  linktest    what every Link must pass
//	xdplink     a Link over AF_XDP; joins the parts below
//	socket      AF_XDP sockets: system calls, mapped rings
//	queue       who has which frame, frames over several chunks; pure
//	ring        the arithmetic of the four rings; pure
//	umem        memory that is shared with the kernel
//	packet      Ethernet, IP and UDP headers; pure
//	neigh       how a frame gets to a peer
//	nic         what an interface can do
//	alarm       what ends a sleep in poll(2)
//	rawbench    what AF_XDP itself does on a wire
//	netlab      small networks for tests
package afxdp

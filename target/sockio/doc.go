// Package sockio is how a frontend's connections read and write their
// sockets: an adaptive reader and a combining writer over one *net.TCPConn.
//
// Reading. A goroutine that waits in the netpoller is woken 40 to 90 us after
// data arrives on a virtual machine; one that polls is there at once but
// costs a core. Conn does both: while a connection is busy its reader polls
// the socket with non-blocking reads for a short, learned time after the last
// byte, then parks. The budget follows what was seen: it grows when a request
// came just after parking and vanishes when requests are further apart than a
// wake-up costs. Across the process at most half of the Ps (and at least one)
// poll at once; the rest park, and pollers yield to runnable goroutines.
//
// Writing. Responses are appended to a queue by whichever goroutine completes
// them; whoever flushes while nobody else does becomes the writer and sends
// all that has gathered with one writev. Nobody blocks: when the socket is
// full a goroutine, started for that and ended after it, waits for room. The
// reader asks Congested and stops taking requests, so that a peer that
// doesn't read holds only its own connection.
//
// In steady state nothing here allocates.
package sockio

// Package sockio is how a frontend's connections read and write their
// sockets: an adaptive reader and a combining writer over one *net.TCPConn.
//
// Reading. A goroutine that waits in the netpoller is woken 40 to 90 us after
// data arrives on a virtual machine; one that polls is there at once but
// costs a core. Conn does both: while a connection is busy its reader polls
// the socket with non-blocking reads for a short, learned time after the last
// byte, then parks. How long, and how many readers of a process may poll at
// once, is for package adaptive to say; pollers yield to runnable goroutines.
//
// While the peer waits for the answer to its only request the reader polls what the
// answer waits for, too (Attend), and sends it: no other thread is woken.
//
// Writing. Responses are appended to a queue by whichever goroutine completes
// them; whoever flushes while nobody else does becomes the writer and sends
// all that has gathered with one writev. A reader that serves several requests
// from one read holds the output back, up to what is worth a write of its own:
// the peer then works on the first part while the rest is served. Nobody
// blocks: when the socket is full a goroutine, started for that and ended
// after it, waits for room. The reader asks Congested and stops taking
// requests, so that a peer that doesn't read holds only its own connection.
//
// In steady state nothing here allocates.
package sockio

// Package nvmetcp is the NVMe/TCP transport (NVMe TCP Transport Specification
// 1.0): it accepts connections, initialises them, lets hosts connect queues to
// an nvme.Subsystem, authenticates them in band, and moves their commands and
// data.
//
// # Parts
//
// What decides holds no socket: the framing rules (package pdu), the transfer
// of a command's data (transfer.go), the authentication (auth.DHController) and
// the command set (package nvme). A conn pumps: one goroutine per connection
// reads, frames, prepares and executes commands; responses are queued by
// whichever goroutine completes a command and leave in one writev per batch
// (package sockio).
//
// # Life of a connection
//
//	phaseInit     waits for ICReq, for at most Limits.InitSeconds
//	phaseConnect  waits for Connect
//	phaseAuth     the host must authenticate; nothing else is served
//	phaseLive     serves commands
//
// All before phaseLive has to happen within Limits.HandshakeSeconds. A peer
// that sends a part of a PDU, or owes the data that an R2T asked for, and then
// nothing for Limits.StallSeconds, is dropped.
//
// # One read command, step by step
//
// The reader finds the capsule in its input buffer, takes a command struct from
// the connection's pool, prepares it, takes a buffer from the arena, unless the
// device lends its own memory, and executes. Of a read that is alone it then waits for the
// completion by itself, if the device can be attended (blockdev.Attendable). On completion a C2HData header,
// references to the data, and the response capsule (unless the SUCCESS flag stands
// for it) are appended to the output queue as one unit. When the kernel has taken
// the bytes, the buffer goes back to the arena or the loan to the device, and the
// struct to the pool. Nothing is allocated. Data that
// the host sends goes from the input buffer to the arena buffer by copy, or,
// what of it has not arrived with the header, by readv directly from the socket.
//
// # Back-pressure
//
// A connection's commands hold at most Limits.BufferBytes of the arena and of what
// devices lend. A command beyond that, or one for which the arena has nothing, is parked until
// a buffer comes back: the reader goes on, so that the data of others can
// arrive. Data that comes within a capsule may exceed the limit, by at most one
// capsule per queue entry, since nothing could be read while it waits.
//
// # Locks
//
// conn.mu guards the list of parked commands and what Sessions shows. The
// pool's lock and those of sockio and nvme are never taken inside it, but for
// sockio's around a response with an SQHD. Server.mu is taken before no other
// lock but conn.mu.
package nvmetcp

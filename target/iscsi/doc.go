// Package iscsi is the iSCSI target (RFC 7143, iSCSIProtocolLevel 1): it
// accepts connections, logs initiators in, and carries their commands to a
// scsi.Target and the data back. Sessions have one connection and error
// recovery level 0.
//
// # Parts
//
// The login (login.go, negotiate.go) and the command window (window.go) decide
// without doing: they take PDUs and return PDUs. A conn pumps: one goroutine
// per connection reads, frames, admits commands and executes them; responses
// are queued by whichever goroutine completes a command and leave in one
// writev per batch (package sockio).
//
// # One READ, step by step
//
// The reader finds a header in its input buffer, decodes it in place, takes a
// command struct from the connection's pool, checks the window under the
// connection's lock, prepares the task, takes a buffer from the arena and
// executes. On completion, under the same lock, the command leaves the task
// table, gets its StatSN and is appended to the output queue with references to
// the buffer. When the kernel has taken the bytes, the buffer goes back to the
// arena and the struct to the pool. Nothing is allocated.
//
// A WRITE's data goes from the input buffer to the arena buffer by copy, or,
// what of it has not arrived with the header, by readv directly from the
// socket.
//
// # Life of a buffer
//
// A command's scatter-gather list is taken from the arena by the reader and
// belongs to the device server between Execute and Done. Every Data-In holds
// one reference on the command until the kernel has its bytes; the last
// reference releases the list.
//
// # Goroutines
//
// One per listener (the caller's, in Serve), one per connection (the reader),
// one ticker per Server for silent connections, and one for the time that a
// cold reset waits for its response to leave.
//
// # Locks
//
// conn.mu guards the window, StatSN, the task table and the order of output.
// sockio's lock nests in it. The pool's lock and those of scsi are never taken
// inside it, and scsi is never called with it held. Server.establishing comes
// before Server.mu, and that before conn.mu; scsi is called with the first one
// held, not with the others.
package iscsi

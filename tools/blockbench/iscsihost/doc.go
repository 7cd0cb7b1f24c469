// Package iscsihost is an iSCSI initiator (RFC 7143) that shows one logical
// unit as a blockdev.Device: one session of one connection, at error recovery
// level 0. It is what blockbench drives targets with, and speaks to any
// target.
//
// Submit sends commands as far as the target's window (MaxCmdSN) allows and
// queues the rest. Write data goes out as immediate data, unsolicited data and
// for R2Ts, as negotiated, straight from the request's buffers; read data is
// read from the socket straight into them. Nothing is allocated per request.
// Requests longer than the target takes are sent in parts, which costs an
// allocation.
//
// A unit attention is taken note of and the command is sent again. When the
// connection ends, every request fails with blockdev.ErrGone, and stays to be
// repeated by the caller: package reconnect does that.
//
// A session has two goroutines: the reader, which also completes requests,
// and one that watches for a target that has fallen silent. Both have ended
// when Close returns.
package iscsihost

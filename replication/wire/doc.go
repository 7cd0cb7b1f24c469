// Package wire is the reliable message transport between nodes: a Conn takes
// datagrams, clock readings and messages, and gives datagrams, messages and a
// deadline. It holds no socket, no goroutine and no clock of its own.
//
// # Layers
//
//	endpoint     goroutines, links, dialing, requests with contexts
//	wire         Conn: messages, acknowledgement, flow control, paths (this package)
//	recovery     round-trip times, loss detection, congestion window, pacing; pure
//	secure       TLS 1.3 handshake between certificates of the cluster, keys, AEAD, replay window
//	packet       the codec of packets and frames
//
// # What is promised
//
//  1. A message is delivered once, or reported failed to its sender, or both
//     when the connection ended before the acknowledgement arrived: a failure
//     never means that the message was not delivered, only that it isn't known.
//  2. Messages of one channel (other than channel 0) are delivered in the
//     order they were sent; those of different channels wait for none.
//  3. A receiver never holds more than the window it granted, in bytes and in
//     messages; a sender never queues more than its own limit.
//  4. A peer from which nothing came for Config.DeadAfter, while it should
//     have answered, ends the connection with ErrPeerSilent.
//  5. No datagram, however made, makes Conn panic, allocate without bound, or
//     accept what the peer did not send.
//
// # Where to read
//
// docs/TRANSPORT.md has the rules and the reasons. Of Conn:
//
//	conn.go        its state, its timers
//	establish.go   the handshake; handshake.go is what it asks of secure
//	receive.go     a datagram comes in
//	produce.go     a datagram goes out
//	outgoing.go    messages from Send to acknowledgement; pieces.go what packets carry of them
//	incoming.go    messages from their first piece to Release
//	acks.go        what to tell the peer of its packets
//	loss.go        what became of ours; recovery decides
//	paths.go       which way, and how long datagrams may be
//	close.go       the end
//
// A packet costs no allocation, and one with 4 KiB some 0.5 µs without its AEAD,
// both ends together (BenchmarkStream4K).
package wire

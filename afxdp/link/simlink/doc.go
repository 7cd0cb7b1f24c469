// Package simlink is a network in memory that loses, repeats, delays,
// reorders and damages datagrams as its seed says.
//
// The core is Network: datagrams in, datagrams out, time passed in by whoever
// drives it, no goroutine, no lock, no clock. The same seed and the same calls
// give the same network, byte for byte. Clock makes a node's clock of the
// network's time, with drift and jumps.
//
// Real is a Network that runs by the process's clock, shared by goroutines,
// and Link one address on it, a link.Link. It starts no goroutine either:
// datagrams move on when somebody sends, receives or waits. Within
// testing/synctest it is as fast as the work that is done.
package simlink

// Package netbench measures requests between two nodes: over every kind of
// Link, and over the kernel's TCP, TLS over it, and UDP, in the same shape.
//
// Serve answers and Run asks; each side is a process, so that it has its own
// CPU time and spins on its own. Requests and replies have fixed lengths, and
// a number of them is in flight. Suite makes two network namespaces, joined
// by a veth pair, runs both sides in them case by case, and compares.
//
// The kernel's side of TCP is used as well as Go's net can: one connection
// with TCP_NODELAY, whatever is complete is handled before the next system
// call, and what is to be sent goes in one. TLS is there since the node wire
// encrypts, too.
package netbench

// Package message is the form in which replicated volumes travel between
// nodes: what an owner asks of a replica, and what a node asks of the owner on
// behalf of its hosts, as the bodies of requests and responses of
// replication/wire/endpoint.
//
// A message ends with its header, so that data, which comes first, begins where
// the transport aligned it and is copied by nobody:
//
//	+------+----------+--------------+------+---------+
//	| data | lists    | fixed fields | type | version |
//	+------+----------+--------------+------+---------+
//	  any    16/8/32 B  by type        1 B    1 B
//	         per entry
//
// Numbers are big endian. What is decoded aliases the message, except for lists
// of versions and tails. A message that is cut short, or says that it has more
// than it has, is ErrMalformed.
package message

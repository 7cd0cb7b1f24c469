// Package pump moves bytes over loopback TCP in the shape of a storage
// protocol and does nothing else: the most that a target written in Go could
// reach on a machine. A client sends requests of a fixed size, a server answers
// each with a reply of a fixed size; neither looks at the bytes.
//
// The same client can ask a real target: it then makes the protocol's requests
// and reads the headers of its replies, and drops the data as before. So what
// differs between two measurements is the server alone.
//
// There are two ways to wait. Blocking uses net.Conn, with one goroutine per
// connection. Spinning polls all sockets with non-blocking reads from one
// locked thread and answers all that one read brought with one writev.
package pump

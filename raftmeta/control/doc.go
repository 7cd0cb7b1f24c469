// Package control is who may ask what of a node's control API: where a
// connection comes from, which role that gives, and which role each method
// needs.
//
// # Parts
//
//	Caller        who asks, decided once per connection by ConnContext
//	Needs         the table: method -> the least that a caller must be
//	Interceptor   refuses calls that the table does not allow
//	Require       the same for paths that are not methods
//	Enter         what a node does to be let into a cluster
//	Peers         asks other nodes what only they know
//
// # Where callers come from
//
//	unix socket        whoever may open it is an administrator, and local
//	TLS, certificate   the role in it; another node may look, to answer for all
//	TLS, without one   nobody; only what carries a credential of its own is open
//	plain TCP          an administrator: a node without certificates listens on
//	                   the loopback only, see group.NewListener
//
// A method that the table does not name is refused, so that a new one can't be
// open by being forgotten.
//
// # Goroutines
//
// The package starts none.
package control

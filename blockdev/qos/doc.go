// Package qos holds requests of hosts back, so that they don't exceed the limits of
// their volume: operations and bytes per second, of all hosts together.
//
// # Where a volume is limited
//
// All requests of a volume go through one Limiter at one place: that of the node with the
// data, or, of a volume of several copies, of its owner, where those count too which
// other nodes forward (Metered). So the limit is the volume's, however many
// nodes and paths its hosts use, and nobody has to divide it.
//
// Forwarded requests lie in the receive window of the connection between the two
// nodes while the owner holds them, and everything else between them needs that
// window too. So the other nodes let only a few through at a time (Windowed): the next ones go
// when the owner has answered. They hold none for longer than WindowWait.
//
// # Order
//
// What is held leaves in the order in which it came, and what comes meanwhile is held
// too. That is not only fair. A host that gives a path up sends its requests
// again by another, which ends in the same queue behind the first copies: none
// of these can be done after the second copy was answered, so the age of what is held does
// not matter at this place. Elsewhere it does, so those who are told to go on
// are told since when they have waited.
//
// # Cost
//
// Without limits Bounded is false, one atomic load. A request that is held costs its
// place in a slice which is kept. There is one timer and no goroutine, and nobody
// blocks: whoever submits goes on to the next request, also of another volume. As many
// are held as hosts have outstanding, which their queues bound.
package qos

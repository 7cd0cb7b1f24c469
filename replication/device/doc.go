// Package device is a replicated volume as a blockdev.Device, on any node of the
// cluster: on the one that owns it, on those that don't, and while nobody does.
// docs/REPLICATION-RUNTIME.md follows a request through it.
//
//	no owner known     requests wait, for Config.Patience at most
//	owned here         requests become ops of a volume.Owner
//	owned elsewhere    requests go to that node, and its answer is the answer
//
// Whoever knows tells the Volume: Own, Disown, Drain, View, Forward. A request
// that has got no answer one way is done again another way, from its beginning,
// except for a compare-and-write that may have been done.
//
// # What is never done
//
//   - A write of a host takes effect after the host was told that it is done.
//     Copies of it may exist where it was sent before. An owner's copies can't be
//     written once the next owner serves, since replicas refuse them; copies at
//     an owner elsewhere belong to a session, and the request is sent again only
//     in a newer one, which begins when nothing of the older can happen any more.
//     Nor is what a host has given up on begun when it was sent by another path
//     meanwhile: once its connection has ended (Request.Gone), and Config.Late after
//     it came, it ends with ErrBusy.
//   - Memory of a host is looked at after its request is done. Owners are given
//     copies of what is to be written, in buffers that are held until the last
//     replica has answered; they read into a host's memory while they have the
//     op, and not after.
//   - A forwarded request is forwarded again.
//
// # Goroutines and locks
//
// There are no goroutines. An owner is fed through an inbox: whoever has an event
// for it, a host's thread, a pump of the endpoint, a completion of the store, a
// timer, works at it until there are none left. Locks, in this order:
// Volume.control, Volume.mu, request.mu, run.foreign; an inbox has one of its
// own, innermost. None is held while anything is called that may call back.
//
// Not supported: OpPoison, shrinking, and asking which blocks are mapped.
package device

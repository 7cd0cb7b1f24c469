// Package multipath makes one blockdev.Device of several paths to a volume, by
// the rules of the Linux host's native multipath for NVMe: requests take a path
// whose target says that it is optimized, else one that is not, and stay with
// it while it works.
//
// A request whose path fails, or that the target refuses for a reason that
// passes (a path-related status, busy), is sent again, on another path if there
// is one, for up to Config.Patience. Reads, writes and the like may be sent any
// number of times. A compare-and-write is sent once: when its answer is lost
// nobody knows whether it was done, and it ends with ErrUnknown. So does
// whatever else was sent and has no answer when the patience is over.
//
// Each path has one goroutine, which dials it again and again; one more sends
// requests again. Done is called by either, or by a path's session.
package multipath

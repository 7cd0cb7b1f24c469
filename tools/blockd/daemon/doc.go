// Package daemon is blockd without its command line: configuration, the wiring
// of storage, catalog, target and portals, and the HTTP port with control API,
// metrics and status page.
//
// # Order of life
//
//	start  lock data → control socket → arena → control port and Raft group →
//	       HTTP → catalog as new as the group's → disk and store →
//	       reservations → volumes → SCSI target → iSCSI portals → "blockd ready"
//	stop   HTTP says not ready → portals drain → target → volumes → store →
//	       lead of the group handed over → control port → arena → lock
//
// A Node is what a process runs: the lock, the control socket, and a Daemon, which
// is all the rest. Making or joining a cluster stops the Daemon, changes the data
// directory, and starts another, while the socket goes on to answer.
//
// # Who knows what
//
// The catalog is the same on all nodes. A volume is served by the node that
// has its data, and only that node knows how it is: a node that is asked for all
// asks the others, with its own certificate, see control.Peers.
//
// # Level-triggered
//
// A change through the API becomes durable in the catalog first. The
// reconciler then makes the node be what the catalog says: it opens, resizes
// and removes volumes and configures the target. A request is answered after
// the reconciler has passed its revision. At start the same code runs once over
// the whole catalog, so that what was cut off by a crash is completed.
//
// # Goroutines
//
// Besides those of net/http, the Raft group and the iSCSI server: the
// reconciler, the scrubber, who looks at the space on the disk, who renews the
// certificate, and one accept loop per portal. All end in Daemon.Stop. A Node
// adds the HTTP server of the socket.
package daemon

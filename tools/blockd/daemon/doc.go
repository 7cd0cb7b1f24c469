// Package daemon is blockd without its command line: configuration, the wiring
// of storage, catalog, target and portals, and the HTTP port with control API,
// metrics and status page.
//
// # Order of life
//
//	start  lock data → arena → disk and store → catalog → reservations →
//	       volumes → SCSI target → iSCSI portals → HTTP → "blockd ready"
//	stop   HTTP says not ready → portals drain → target → volumes → store →
//	       catalog → HTTP → arena → lock
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
// Besides those of net/http and the iSCSI server: the reconciler, the
// scrubber, and one accept loop per portal. All end in Daemon.Stop.
package daemon

// Package neigh finds out how a frame gets to a peer: by which interface, with
// which VLAN tags, Ethernet and source addresses, and how long it may be. The
// kernel decides all that, by its routes and neighbours; this package asks by
// netlink, keeps the answers, and follows their changes. It sends nothing but
// requests to the kernel.
//
// A sender that bypasses the kernel must do two things which the kernel does
// for its own traffic, and Table does both:
//
//   - Ask for neighbours that nobody knows yet. Table has the kernel send the
//     ARP or neighbour solicitation (NTF_USE, which is what a packet would do).
//   - Keep known ones fresh. The kernel sees none of our packets, so it would
//     let an entry go stale and at last collect it (gc_stale_time, 60 s by
//     default). Table marks entries that it needs as used, so that the kernel
//     checks them with the neighbour (RFC 4861 §7.3, for ARP alike). One that
//     has gone, or has a new address, is noticed within a minute even if nobody
//     announces it: 45 s until the entry is stale, 5 s until we see that, 5 s
//     until the kernel probes, and 3 probes, by the kernel's defaults.
//
// While the kernel checks an entry, and for a few seconds after it has lost
// one, the last known Ethernet address stays in use: losing an entry does not
// make it wrong.
//
// Only peers that were named by Track are looked after; Lookup of a peer reads an
// immutable snapshot, without a lock, a system call or an allocation. Table
// belongs to the network namespace of the thread that opened it.
//
// Table runs two goroutines until Close: one waits for the kernel's
// notifications, one asks and publishes.
package neigh

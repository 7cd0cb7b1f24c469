// Package ring is the arithmetic of AF_XDP's four rings, on any memory: the
// kernel's mapping (afxdp/socket), or the heap with a simulated kernel behind
// it (Sim, which the tests use). It makes no system calls and has no
// goroutines.
//
//	fill        Producer[uint64]  us -> kernel  chunks to receive into
//	completion  Consumer[uint64]  kernel -> us  chunks that were sent
//	RX          Consumer[Desc]    kernel -> us  what arrived
//	TX          Producer[Desc]    us -> kernel  what to send
//
// A ring is a power of two of entries and two indexes, which count up to 2^32
// and then wrap; an entry's place is its index modulo the size. Each side
// writes one index only: the producer its own after it wrote entries, the
// consumer its own after it read them.
//
// # Order
//
// What must not happen is that a side sees the other's index before the
// entries it stands for. The kernel pairs smp_store_release of the index it
// writes with smp_load_acquire of the index it reads (net/xdp/xsk_queue.h).
// Ours are sync/atomic's loads and stores, which are stronger: sequentially
// consistent among themselves, so each store is a release of the plain writes
// before it and each load an acquire for the plain reads after it.
//
//   - Producer.Publish stores the producer index after the entries were
//     written: the kernel that sees the index sees the entries.
//   - Consumer.Available loads the producer index before entries are read: we
//     see what the kernel wrote.
//   - Consumer.Release stores the consumer index after entries were read (and
//     copied by value): the kernel can't overwrite what we still read.
//   - Producer.Free loads the consumer index before entries are written: we
//     don't overwrite what the kernel still reads.
//   - NeedsWakeup loads the flags after Publish stored the index. The kernel
//     sets the flag and then looks at the index once more. With a store and a
//     load that can't pass each other on our side, either it sees the entry
//     or we see the flag. Release and acquire alone would not give that.
//
// One goroutine uses a Producer or a Consumer at a time.
package ring

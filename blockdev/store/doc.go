// Package store keeps the extents of many thin volumes on one disk and loses
// nothing that it has acknowledged, whatever instant the power fails at.
//
// A volume's address space is cut into extents of 64 MiB, extents into spans of
// 2 MiB, spans into regions of 64 KiB, regions into blocks of 4 KiB. A region
// lives in one chunk of the data area, anywhere, or in none. A metadata page per
// span holds the chunk and version of each region, and the checksum and the
// present bit of each block. docs/ONDISK.md draws all of it.
//
// Small writes go to a log, group committed, and home later (checkpoint.go);
// whole regions go to new chunks, and a log record makes them visible. What one
// operation costs on an idle store:
//
//	read 4 KiB      1 lock, 1 disk read into the caller's memory, 1 checksum
//	write 4 KiB     3 locks, 1 copy, 1 checksum, a share of 1 durable log write;
//	                later a share of a sorted write home and of a metadata page
//	write 64 KiB    3 locks, no copy, 16 checksums, 1 disk write, a share of 1
//	                sync and of 1 durable log write
//	flush           nothing: every acknowledged write is durable
//
// Invariants, cited by number in the code:
//
//  1. An op is acknowledged when the log batch with its record is durable, and
//     only if every earlier batch is.
//  2. No block is overwritten in place unless a good copy of the new content is
//     durable in the log, where it stays until a checkpoint has synced the home
//     of it. Whole regions are only ever written to chunks that nobody owns.
//  3. A record that names a chunk enters the log after the chunk's data was
//     synced.
//  4. A freed chunk is given out again only when the record that freed it is
//     durable and no home write to it is on its way.
//  5. A checkpoint writes metadata exactly as it was at one log position.
//     Everything after that position is replayed in order over it, so newer data
//     that has gone home meanwhile does no harm.
//  6. One batch is in flight at a time. A batch that fails its check while a
//     later one is whole was damaged, not torn, and the store is refused.
//  7. A read returns blocks whose checksums are those of one instant, or starts
//     again because a write passed, or fails. It never returns anything else.
//  8. Nothing that a durable superblock refers to is overwritten: metadata has two
//     places, the log in use is not free, and both superblocks are equal before
//     recovery writes anything.
//  9. Applying a durable record never lacks space: chunks are reserved, or held
//     where they are, before the record is logged.
//  10. A failed write of log or metadata, and a failed sync, stop all writing for
//     good. Reads go on.
//
// Of a part of a replicated volume the store also keeps what docs/REPLICATION.md
// wants remembered: Op.Note and Store.ReplicaState. note.go has the records,
// replica.go the state. A note rides in the record of its op, so that invariant 1
// makes both durable at once; the state is written by checkpoints like a page
// (invariants 5 and 8). It costs a 4 KiB write 24 bytes of log record, no
// allocation and no other disk write.
//
// Memory: Options.DirtyBytes for data that is not home, Options.PagesMax pages,
// the directory (288 B per possible extent) and the bitmap (1 bit per chunk) at
// 4 KiB per block, and bounce buffers for callers whose memory is not aligned.
// Recovery takes up to the size of the log on top, until it ends. Notes take 4 KiB
// per page on disk and 32 B per entry of a tail.
//
// There are no goroutines here, see Store.
package store

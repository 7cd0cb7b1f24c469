// Package verify knows what every block of a volume must hold, and says in
// words where it does not: after writes that were lost, torn, misplaced or
// undone, by the target or by a crash of it.
//
// Device wraps any blockdev.Device. It replaces what is written by a pattern
// of its own: every block says its offset, the number of the write that made
// it and a CRC, and the rest follows from those. It checks what is read. A
// range lock keeps a request away from blocks that another one is writing, so
// that for each block at most one write is in flight.
//
// Oracle holds for each block the version that it must hold, or those that it
// may: the last acknowledged one, and any later one whose outcome is not known
// since its request failed or its answer never came. A read settles which one
// it is; from then on only that one may be read.
//
// Journal keeps on a file what an Oracle was told: each write before it is
// sent, each answer after it came. So a second process finds out, after the
// target or the first process was killed, what each block may hold. The file
// is not synced: it survives any process, not the machine. An answer that the
// journal has not got weakens the check, and never makes it wrong.
//
// # Durability
//
// A target that says that it has no volatile write cache must keep every
// acknowledged write. For one that has a cache (Config.WriteCache), a write is
// certain once a flush that was submitted after its acknowledgement is
// acknowledged too, or when it carried FUA; until then a crash may undo it.
//
// # Memory
//
// An Oracle takes 8 bytes and a bit per block of its range.
package verify

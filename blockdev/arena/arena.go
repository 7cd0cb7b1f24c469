// Package arena holds the buffers that data moves through: one mapping made
// at start, of 2 MiB huge pages where the machine has them, cut into size
// classes and lent out by owning handle.
//
// A buffer has one owner at a time. Whoever holds the *Buf may read and write
// Bytes and must either pass the handle on or Release it, exactly once. No
// method allocates on the Go heap after New. With the build tag
// `arenadebug` (and in every -race build) released memory is poisoned, a
// second Release and a use after Release panic with the stack that released
// it, and Leaked lists what was never returned and who took it.
package arena

// Classes are the sizes a Buf can have, in bytes, each a multiple of 4 KiB
// and aligned to 4 KiB in memory.
var Classes = [...]int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20}

// MaxClass is the largest single buffer; longer transfers use an SG.
const MaxClass = 1 << 20

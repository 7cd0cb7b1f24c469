// Package faulty says how a disk misbehaves, and wraps any disk.Disk so that
// it does: errors, torn, lost and misplaced writes, flipped bits, delays.
// Rules are values that can be written as one line of text. The simulated
// disk takes the same rules.
package faulty

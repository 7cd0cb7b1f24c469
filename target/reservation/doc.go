// Package reservation decides who may read and write a volume that hosts
// share: SCSI persistent reservations (SPC-5), SPC-2 RESERVE and RELEASE, and
// NVMe reservations (NVM Express Base 2.0 "Reservations"). There is one table
// per volume for both protocols, so that a host on one can fence a host on the
// other.
//
// # Parts
//
// State is the table of one volume, an immutable value. State.Apply is a pure
// function from a state and a Command to the next state and a Result: the
// status to answer with, the notices others must get, and whose tasks are to be
// aborted. It reads no clock and no random source, so that the same commands in
// the same order give the same states on every node.
//
// Volume publishes the current State. Its Allows is the check before every
// command: one atomic load while nothing restricts the volume, a lookup without
// a lock or an allocation while something does.
//
// Backend keeps the states and puts the commands in order. Local keeps them in
// files of a directory, Memory nowhere, Shared in a log that several nodes
// follow.
//
// # Invariants of a State
//
//  1. Registrants have distinct identities and non-zero keys, and are at most
//     MaxRegistrants.
//  2. Type is zero or one of the six; it is zero when there is no registrant.
//  3. Holder is a registrant when Type is set and is not of the
//     all-registrants kind, and the zero Identity otherwise.
//  4. Legacy is set only while there is no registrant.
//
// # Goroutines
//
// The package starts none. Watch callbacks run on the goroutine that called
// Backend.Apply, one command of a volume at a time.
package reservation

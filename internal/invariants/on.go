//go:build invariants || race

package invariants

// Enabled tells whether assertions run in this build.
const Enabled = true

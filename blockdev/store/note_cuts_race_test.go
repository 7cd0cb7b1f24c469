//go:build race

package store

// The race detector makes everything several times slower.
const (
	cutNotesByDefault = 500
	modelSeeds        = 6
	reopenSeeds       = 4
)

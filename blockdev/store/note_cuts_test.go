//go:build !race

package store

const (
	cutNotesByDefault = cutsToMeetAll
	modelSeeds        = 20
	reopenSeeds       = 20
)

//go:build !race

package store

const cutNotesByDefault = cutsToMeetAll

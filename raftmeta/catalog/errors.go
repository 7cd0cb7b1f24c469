package catalog

import (
	"errors"
	"fmt"
)

// The kinds of refusal; test with errors.Is. The error itself is an *Error
// whose text says what to do.
var (
	ErrInvalid  = errors.New("invalid request")
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	ErrConflict = errors.New("conflict")                 // the state of things does not allow it
	ErrFailed   = errors.New("catalog can't be written") // until the node is restarted
)

// Error is a command that was refused. It changed nothing.
type Error struct {
	Kind error // one of the sentinels above
	Text string
}

// Error returns what was refused, why, and what to do.
func (e *Error) Error() string { return e.Text }

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

func refuse(kind error, format string, args ...any) error {
	return &Error{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

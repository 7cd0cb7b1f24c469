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
	ErrFailed   = errors.New("catalog can't be written") // now; the cause is among the package group's errors
)

// Error is a command that was refused, or did not get as far as that: then
// Kind is ErrFailed and Cause says more. It changed nothing, unless Cause is
// group.ErrOutcomeUnknown.
type Error struct {
	Kind  error // one of the sentinels above
	Text  string
	Cause error // nil when the state machine refused it
}

// Error returns what was refused, why, and what to do.
func (e *Error) Error() string { return e.Text }

// Unwrap returns the kind, and the cause if there is one.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

func refuse(kind error, format string, args ...any) error {
	return &Error{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// failed is for what went wrong on the way to the state machine.
func failed(cause error) error {
	return &Error{Kind: ErrFailed, Text: fmt.Sprintf("the change was not made: %v", cause), Cause: cause}
}

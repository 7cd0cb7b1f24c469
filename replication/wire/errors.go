package wire

import (
	"errors"
	"fmt"
)

// What is wrong with an Outgoing.
var (
	errKind    = errors.New("wire: kind of message is not Notice, Request or Response")
	errReply   = errors.New("wire: InReplyTo goes with a Response, and with nothing else")
	errChannel = errors.New("wire: channel is above 1023")
	errPath    = fmt.Errorf("wire: path is not below %d", PathsMax)
)

// Made once, since a full queue of messages may fail of one reason at once.
var (
	errCanceledUnsent = fmt.Errorf("%w, %w", ErrCanceled, ErrNotSent)
	errDeadlineUnsent = fmt.Errorf("%w, %w", ErrDeadline, ErrNotSent)
)

// notSent says that err befell a message of which nothing was sent.
func notSent(err error) error {
	switch err {
	case ErrCanceled:
		return errCanceledUnsent
	case ErrDeadline:
		return errDeadlineUnsent
	}
	return fmt.Errorf("%w: %w", ErrNotSent, err)
}

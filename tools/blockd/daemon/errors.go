package daemon

import (
	"errors"

	"blockd.dev/blockdev"
)

// isHostsFault reports whether a request failed for what a host asked rather than
// for what the storage could do.
func isHostsFault(err error) bool {
	for _, kind := range []error{blockdev.ErrMiscompare, blockdev.ErrInvalid, blockdev.ErrOutOfRange, blockdev.ErrReadOnly, blockdev.ErrPoisoned} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

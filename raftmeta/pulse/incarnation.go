package pulse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"blockd.dev/internal/durable"
)

// NextIncarnation counts a start of the node's process in the file at path,
// and returns the number when it is durable. One process at a time calls it:
// the data folder is locked. A file that was lost would let a number come twice, so
// it belongs to the node's identity; whoever makes that anew makes both.
func NextIncarnation(path string) (uint64, error) {
	last := uint64(0)
	b, err := os.ReadFile(path)
	if err == nil {
		last, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("how often this node was started: %s: %w; restore the file, or write a number into it that is higher than any before", path, err)
	}
	if err := durable.Replace(path, fmt.Appendln(nil, last+1)); err != nil {
		return 0, fmt.Errorf("how often this node was started: %w", err)
	}
	return last + 1, nil
}

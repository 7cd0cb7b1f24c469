package daemon

import (
	"fmt"

	"connectrpc.com/connect"
)

// refuseErasure says why a pool can't have erasure coding, and what to use: extents can be
// placed by it, and nothing can write them.
func refuseErasure(text string) error {
	var data, parity, rest int
	if n, _ := fmt.Sscanf(text+"+0", "%d+%d+%d", &data, &parity, &rest); n != 3 || data < 2 || parity < 1 || fmt.Sprintf("%d+%d", data, parity) != text {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("erasure coding %q: want DATA+PARITY such as 4+2; but no node can serve it in this version: use --replicas, which keeps whole copies", text))
	}
	return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("erasure coding %s: no node can serve it in this version; use --replicas %d, which survives the loss of as many disks and takes %d bytes on disks for each of data, where it would take %.3g",
		text, parity+1, parity+1, float64(data+parity)/float64(data)))
}

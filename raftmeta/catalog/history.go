package catalog

import "sync/atomic"

// tail lets versions of an append-only list share one array. It counts the
// slots behind the newest version. Only the version that ends right before
// them may fill the next; any other copies, so that no version is ever
// changed, whoever appends to which.
type tail struct{ free atomic.Int64 }

// appendShared returns list with e at its end, and without its first elements
// when it would have more than limit. owner is the list's tail, which is replaced when the
// array is: every limit/4 appends at most.
func appendShared[T any](list []T, owner **tail, e T, limit int) []T {
	if len(list) >= limit {
		list = list[len(list)-limit+1:]
	}
	if room := int64(cap(list) - len(list)); *owner != nil && room > 0 && (*owner).free.CompareAndSwap(room, room-1) {
		return append(list, e)
	}
	grown := make([]T, len(list), len(list)+1+limit/4)
	copy(grown, list)
	grown = append(grown, e)
	*owner = &tail{}
	(*owner).free.Store(int64(cap(grown) - len(grown)))
	return grown
}

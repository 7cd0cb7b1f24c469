package device

import (
	"slices"

	"blockd.dev/blockdev"
)

// TakeBack takes back the first request that is wanted of those that wait for an owner, or for the way to it,
// and of which the last attempt, if any, has changed nothing. It reports whether there was one; that is the
// submitter's then, without a call of Done. wanted is called with a lock held.
func (v *Volume) TakeBack(wanted func(*blockdev.Request) bool) bool {
	v.mu.Lock()
	i := slices.IndexFunc(v.mu.parked, func(q *request) bool { return !q.inDoubt && wanted(q.r) })
	if i < 0 {
		v.mu.Unlock()
		return false
	}
	q := v.mu.parked[i]
	v.mu.parked = slices.Delete(v.mu.parked, i, i+1)
	v.mu.Unlock()
	q.forget()
	return true
}

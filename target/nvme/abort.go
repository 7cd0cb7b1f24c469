package nvme

import "sync/atomic"

// abort ends another command of the same controller (NVMe Base 2.0 §5.1). Bit
// 0 of Dword 0 is cleared when that command ends with Command Abort Requested
// before this one completes, and set when it was not found or a device works
// on it, so that its end can't be changed.
func abort(c *Command) {
	ctrl := c.state.queue.ctrl
	sqid, cid := uint16(c.cdw(10)), uint16(c.cdw(10)>>16)
	if ctrl.aborts.Add(1) > abortLimit {
		ctrl.aborts.Add(-1)
		c.complete(AbortLimitExceeded)
		return
	}
	var target *Queue
	for _, q := range ctrl.allQueues() {
		if q.id == sqid {
			target = q
		}
	}
	c.Result = 1
	if target == nil {
		ctrl.aborts.Add(-1)
		c.good()
		return
	}
	var found atomic.Bool
	w := newAbortWait(func() {
		if found.Load() {
			c.Result = 0
		}
		ctrl.aborts.Add(-1)
		c.good()
	})
	matched := target.abortAll(func(o *Command) bool { return o != c && o.CID() == cid && o.stoppable() }, CommandAborted, w)
	found.Store(matched > 0)
	w.release()
}

// abortLimit is how many aborts may run at once: ACL + 1.
const abortLimit = 4

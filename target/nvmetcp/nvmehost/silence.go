package nvmehost

import (
	"cmp"
	"fmt"
	"time"

	"blockd.dev/target/nvme"
)

// timeoutDefault is how long a command may take when Config.Timeout is 0, as the
// Linux host has it.
const timeoutDefault = 30 * time.Second

// A SilenceError is why an association ended: commands were under way on a queue,
// and nothing came back for that long.
type SilenceError struct {
	Queue int // 0 is the admin queue
	Quiet time.Duration
}

// Error says which queue was silent and for how long.
func (e *SilenceError) Error() string {
	return fmt.Sprintf("nvmehost: nothing came from queue %d for %v while commands were under way", e.Queue, e.Quiet)
}

// watch is what the watcher knows of a queue.
type watch struct {
	q        *queue
	received uint64        // bytes, when it looked last
	quiet    time.Duration // how long there has been no more
}

// looks is how often the watcher looks within the shortest timeout: silence is
// found at most that part too late.
const looks = 8

// watchSilence ends the association when the controller falls silent. The admin
// queue, which Keep Alive commands keep busy, may be so for the keep-alive timeout,
// an I/O queue for Config.Timeout: there a single slow command is enough.
func (h *Host) watchSilence() {
	defer h.wg.Done()
	timeout := cmp.Or(h.cfg.Timeout, timeoutDefault)
	admin := cmp.Or(h.cfg.KeepAlive, timeout)
	every := min(timeout, admin) / looks
	t := time.NewTicker(every)
	defer t.Stop()
	var known []*watch
	for {
		select {
		case <-h.stop:
			return
		case <-t.C:
		}
		known = h.watched(known)
		for i, w := range known {
			limit := timeout
			if i == 0 {
				limit = admin
			}
			if n := w.q.sock.Stats().BytesIn; n != w.received || !w.q.busy() {
				w.received, w.quiet = n, 0
				continue
			}
			if w.quiet += every; w.quiet >= limit {
				h.fail(&SilenceError{Queue: i, Quiet: w.quiet})
				return
			}
		}
	}
}

// open connects a queue and has it watched.
func (h *Host) open(depth int) (*queue, error) {
	q, err := openQueue(&h.cfg, depth, func() { h.ended.Do(func() { close(h.gone) }) })
	if err == nil {
		h.mu.Lock()
		h.mu.opened = append(h.mu.opened, q)
		h.mu.Unlock()
	}
	return q, err
}

// watched adds the queues that were opened meanwhile.
func (h *Host) watched(known []*watch) []*watch {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, q := range h.mu.opened[len(known):] {
		known = append(known, &watch{q: q})
	}
	return known
}

// fail ends every connection. It does not wait for the readers, which end the
// commands that are under way. All know why before the first is closed: with the
// admin queue the controller ends the others.
func (h *Host) fail(why error) {
	h.mu.Lock()
	queues := h.mu.opened
	h.mu.Unlock()
	for _, q := range queues {
		q.mu.Lock()
		if q.mu.err == nil {
			q.mu.err = why
		}
		q.mu.Unlock()
	}
	for _, q := range queues {
		_ = q.sock.Close()
	}
}

// busy reports whether the controller owes an answer: an Asynchronous Event
// Request may wait for ever.
func (q *queue) busy() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range q.mu.slots {
		if c != nil && c.SQE[0] != nvme.OpAsyncEventRequest {
			return true
		}
	}
	return false
}

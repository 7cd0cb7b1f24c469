package disk

import "sync"

// discarder runs the discards of a block device, for which io_uring has no
// operation on most kernels, on one goroutine that lives while there are any.
type discarder struct {
	mu      sync.Mutex
	queue   ioQueue
	running bool
	done    sync.WaitGroup
}

func (q *discarder) add(f *file, io *IO) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue.push(io)
	if !q.running {
		q.running = true
		q.done.Add(1)
		go q.run(f)
	}
}

func (q *discarder) run(f *file) {
	defer q.done.Done()
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.queue.len() > 0 {
		io := q.queue.pop()
		q.mu.Unlock()
		var err error
		if errno := f.discard(io); errno != 0 {
			err = f.health.failed(io, errno)
		}
		f.end(io, err)
		q.mu.Lock()
	}
	q.running = false
}

func (q *discarder) wait() { q.done.Wait() }

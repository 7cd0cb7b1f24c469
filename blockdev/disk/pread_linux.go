package disk

import (
	"fmt"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// pread drives a disk by preadv2 and pwritev2 on a bounded set of goroutines,
// each of which holds one thread while its call is in the kernel. It works on
// every kernel; a goroutine switch and a thread per I/O make it slower than
// io_uring with many in flight.
type pread struct {
	*file
	workersMax int

	mu      sync.Mutex
	work    sync.Cond
	queue   ioQueue
	idle    int // workers that wait for work
	workers int
	stop    bool
	exited  sync.WaitGroup
}

func newPread(f *file, o Options) *pread {
	d := &pread{file: f, workersMax: o.Workers}
	if d.workersMax == 0 {
		d.workersMax = 32
	}
	d.info.Driver = DriverPread
	d.work.L = &d.mu
	return d
}

// SizeBytes implements Disk.
func (d *pread) SizeBytes() int64 { return d.sizeBytes }

// Info implements Disk.
func (d *pread) Info() Info { return d.info }

// Submit implements Disk.
func (d *pread) Submit(batch []*IO) {
	d.mu.Lock()
	queued := 0
	for _, io := range batch {
		if d.stop {
			d.health.closed.Store(true)
		}
		if err := d.health.admit(d.sizeBytes, io); err != nil {
			d.mu.Unlock()
			d.end(io, err)
			d.mu.Lock()
			continue
		}
		d.queue.push(io)
		queued++
	}
	for ; queued > 0 && d.queue.len() > 0; queued-- {
		switch {
		case d.idle > 0:
			d.idle--
			d.work.Signal()
		case d.workers < d.workersMax:
			d.workers++
			d.exited.Add(1)
			go d.worker()
		default:
			queued = 1
		}
	}
	d.mu.Unlock()
}

// worker does one I/O after the other until Close.
func (d *pread) worker() {
	defer d.exited.Done()
	var t transfer
	d.mu.Lock()
	for {
		for d.queue.len() == 0 {
			if d.stop {
				d.mu.Unlock()
				return
			}
			d.idle++
			d.work.Wait()
		}
		io := d.queue.pop()
		d.mu.Unlock()
		d.end(io, d.do(io, &t))
		d.mu.Lock()
	}
}

// do runs io to its end and returns its error.
func (d *pread) do(io *IO, t *transfer) error {
	if err := d.health.admit(d.sizeBytes, io); err != nil && err != ErrClosed {
		return err
	}
	var errno syscall.Errno
	switch io.Op {
	case Read:
		errno = d.move(io, t, unix.SYS_PREADV2, 0)
	case Write:
		flags := 0
		if io.Dsync {
			flags = unix.RWF_DSYNC
		}
		errno = d.move(io, t, unix.SYS_PWRITEV2, flags)
	case Sync:
		errno = errnoOf(ignoringEINTR(func() error { return unix.Fdatasync(d.fd) }))
	case Discard:
		errno = d.discard(io)
	}
	if errno != 0 {
		return d.health.failed(io, errno)
	}
	return nil
}

// move reads or writes all of io.
func (d *pread) move(io *IO, t *transfer, trap uintptr, flags int) syscall.Errno {
	defer t.release()
	for t.begin(io); ; {
		n, errno := vectored(trap, d.fd, t.iovs, t.off, flags)
		switch {
		case errno != 0 && retriable(errno):
			runtime.Gosched()
		case errno != 0:
			return errno
		case n == 0: // the end of a file that became shorter
			return syscall.EIO
		case t.advance(n):
			return 0
		}
	}
}

// discard frees the range, or leaves it where that is not supported.
func (f *file) discard(io *IO) syscall.Errno {
	var errno syscall.Errno
	for {
		if f.info.IsBlock {
			errno = discardRange(f.fd, io.Off, io.Len)
		} else {
			errno = errnoOf(unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, io.Off, io.Len))
		}
		if errno != syscall.EINTR {
			break
		}
	}
	if discardUnsupported(errno) {
		return 0
	}
	return errno
}

// Close implements Disk.
func (d *pread) Close() error {
	d.mu.Lock()
	if d.stop {
		d.mu.Unlock()
		return fmt.Errorf("close %s: %w", d.info.Path, ErrClosed)
	}
	d.stop = true
	d.health.closed.Store(true)
	d.work.Broadcast()
	d.mu.Unlock()
	d.exited.Wait()
	return d.file.close()
}

// errnoOf is the errno that a unix wrapper returned, 0 for nil.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	return syscall.EIO
}

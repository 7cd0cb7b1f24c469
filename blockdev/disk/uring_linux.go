package disk

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"blockd.dev/blockdev/uring"
)

// ring is what the driver needs of an io_uring; tests put a mock here.
type ring interface {
	Next() *uring.SQE
	Publish()
	Enter(submit, wait uint32) (int, syscall.Errno)
	Ready() bool
	Reap(dst []uring.CQE) int
	FD() int
	UnregisterFiles() error
	Close() error
}

var _ ring = (*uring.Ring)(nil)

// uringDisk drives a disk by io_uring.
//
// Who does what:
//
//   - Submit, on any goroutine, fills SQEs under mu and enters the kernel once
//     for the batch, if the reaper sleeps. While the reaper is awake, Submit
//     leaves that to it (up to leaveMax SQEs): the reaper looks at them before it
//     sleeps. So batches form by themselves, and the kernel finishes requests
//     on the thread that waits for them rather than waking another one first.
//   - The reaper, one goroutine, takes completions, continues short transfers,
//     calls Done for many per wake-up and submits what these bring in groups, so
//     that the device works meanwhile. Then it lets the goroutines run that Done
//     woke, and submits what they brought with one Enter.
//   - While nothing is in flight the reaper is parked by the scheduler and costs
//     nothing. A Submit readies it; since the submitter usually parks next,
//     the reaper then runs on the submitter's thread, which is the one that
//     the kernel interrupts for the completion: one wake-up, not two.
//   - While the reaper is parked an attendant may take its place (attend_linux.go).
//     Submit enters the kernel for each batch then, and readies nobody.
//   - While something is in flight the reaper first looks at the ring for a
//     learned time (see spinner), yielding between looks, then blocks in Enter.
//
// The life of an IO: queued (no slot free) -> in a slot with an SQE -> in the
// kernel -> reaped -> [short or interrupted: SQE again] -> slot freed -> Done.
type uringDisk struct {
	*file
	ring  ring
	wake  chan struct{} // to the parked reaper; holds one
	ended chan struct{} // closed when the reaper returned

	discards discarder

	mu       sync.Mutex
	slots    []slot
	free     []uint32 // indexes of slots
	waiting  ioQueue  // for a slot
	filled   []uint32 // slots whose SQE no Enter has taken, in order
	awake    bool     // the reaper will look at filled before it sleeps
	entering bool     // someone will Enter again for all that is filled
	parked   bool     // the reaper waits on wake
	attended bool     // an attendant has the place of the parked reaper
	closing  bool

	wakeAttendant func()

	// filledLen is len(filled), for the reaper to look at without mu.
	filledLen atomic.Int32

	// Only the reaper uses these, or the attendant.
	handled  bool // Done was called since the last await
	spin     spinner
	cqes     []uring.CQE
	finished []finished
}

const (
	// leaveMax is how many SQEs Submit leaves to a reaper that is awake. Fewer
	// would cost more than they gain: what Submit enters completes on its thread,
	// which may sleep by then and is woken first.
	leaveMax = 32
	// group is how many SQEs the reaper lets gather while it calls Done. With
	// more the device is idle while Done runs, and Done waits while the device
	// works; with fewer each SQE pays more of the system call.
	group = 8
)

// slot is an I/O in the kernel. Its index is the SQE's UserData.
type slot struct {
	io *IO
	t  transfer
}

type finished struct {
	io  *IO
	err error
}

func newURing(f *file, o Options) (Disk, error) {
	depth := o.QueueDepth
	if depth == 0 {
		depth = 256
	}
	r, err := uring.New(uint32(depth))
	if err != nil {
		return nil, err
	}
	if !r.Supports(uring.OpRead, uring.OpWrite, uring.OpReadv, uring.OpWritev, uring.OpFsync, uring.OpFallocate) {
		err := fmt.Errorf("%w: the kernel is older than Linux 5.6", uring.ErrUnsupported)
		return nil, errors.Join(err, r.Close())
	}
	if err := r.RegisterFiles([]int32{int32(f.fd)}); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return startURing(f, r, depth), nil
}

// startURing drives f, registered as file 0 of r, with up to depth I/Os in the
// kernel. r has room for as many.
func startURing(f *file, r ring, depth int) *uringDisk {
	f.info.Driver = DriverURing
	d := &uringDisk{
		file:     f,
		ring:     r,
		wake:     make(chan struct{}, 1),
		ended:    make(chan struct{}),
		slots:    make([]slot, depth),
		free:     make([]uint32, depth),
		filled:   make([]uint32, 0, depth),
		parked:   true,
		cqes:     make([]uring.CQE, min(depth, 128)),
		finished: make([]finished, 0, min(depth, 128)),
		spin:     newSpinner(),
	}
	for i := range d.free {
		d.free[i] = uint32(depth - 1 - i)
	}
	go d.reap()
	return d
}

// SizeBytes implements Disk.
func (d *uringDisk) SizeBytes() int64 { return d.sizeBytes }

// Info implements Disk.
func (d *uringDisk) Info() Info { return d.info }

// Submit implements Disk.
func (d *uringDisk) Submit(batch []*IO) {
	d.mu.Lock()
	for _, io := range batch {
		err := d.health.admit(d.sizeBytes, io)
		if err == nil && io.Op == Discard && d.info.IsBlock {
			d.discards.add(d.file, io)
			continue
		}
		if err != nil {
			d.mu.Unlock()
			d.end(io, err)
			d.mu.Lock()
			continue
		}
		if len(d.free) == 0 || d.waiting.len() > 0 {
			d.waiting.push(io)
			continue
		}
		d.startLocked(io)
	}
	if len(d.filled) > 0 && !d.entering && (!d.awake || len(d.filled) >= leaveMax) {
		d.entering = true
		d.enterLocked()
		d.entering = false
	}
	if d.parked && !d.attended && len(d.free) < len(d.slots) {
		d.unparkLocked()
	}
	var wake func()
	if d.attended && len(d.filled) > 0 && !d.entering {
		wake = d.wakeAttendant // who has the reaper try again
	}
	d.mu.Unlock()
	if wake != nil {
		wake()
	}
}

// unparkLocked readies the reaper, which is parked.
func (d *uringDisk) unparkLocked() {
	d.parked, d.awake = false, true
	d.wake <- struct{}{}
}

// startLocked gives io a slot, of which there is one, and an SQE.
func (d *uringDisk) startLocked(io *IO) {
	last := len(d.free) - 1
	i := d.free[last]
	d.free = d.free[:last]
	s := &d.slots[i]
	s.io = io
	if io.Op == Read || io.Op == Write {
		s.t.begin(io)
	}
	d.fillLocked(i)
}

// fillLocked makes and publishes the SQE for the next call of slot i. There is
// room: the ring has an entry per slot.
func (d *uringDisk) fillLocked(i uint32) {
	s, e := &d.slots[i], d.ring.Next()
	e.Flags = uring.FlagFixedFile
	e.Fd = 0
	e.UserData = uint64(i)
	switch s.io.Op {
	case Read, Write:
		e.Opcode = opcodes[s.io.Op][min(len(s.t.iovs), 2)-1]
		e.Off = uint64(s.t.off)
		if len(s.t.iovs) == 1 {
			e.Addr, e.Len = addrOfIovec(s.t.iovs[0]), uint32(s.t.iovs[0].Len)
		} else {
			e.Addr, e.Len = uring.AddrOfIovecs(s.t.iovs), uint32(len(s.t.iovs))
		}
		if s.io.Dsync && s.io.Op == Write {
			e.OpFlags = unix.RWF_DSYNC
		}
	case Sync:
		e.Opcode = uring.OpFsync
		e.OpFlags = uring.FsyncDatasync
	case Discard:
		e.Opcode = uring.OpFallocate
		e.Off, e.Addr = uint64(s.io.Off), uint64(s.io.Len)
		e.Len = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	d.ring.Publish()
	d.filled = append(d.filled, i)
	d.filledLen.Store(int32(len(d.filled)))
}

// opcodes by operation, for one segment and for several.
var opcodes = [...][2]uint8{
	Read:  {uring.OpRead, uring.OpReadv},
	Write: {uring.OpWrite, uring.OpWritev},
}

// enterLocked passes what is filled to the kernel, with mu released during
// the calls. It returns with the rest still filled when the kernel wants
// completions to be reaped first, which the reaper then does.
func (d *uringDisk) enterLocked() {
	for len(d.filled) > 0 {
		n := uint32(len(d.filled))
		d.mu.Unlock()
		took, errno := d.ring.Enter(n, 0)
		d.mu.Lock()
		d.filled = d.filled[:copy(d.filled, d.filled[took:])]
		d.filledLen.Store(int32(len(d.filled)))
		switch {
		case errno == 0 && took > 0, errno == syscall.EINTR:
		case errno == 0, retriable(errno), errno == syscall.EBUSY:
			return
		default:
			d.brokenLocked(errno)
			return
		}
	}
}

// brokenLocked gives up: the kernel refuses the ring itself. All that it has
// not taken fails, now and later.
func (d *uringDisk) brokenLocked(errno syscall.Errno) {
	err := fmt.Errorf("%w: io_uring_enter: %w", ErrGone, errno)
	d.health.gone.CompareAndSwap(nil, &err)
	var lost []*IO
	for _, i := range d.filled {
		lost = append(lost, d.slots[i].io)
		d.releaseLocked(i)
	}
	d.filled = d.filled[:0]
	d.filledLen.Store(0)
	for d.waiting.len() > 0 {
		lost = append(lost, d.waiting.pop())
	}
	d.mu.Unlock()
	for _, io := range lost {
		d.end(io, err)
	}
	d.mu.Lock()
}

// releaseLocked makes slot i free.
func (d *uringDisk) releaseLocked(i uint32) {
	d.slots[i].io = nil
	d.slots[i].t.release()
	d.free = append(d.free, i)
}

// reap is the reaper goroutine.
func (d *uringDisk) reap() {
	defer close(d.ended)
	<-d.wake // parked is true from the start
	for {
		if n := d.ring.Reap(d.cqes); n > 0 {
			d.handle(d.cqes[:n])
			continue
		}
		if !d.await() {
			return
		}
	}
}

// await returns true when it is worth looking at the ring again, false when
// the disk is closed and idle.
func (d *uringDisk) await() bool {
	d.mu.Lock()
	if len(d.free) == len(d.slots) {
		d.awake = false
		if d.closing {
			d.mu.Unlock()
			return false
		}
		d.parked = true
		d.mu.Unlock()
		<-d.wake
		return true
	}
	d.mu.Unlock()
	if d.handled { // let those run whom Done woke: their I/O goes with this Enter
		d.handled = false
		runtime.Gosched()
	}
	stuck := d.flush()
	if d.spin.until(d.something) {
		return true
	}
	d.mu.Lock()
	if len(d.filled) > 0 {
		d.mu.Unlock()
		if stuck {
			runtime.Gosched()
		}
		return true
	}
	d.awake = false
	d.mu.Unlock()
	_, errno := d.ring.Enter(0, 1)
	if errno != 0 && !retriable(errno) && errno != syscall.EBUSY {
		// The kernel can't refuse this of a ring that exists, and what it still
		// holds may not be given back.
		panic(fmt.Sprintf("%s: waiting on io_uring: %v", d.info.Path, errno))
	}
	d.mu.Lock()
	d.awake = true
	d.mu.Unlock()
	return true
}

// something reports whether there is work for the reaper.
func (d *uringDisk) something() bool { return d.ring.Ready() || d.filledLen.Load() > 0 }

// flush submits what is filled and reports whether something stays.
func (d *uringDisk) flush() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.filled) > 0 && !d.entering {
		d.entering = true
		d.enterLocked()
		d.entering = false
	}
	return len(d.filled) > 0
}

// handle ends or continues the I/Os of these completions.
func (d *uringDisk) handle(cqes []uring.CQE) {
	d.finished = d.finished[:0]
	d.mu.Lock()
	for _, c := range cqes {
		i := uint32(c.UserData)
		s := &d.slots[i]
		errno, done := d.outcome(s, c.Res)
		if !done {
			d.fillLocked(i)
			continue
		}
		f := finished{io: s.io}
		if errno != 0 {
			f.err = d.health.failed(s.io, errno)
		}
		d.finished = append(d.finished, f)
		d.releaseLocked(i)
	}
	for d.waiting.len() > 0 && len(d.free) > 0 {
		d.startLocked(d.waiting.pop())
	}
	d.mu.Unlock()
	for i := range d.finished {
		f := &d.finished[i]
		d.end(f.io, f.err)
		*f = finished{}
		if n := d.filledLen.Load(); n >= group || n > 0 && i == len(d.finished)-1 {
			d.flush()
		}
	}
	d.handled = true
}

// outcome says what res means for the I/O in s: not done, done, or failed.
func (d *uringDisk) outcome(s *slot, res int32) (errno syscall.Errno, done bool) {
	if res < 0 {
		errno = syscall.Errno(-res)
		switch {
		// The kernel cancels what a thread submitted when that thread exits.
		case retriable(errno), errno == syscall.ECANCELED:
			return 0, false
		case s.io.Op == Discard && discardUnsupported(errno):
			return 0, true
		}
		return errno, true
	}
	if s.io.Op != Read && s.io.Op != Write {
		return 0, true
	}
	if res == 0 { // the end of a file that became shorter
		return syscall.EIO, true
	}
	return 0, s.t.advance(int(res))
}

// Close implements Disk. It must not be called by a Done.
func (d *uringDisk) Close() error {
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return fmt.Errorf("close %s: %w", d.info.Path, ErrClosed)
	}
	d.closing = true
	d.health.closed.Store(true)
	wake := d.wakeAttendant // who leaves then, and readies the reaper
	if d.parked && !d.attended {
		d.unparkLocked()
	}
	d.mu.Unlock()
	if wake != nil {
		wake()
	}
	<-d.ended
	d.discards.wait()
	return errors.Join(d.ring.UnregisterFiles(), d.ring.Close(), d.file.close())
}

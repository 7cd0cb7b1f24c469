package disk

// Attended is a Disk whose completions another goroutine than its own may take:
// one that polls and sleeps anyway, such as the pump of a network link. What comes
// of a message, is written to the disk and answered is then done by one thread,
// which is woken once where it took four wake-ups: of the reaper when the I/O was
// submitted and when it was done, and of the pump for the answer.
//
// All methods but Attend are the attendant's, from when Attend was true until
// Look, Rest or Leave says that it is over.
type Attended interface {
	// Attend makes the caller the attendant, if nothing is in flight and nobody
	// else is. wake ends its sleep, and may be called on any goroutine; nil is for
	// one that leaves before it sleeps.
	Attend(wake func()) bool
	// Look calls Done of what has completed, and tells whether there was anything,
	// and whether the caller is still the attendant.
	Look() (worked, attending bool)
	// Rest is called before the attendant sleeps, and tells whether it still is one:
	// then it is to sleep no longer than until FD is readable, and to Look.
	Rest() bool
	// FD is readable (POLLIN) while Look would find something.
	FD() int
	// Leave gives the place back.
	Leave()
}

// AttendedOf returns d as an Attended, or what d is a wrapper of; nil where there
// is none, as with the portable driver.
func AttendedOf(d Disk) Attended {
	for {
		if a, ok := d.(Attended); ok {
			return a
		}
		w, ok := d.(interface{ Unwrap() Disk })
		if !ok {
			return nil
		}
		d = w.Unwrap()
	}
}

// attendMax is how many I/Os in flight an attendant has the patience for: those of a log and
// of a checkpoint, which the store has in flight for seconds. With more of them the
// reaper is the better one: it is awake anyway, collects what is submitted meanwhile,
// and leaves the attendant to its own work.
const attendMax = 32

// Attend implements Attended.
func (d *uringDisk) Attend(wake func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.parked || d.attended || d.closing {
		return false
	}
	d.attended, d.wakeAttendant = true, wake
	return true
}

// Look implements Attended.
func (d *uringDisk) Look() (worked, attending bool) {
	n := d.ring.Reap(d.cqes)
	if n == 0 && !d.health.closed.Load() {
		return false, true
	}
	if n > 0 {
		d.handle(d.cqes[:n])
		d.flush() // what was transferred in part goes on
	}
	return n > 0, d.stay(false)
}

// Rest implements Attended.
func (d *uringDisk) Rest() bool { return d.stay(true) }

// stay tells whether the attendant is still the right one. Otherwise it leaves:
// when there is much to do, when the kernel did not take what was submitted, when
// the disk is to be closed, or when nothing is in flight and it would sleep.
func (d *uringDisk) stay(sleep bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.inFlightLocked()
	if d.closing || n > attendMax || len(d.filled) > 0 && !d.entering || sleep && n == 0 {
		d.leaveLocked()
		return false
	}
	return true
}

// Leave implements Attended.
func (d *uringDisk) Leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaveLocked()
}

func (d *uringDisk) leaveLocked() {
	d.attended, d.wakeAttendant = false, nil
	if d.inFlightLocked() > 0 || d.closing {
		d.unparkLocked()
	}
}

// FD implements Attended.
func (d *uringDisk) FD() int { return d.ring.FD() }

func (d *uringDisk) inFlightLocked() int { return len(d.slots) - len(d.free) }

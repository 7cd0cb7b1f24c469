package blockdev

// Attendable is implemented by devices whose requests may end on the thread that submits them.
type Attendable interface {
	// Attended is what reads of the device wait for, usually a disk on this machine; nil when that
	// can't be told. It is cheap, and may differ from one call to the next.
	Attended() Attended
}

// AttendedOf is what reads of d wait for; nil where there is nothing to attend.
func AttendedOf(d Device) Attended {
	if a, ok := d.(Attendable); ok {
		return a.Attended()
	}
	return nil
}

// Attended is something whose completions a goroutine that waits anyway may take, for as
// long as it looks: one thread does then what took several, each of which has to be woken.
// Look and Leave are the attendant's, from when Attend was true until Look or Leave says
// that it is over.
type Attended interface {
	// Attend makes the caller the attendant, if nobody else is and others have nothing under
	// way. wake, which any goroutine may call, asks it to Look soon; it may be nil for one that
	// does not sleep before it leaves.
	Attend(wake func()) bool
	// Look ends what has completed, calling Done, and tells whether there was anything and
	// whether the caller is still the attendant.
	Look() (worked, attending bool)
	// Leave gives the place back. What is under way is taken care of.
	Leave()
}

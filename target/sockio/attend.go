package sockio

import "time"

// Attended is what a request of the peer waits for, a disk usually, whose completions the reader
// takes by itself while it polls: a blockdev.Attended, which says what the methods mean. The answer
// is then sent by the thread that took the request, and no other is woken.
type Attended interface {
	// Attend makes the reader the attendant, if it may be.
	Attend(wake func()) bool
	// Look ends what has completed, and tells whether there was anything, and whether the
	// reader is still the attendant.
	Look() (worked, attending bool)
	// Leave gives the place back.
	Leave()
}

const (
	// attendMax is for how long the reader looks for an answer at most: what a fast disk takes, and
	// some more.
	attendMax = 120 * time.Microsecond
	// looksPerRead is how often it looks there between looks at the socket: a peer that waits
	// for an answer seldom sends.
	looksPerRead = 64
)

// Attend has the reader, which calls it, take a's completions in its next Read or Readv until
// an answer was sent, data comes, or waiting longer does not pay. It comes before what is to
// complete is begun, and after it nothing may come that blocks, but for that read.
func (c *Conn) Attend(a Attended) {
	r := &c.rx
	switch {
	case r.attended != nil:
	case !r.answers.Polls():
		r.asked, r.late = time.Now(), true
	case a.Attend(nil):
		r.attended, r.sent = a, c.tx.writes.Load()
	}
}

// attend is the wait for the answer. r.got tells whether data came. It looks outside of any
// call of the socket's: whatever completes may close the connection.
func (c *Conn) attend() error {
	r := &c.rx
	defer r.leave()
	if c.answered() {
		return nil
	}
	r.asked = time.Now()
	budget := r.answers.Begin()
	if r.late = budget == 0; r.late {
		return nil
	}
	for {
		for range looksPerRead {
			if r.look() && c.answered() {
				r.answers.Hit(time.Since(r.asked))
				return nil
			}
		}
		err := c.raw.Read(r.onceFn)
		gap := time.Since(r.asked)
		switch {
		case err != nil || r.attended == nil:
			r.answers.Stop(gap)
			return err
		case r.got || gap >= budget: // a peer that does not wait for answers is as one of a slow disk
			r.answers.Miss(gap)
			r.late = true
			return nil
		}
	}
}

// answered reports whether something was sent since Attend.
func (c *Conn) answered() bool { return c.tx.writes.Load() != c.rx.sent }

// look takes what has completed and reports whether there was anything.
func (r *reader) look() (worked bool) {
	if r.attended == nil {
		return false
	}
	worked, attending := r.attended.Look()
	if !attending {
		r.attended = nil
	}
	return worked
}

func (r *reader) leave() {
	if r.attended != nil {
		r.attended.Leave()
		r.attended = nil
	}
}

// once reads once; see tryFn.
func (r *reader) once(fd uintptr) bool {
	r.got = r.readOnce(fd)
	return true
}

// Package adaptive decides how long to poll an event source before sleeping on
// it. Waking a thread that sleeps takes 40 to 90 us on a virtual machine;
// polling sees an event at once and costs a core. A source that is busy is
// worth polling for a short while after each event, a quiet one is not, and
// the gaps between the events tell which it is.
//
// The package has no clock, no goroutine and no file descriptor: it is told of
// gaps and answers with budgets. A source is anything that can be polled
// cheaply and slept on too, such as a socket or an AF_XDP ring. One wait on it:
//
//	began := now()
//	if budget := p.Begin(); budget > 0 {
//		for {
//			if poll() {
//				p.Hit(now() - began)
//				return
//			}
//			if spun := now() - began; spun >= budget {
//				p.Miss(spun)
//				break
//			}
//		}
//	}
//	sleep()
//	p.Parked(now() - began)
//
// The loop polls several times between looks at the clock, and offers its
// processor to others.
//
// All sources of a process share one Limit of how many poll at once, so that
// there are always processors that work. A source beyond it sleeps.
package adaptive

package nvme

import "blockd.dev/target/access"

// Leave is for a target that stops, before it ends the connections of its hosts. A host whose
// connection ends sends what has no answer by another path, and goes on to newer writes: what
// is done here after that may undo these. So from now on no I/O command begins.
//
//   - Namespaces that other nodes serve are inaccessible by this one, which hosts are told by
//     event, and by a status that has them go by another path at once. InternalPathError would
//     not do while connections live: Linux may choose the same path again. With the status goes
//     the delay of busy devices, for a host without multipath, which tries again a few times.
//   - Commands to namespaces that only this node serves end as Unanswered: a host that was told
//     that the path is to blame, or to come again, could do so for a few times, and then fail.
//   - What is under way at a device goes on, but commands of several steps end after the one
//     under way, and what a device holds back is taken from it.
//
// No queue can be connected any more. Admin commands are served as ever.
func (s *Subsystem) Leave() {
	if s.leaving.Swap(true) {
		return
	}
	s.configure.Lock()
	_ = s.configureLocked(s.conf.Load().Config) // nothing is opened, so nothing fails
	s.configure.Unlock()
	for _, c := range s.controllerList() {
		for _, q := range c.allQueues() {
			if q.id != 0 {
				q.quiesce()
			}
		}
	}
}

// leave has the namespaces that other nodes serve be inaccessible by this one.
func (s *snapshot) leave() {
	for i := range s.Namespaces {
		if n := &s.Namespaces[i]; n.Shared {
			n.ANAGroup = groupOfAccess(access.Inaccessible)
		}
	}
}

// quiesce lets no command begin any more, and ends those that have not begun: now, or, those
// that the transport holds, when it brings them.
func (q *Queue) quiesce() {
	q.mu.Lock()
	q.mu.leaving = true
	q.mu.Unlock()
	for _, s := range []Status{ANAInaccessibleStatus, Unanswered} {
		q.abortAll(func(c *Command) bool { return c.turnedAway() == s && c.stoppable() }, s, nil)
	}
}

// turnedAway is how a command ends that is not begun since the target stops; Success where
// it is begun all the same.
func (c *Command) turnedAway() Status {
	if c.Opcode() == OpFabrics {
		return Success
	}
	if a := c.state.att; a != nil && a.ns.conf.Load().Shared {
		return ANAInaccessibleStatus
	}
	return Unanswered
}

// stoppable reports whether c has not begun, or can be made to end before it is done. Called
// with the queue's mu.
func (c *Command) stoppable() bool {
	st := &c.state
	return st.phase != phaseRunning || st.entry.flags&flagSteps != 0 && st.partner == nil || c.withdraw()
}

// Commands counts the commands of the queue: those that a handler or a device works on, and
// those that wait, for the transport to bring their data or for an event. One that has just
// ended is in neither, though the transport may not have heard of it.
func (q *Queue) Commands() (running, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for c := q.mu.oldest; c != nil; c = c.state.next {
		if c.state.phase == phaseRunning {
			running++
		} else {
			waiting++
		}
	}
	return running, waiting
}

package nvme

// Divert makes the namespaces that match names inaccessible to the hosts that it names with them, until
// Readmit, and tells these by events. It is for a node that can't serve a volume while another may, and for hosts that
// have a path there: they go by that at once. Their commands that have not begun end, those among them
// that wait for their data or are held back by the device; one that the device begins to hold back later needs
// another call. It returns how many namespaces were not diverted before: a namespace once for each controller.
func (s *Subsystem) Divert(match func(hostNQN string, volume VolumeID) bool) (count int) {
	count = s.regroup(func(a *attachment) bool {
		return match(a.ctrl.hostNQN, a.ns.id) && !a.diverted.Swap(true)
	})
	for _, c := range s.controllerList() {
		c.turnAway()
	}
	return count
}

// Readmit has all hosts served again, and tells them by events.
func (s *Subsystem) Readmit() {
	s.regroup(func(a *attachment) bool { return a.diverted.Swap(false) })
}

// regroup moves namespaces to the ANA groups that they are in, where change says that it has
// changed that, and returns how many.
func (s *Subsystem) regroup(change func(*attachment) bool) (count int) {
	s.configure.Lock() // or a state that is older might be stored later
	defer s.configure.Unlock()
	conf := s.conf.Load()
	for _, c := range s.controllerList() {
		moved := false
		for _, a := range c.view.Load().list {
			if !change(a) {
				continue
			}
			count++
			moved = true
			a.ana.Store(uint32(conf.anaState(a.group(), c.port)))
			c.moves.Add(1)
			c.namespaceChanged(a.nsid) // its ANAGRPID
		}
		if moved {
			c.raise(eventANA)
		}
	}
	return count
}

// turnAway ends the I/O commands to namespaces that are diverted which have not begun.
func (c *Controller) turnAway() {
	status := ANAInaccessibleStatus
	if c.acre.Load() {
		status |= crd1 // for a host that does not use its other path
	}
	for _, q := range c.allQueues() {
		if q != nil && q.id != 0 {
			q.abortAll(func(c *Command) bool {
				return c.state.att != nil && c.state.att.diverted.Load() && c.stoppable()
			}, status, nil)
		}
	}
}

// EachPath calls fn for the hosts and the volumes that they reach through this subsystem.
func (s *Subsystem) EachPath(fn func(hostNQN string, volume VolumeID)) {
	for _, c := range s.controllerList() {
		for _, a := range c.view.Load().list {
			fn(c.hostNQN, a.ns.id)
		}
	}
}

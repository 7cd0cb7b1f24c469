package endpoint

import "blockd.dev/internal/turn"

// Soon leaves t to a pump that is handing over messages, or dealing with what its disks have
// done, as turn.Soon: what many messages of a turn lead to is done once, such as one write to a
// log for many requests, or one to a host's socket for many answers.
func (e *Endpoint) Soon(t turn.Task) bool {
	for _, p := range e.allPumps() {
		if p.current.Leave(t) {
			return true
		}
	}
	return false
}

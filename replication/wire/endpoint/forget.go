package endpoint

import "blockd.dev/internal/clock"

// Forget ends the connection to a node that is of the cluster no more, and dials
// it no longer. Config.Accept says whether it may come back by itself. Calls
// that are under way fail. Nothing happens for a node that is not known.
func (e *Endpoint) Forget(node string) {
	e.mu.Lock()
	p := e.mu.peers[node]
	delete(e.mu.peers, node)
	e.mu.Unlock()
	if p == nil {
		return
	}
	p.mu.Lock()
	p.mu.addrs, p.mu.next = nil, clock.Never
	dialing := p.mu.dialing
	p.mu.Unlock()
	now := e.cfg.Clock.Now()
	for _, c := range []*conn{dialing, p.active.Load()} {
		if c != nil {
			c.close(now, "the node was removed")
		}
	}
}

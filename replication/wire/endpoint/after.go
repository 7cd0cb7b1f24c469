package endpoint

import "blockd.dev/internal/turn"

// After leaves t to the pump that is being woken for what Go was given, to be done once that is
// sent, and tells whether it did. Of who has something to send and something to do, the
// caller would otherwise do its own part first: a pump that is woken often has to wait for
// the processor of who woke it. A pump that is awake sends meanwhile, so then, and when there is
// no connection, After is false and t is the caller's to do.
func (p *Peer) After(t turn.Task) bool {
	c := p.active.Load()
	return c != nil && c.home.Load().after(t)
}

func (p *pump) after(t turn.Task) bool {
	if !p.asleep.Load() {
		return false
	}
	p.mu.Lock()
	if p.mu.ended {
		p.mu.Unlock()
		return false
	}
	p.mu.tasks = append(p.mu.tasks, t)
	p.mu.Unlock()
	p.call()
	return true
}

// doTasks does what After has left. What it brings to be sent is for the next turn.
func (p *pump) doTasks() {
	if len(p.tasks) == 0 {
		return
	}
	p.current.Begin()
	for i, t := range p.tasks {
		p.tasks[i] = nil
		t.Do()
	}
	p.tasks = p.tasks[:0]
	p.current.End()
}

// lastTasks is the end of what was left: After takes no more by now.
func (p *pump) lastTasks() {
	p.current.End()
	p.doTasks()
	p.mu.Lock()
	p.tasks, p.mu.tasks = p.mu.tasks, nil
	p.mu.Unlock()
	p.doTasks()
}

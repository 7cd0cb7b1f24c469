package nvme

import "sync/atomic"

// counters count commands; those of a Queue are written by many goroutines.
type counters struct {
	readCommands, writeCommands   atomic.Uint64
	readBytes, writeBytes, failed atomic.Uint64
	// commands that ended, well or not, by entry.row.
	commands [rowsMax]atomic.Uint64
}

func (c *counters) add(o *counters) {
	c.readCommands.Add(o.readCommands.Load())
	c.writeCommands.Add(o.writeCommands.Load())
	c.readBytes.Add(o.readBytes.Load())
	c.writeBytes.Add(o.writeBytes.Load())
	c.failed.Add(o.failed.Load())
	for i := range c.commands {
		c.commands[i].Add(o.commands[i].Load())
	}
}

// count notes the end of a command.
func (q *Queue) count(c *Command, s Status) {
	if s == Unanswered {
		return
	}
	row := 0 // no such command
	if e := c.state.entry; e != nil {
		row = e.row
	}
	q.counts.commands[row].Add(1)
	if s != Success {
		q.counts.failed.Add(1)
		q.ctrl.sub.failed[s.Code()].Add(1)
		q.ctrl.noteError(q, c, s)
		return
	}
	if q.id == 0 {
		return
	}
	switch c.Dir {
	case DirIn:
		q.counts.readCommands.Add(1)
		q.counts.readBytes.Add(uint64(c.Length))
	case DirOut:
		q.counts.writeCommands.Add(1)
		q.counts.writeBytes.Add(uint64(c.Length))
	case DirNone:
	}
}

// Stats are totals since the Subsystem was made. Connect and authentication are
// the transport's to count.
type Stats struct {
	Controllers, Discovery, IOQueues int // now: of the NVM and the discovery subsystem; I/O queues
	ReadCommands, WriteCommands      uint64
	ReadBytes, WriteBytes, Failed    uint64

	// Commands that ended, well or not, in the order of the tables; those that
	// there is no entry for come first, without a name.
	Commands []CommandCount
	// Errors are commands that ended with another status than success.
	Errors []ErrorCount
	// Events are the asynchronous events that hosts were told of.
	Events            []EventCount
	KeepAliveTimeouts uint64 // controllers that ended since their host fell silent
}

// CommandCount is how often one command was given.
type CommandCount struct {
	Set   string // admin, io or fabrics; empty for those that are not known
	Name  string
	Count uint64
}

// ErrorCount is how often commands ended with one status, without its flags.
type ErrorCount struct {
	Status Status
	Count  uint64
}

// EventCount is how many asynchronous events there were of a kind: namespace,
// ana, discovery, reservation or spare.
type EventCount struct {
	Kind  string
	Count uint64
}

// Stats tells how much was done.
func (s *Subsystem) Stats() Stats {
	var sum counters
	out := s.totals(&sum)
	out.ReadCommands, out.WriteCommands = sum.readCommands.Load(), sum.writeCommands.Load()
	out.ReadBytes, out.WriteBytes, out.Failed = sum.readBytes.Load(), sum.writeBytes.Load(), sum.failed.Load()
	out.Commands = append(out.Commands, CommandCount{Count: sum.commands[0].Load()})
	for _, t := range tables {
		for i := range t.rows {
			e := &t.rows[i]
			out.Commands = append(out.Commands, CommandCount{Set: t.set, Name: e.name, Count: sum.commands[e.row].Load()})
		}
	}
	for code := range s.failed {
		if n := s.failed[code].Load(); n > 0 {
			out.Errors = append(out.Errors, ErrorCount{Status(code), n})
		}
	}
	for k := range s.told {
		out.Events = append(out.Events, EventCount{eventDescs[k].name, s.told[k].Load()})
	}
	out.KeepAliveTimeouts = s.keepAliveTimeouts.Load()
	return out
}

// totals adds up what queues counted, and counts what there is.
func (s *Subsystem) totals(sum *counters) (out Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum.add(&s.mu.past)
	for _, c := range s.mu.controllers {
		if c.discovery {
			out.Discovery++
		} else {
			out.Controllers++
		}
		c.mu.Lock()
		sum.add(&c.mu.past)
		if c.mu.admin != nil {
			sum.add(&c.mu.admin.counts)
		}
		for _, q := range c.mu.queues {
			sum.add(&q.counts)
			out.IOQueues++
		}
		c.mu.Unlock()
	}
	return out
}

package group

import (
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// EventKind says what an Event is about.
type EventKind uint8

// The kinds of Event.
const (
	EventLeader   EventKind = iota + 1 // Node leads in Term; "" when nobody is known to
	EventMember                        // membership changed: Node, Text says how
	EventGate                          // commands up to version Index are in use
	EventSnapshot                      // the state up to Index was written to the disk
	EventRestored                      // the state was replaced by a snapshot up to Index
	EventHash                          // this member's state is the leader's at Index
	EventHalted                        // this member has stopped, because of Err; the last one
	EventLibrary                       // a line from the Raft library, in Text
)

// Event is something that happened on this member.
type Event struct {
	Kind  EventKind
	Node  string
	Term  uint64
	Index uint64
	Text  string
	Err   error
}

// String is the event as a line of a log.
func (e Event) String() string {
	switch e.Kind {
	case EventLeader:
		if e.Node == "" {
			return fmt.Sprintf("no leader known (term %d)", e.Term)
		}
		return fmt.Sprintf("node %s leads in term %d", e.Node, e.Term)
	case EventMember:
		return fmt.Sprintf("node %s: %s", e.Node, e.Text)
	case EventGate:
		return fmt.Sprintf("commands up to version %d are in use", e.Index)
	case EventSnapshot:
		return fmt.Sprintf("snapshot of the state up to index %d", e.Index)
	case EventRestored:
		return fmt.Sprintf("state replaced by a snapshot up to index %d", e.Index)
	case EventHash:
		return fmt.Sprintf("state is the leader's at index %d", e.Index)
	case EventHalted:
		return fmt.Sprintf("stopped: %v", e.Err)
	case EventLibrary:
		return e.Text
	}
	return fmt.Sprintf("event %d", e.Kind)
}

// libraryLogger gives the Raft library's lines, from warnings upwards, to
// events. What it says at lower levels is told by this package's own events.
func libraryLogger(events func(Event)) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name: "raft", Level: hclog.Warn, DisableTime: true, Output: lineWriter{events},
	})
}

type lineWriter struct{ events func(Event) }

var _ io.Writer = lineWriter{}

// Write is called by hclog with one line at a time.
func (w lineWriter) Write(b []byte) (int, error) {
	w.events(Event{Kind: EventLibrary, Text: strings.TrimSpace(string(b))})
	return len(b), nil
}

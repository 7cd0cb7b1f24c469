package cluster

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// Event is a line of a node's log.
type Event struct {
	Time    time.Time `json:"time"`
	Node    string    `json:"node"`
	Level   string    `json:"level"`
	Kind    string    `json:"event"` // such as volume.owned; empty for lines that are of no event
	Subject string    `json:"subject"`
	Message string    `json:"message"`
}

// Events is what all nodes have logged from a time on, in the order of time. All have
// the same clock, unless SetClock says otherwise.
func (c *Cluster) Events(from time.Time) (events []Event, err error) {
	s, err := load(c.dir)
	if err != nil {
		return nil, err
	}
	for _, p := range s.nodes() {
		text, err := os.ReadFile(p.Log())
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was never started
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			e := Event{Node: p.Name}
			if json.Unmarshal([]byte(line), &e) == nil && !e.Time.Before(from) {
				events = append(events, e)
			}
		}
	}
	slices.SortStableFunc(events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	return events, nil
}

package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"blockd.dev/internal/durable"
)

// fileScrubs is how far the scrubs of a node have come.
const fileScrubs = "scrubs.json"

// scrubNotes keeps how far the scrubs of this node have come, so that one goes on
// after a restart where it was, and the next begins when it is due though the node
// was restarted meanwhile. A volume that another node gets is scrubbed there from where that
// node was with it: so all of it is reached, whoever owns it.
type scrubNotes struct {
	path string

	mu  sync.Mutex
	all map[string]scrubNote
}

// scrubNote is about one disk or shared volume.
type scrubNote struct {
	Since    time.Time `json:"since"`             // when the last round ended, or the node first saw it
	Finished time.Time `json:"finished,omitzero"` // when the last round ended
	// The round under way goes on here: at byte At of volume Volume of a disk, or of
	// the shared volume itself. At is 0 when none is under way.
	At     int64  `json:"at,omitempty"`
	Volume string `json:"volume,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"` // that it has read so far
}

// scrubAhead is how far ahead of the clock a note is taken for one by a clock that was wrong.
const scrubAhead = time.Hour

// due tells whether there is something to scrub: also when the last round ended at a
// time that is still to come, or else there would be none until then.
func (n scrubNote) due(now time.Time, interval time.Duration) bool {
	return n.At > 0 || !now.Before(n.Since.Add(interval)) || now.Before(n.Since.Add(-scrubAhead))
}

// openScrubNotes reads the file, if there is one. One that can't be read is begun anew,
// which the error says: nothing but time depends on it.
func openScrubNotes(path string) (*scrubNotes, error) {
	n := &scrubNotes{path: path, all: map[string]scrubNote{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return n, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &n.all)
	}
	if err != nil || n.all == nil {
		n.all = map[string]scrubNote{}
		return n, fmt.Errorf("%s can't be read, so all scrubs begin anew: %w", path, err)
	}
	return n, nil
}

// get returns what is noted of a disk or volume, which may be that it was seen now.
func (n *scrubNotes) get(name string) (scrubNote, error) {
	n.mu.Lock()
	note, ok := n.all[name]
	n.mu.Unlock()
	if ok {
		return note, nil
	}
	note.Since = time.Now().UTC()
	return note, n.put(name, note)
}

// peek returns what is noted, if anything is.
func (n *scrubNotes) peek(name string) scrubNote {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all[name]
}

// put notes it, durably.
func (n *scrubNotes) put(name string, note scrubNote) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all[name] = note
	return n.writeLocked()
}

// keep forgets the names that are of nothing any more.
func (n *scrubNotes) keep(is func(name string) bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := len(n.all)
	for name := range n.all {
		if !is(name) {
			delete(n.all, name)
		}
	}
	if len(n.all) == before {
		return nil
	}
	return n.writeLocked()
}

func (n *scrubNotes) writeLocked() error {
	b, err := json.MarshalIndent(n.all, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.Replace(n.path, append(b, '\n')); err != nil {
		return fmt.Errorf("note how far scrubs have come: %w", err)
	}
	return nil
}

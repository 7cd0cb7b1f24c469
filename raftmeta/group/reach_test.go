package group

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// The library is not told that entries for a member could not be sent: it would wait longer each time, also
// when the member is back. They are sent as soon as it is.
func TestEntriesWaitForAMemberThatIsAway(t *testing.T) {
	c := start(t, 3, func(cfg *Config) { cfg.Heartbeat = 3 * time.Second })
	c.until("one leader all the time", func() bool {
		leader, away := c.leader(), c.followers()[0]
		term, _ := leader.Leads()
		told := false
		heard := func(e Event) bool {
			told = told || strings.Contains(e.Text, "failed to appendEntries to")
			return strings.Contains(e.Text, "failed to heartbeat to")
		}
		c.wires.isolate(c.ids(), away.id)
		c.apply(leader, fmt.Sprint("entry of ", term))
		for range 5 {
			leader.await("a heartbeat that gets lost", heard)
		}
		c.wires.heal()
		c.agree()
		for len(leader.events) > 0 {
			heard(<-leader.events)
		}
		if now, leads := leader.Leads(); !leads || now != term {
			return false
		}
		if told {
			t.Errorf("%s was told that entries can't be sent to %s", leader.id, away.id)
		}
		return true
	})
}

// The library's pipelines are not used: see newTransport.
func TestEntriesAreNotPipelined(t *testing.T) {
	n := start(t, 1, nil).leader()
	if _, err := n.trans.AppendEntriesPipeline("n2", "n2"); !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		t.Errorf("a pipeline: %v", err)
	}
}

package pulse

import (
	"context"
	"errors"
	"fmt"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/lease"
)

// Times are how often nodes send pulses, and how long what is answered lasts.
type Times struct {
	Every time.Duration
	Lease lease.Config
}

// Defaults are the times of a cluster.
//
// A killed owner's volumes may be granted Duration and 1% after its last
// renewal has arrived, that is 1.21 s after it died at the latest, and the new
// owner needs a commit and a round trip: well below 1.5 s. An owner that lives, when
// the leader was killed, has between Duration - Margin - Every = 850 ms and
// 1.1 s for an election, which takes 0.4 to 0.8 s unless votes are split.
var Defaults = Times{
	Every: 250 * time.Millisecond,
	Lease: lease.Config{Duration: 1200 * time.Millisecond, Margin: 100 * time.Millisecond, DriftPPM: 10_000},
}

// Config says who the node is and whom it talks to.
type Config struct {
	Node        string      // its id, as catalog.ID.String spells it
	Incarnation uint64      // see NextIncarnation
	Clock       clock.Clock // nil: clock.Boot
	Times       Times       // zero: Defaults
	Catalog     Catalog
	// Leader is who leads the group, and a channel that is closed when that
	// changes: group.Group.WatchLeader.
	Leader func() (group.Leader, <-chan struct{})
	// Call sends a pulse to the leader: see Caller.
	Call   func(context.Context, group.Leader, *blockdv1.PulseRequest) (*blockdv1.PulseResponse, error)
	Events Events
}

// Catalog is the part of *catalog.Catalog that is needed.
type Catalog interface {
	// State returns what this member has; it never blocks.
	State() *catalog.State
	// Wait returns a state of a revision above after, or the context's error.
	Wait(ctx context.Context, after uint64) (*catalog.State, error)
}

// Events is told what becomes of leases. Its methods return soon; they may
// call the Node.
type Events interface {
	// Acquired: the node may serve the volume while the lease is valid. By the
	// reading waits every earlier lease of the volume has surely ended. It
	// has passed: a leader grants nothing before that is certain (lease.Leader.Propose,
	// or the owner's own release), so it holds at the moment at which this
	// node saw the grant, which is waits.
	Acquired(l *lease.Lease, waits clock.Mono)
	// Lost: the lease is over for good. Nothing needs to be given back.
	Lost(volume catalog.ID)
	// Recalled: the leader asks for it. Serve until all is drained, then call GaveBack.
	Recalled(volume catalog.ID)
}

func (c Config) withDefaults() Config {
	if c.Clock == nil {
		c.Clock = clock.Boot{}
	}
	if c.Times == (Times{}) {
		c.Times = Defaults
	}
	return c
}

// Validate names what is missing or out of range.
func (c Config) Validate() error {
	c = c.withDefaults()
	_, id := catalog.ParseID(c.Node)
	switch {
	case !id:
		return fmt.Errorf("pulse: Node is %q; it is 32 hexadecimal digits", c.Node)
	case c.Incarnation == 0:
		return errors.New("pulse: Incarnation is 0; the first start of a node is 1")
	case c.Catalog == nil || c.Leader == nil || c.Call == nil || c.Events == nil:
		return errors.New("pulse: Catalog, Leader, Call and Events are needed")
	case c.Times.Every < 10*time.Millisecond || c.Times.Every > c.Times.Lease.Duration/3:
		return fmt.Errorf("pulse: Times.Every is %s; it must be 10ms to a third of a lease, %s", c.Times.Every, c.Times.Lease.Duration)
	}
	return c.Times.Lease.Validate()
}

package catalog

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/pki"
)

// Log puts commands in order on all members; *group.Group is one.
type Log interface {
	// Apply replicates a command and returns what FSM.Apply made of it; see group.Group.Apply for errors.
	Apply(context.Context, group.Command) (group.Result, error)
	// Wait returns when this member's state machine has the entry at index.
	Wait(ctx context.Context, index uint64) error
	// Barrier returns when it has all that was acknowledged before the call.
	Barrier(context.Context) error
	// Err is why this member has stopped, or nil.
	Err() error
}

var _ Log = (*group.Group)(nil)

// Catalog is the catalog as one member of the group sees and changes it.
type Catalog struct {
	fsm  *FSM
	log  Log
	keys func() pki.Keyring
}

// doTimeout bounds how long Do waits for a leader and a majority.
const doTimeout = 30 * time.Second

// New returns the catalog whose state machine is fsm and whose log is log: the
// Group that was opened with fsm. keys returns the cluster keys that secrets are
// sealed by; it may be called at any time. The log stays its opener's to close.
// After a start, State has everything only when Barrier has returned.
func New(fsm *FSM, log Log, keys func() pki.Keyring) *Catalog {
	return &Catalog{fsm: fsm, log: log, keys: keys}
}

// State returns the state as this member has it, which may be behind the
// leader's; Barrier before it makes the read linearizable. It never blocks.
func (c *Catalog) State() *State { return c.fsm.State() }

// Barrier returns when State has everything that was acknowledged anywhere
// before the call.
func (c *Catalog) Barrier(ctx context.Context) error { return c.log.Barrier(ctx) }

// Do is DoContext for half a minute.
func (c *Catalog) Do(cmd *catalogpb.Command) (Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), doTimeout)
	defer cancel()
	return c.DoContext(ctx, cmd)
}

// DoContext applies a command, and returns when a majority of the members has
// it on disk and State has its effect. It works on any member. Secrets are sealed
// on the way, and Version is set. A refusal is an *Error; see there for whether anything changed. cmd is
// neither changed nor kept.
func (c *Catalog) DoContext(ctx context.Context, cmd *catalogpb.Command) (Result, error) {
	if len(cmd.GetRequestId()) > requestIDMax || len(cmd.GetActor()) > actorMax || len(cmd.GetSource()) > actorMax {
		return Result{}, refuse(ErrInvalid, "request id, actor or source too long: at most %d and %d bytes", requestIDMax, actorMax)
	}
	cmd, err := c.prepare(ctx, cmd)
	if err != nil {
		return Result{}, err
	}
	data, err := proto.Marshal(cmd)
	if err != nil {
		return Result{}, refuse(ErrInvalid, "command can't be encoded: %v", err)
	}
	done, err := c.log.Apply(ctx, group.Command{Version: cmd.GetVersion(), Data: data})
	if err != nil {
		return Result{}, failed(err)
	}
	res, err := decodeOutcome(done.Data)
	if err != nil {
		return Result{}, err
	}
	if err := c.log.Wait(ctx, done.Index); err != nil {
		return res, &Error{Kind: ErrFailed, Cause: group.ErrOutcomeUnknown,
			Text: fmt.Sprintf("the change was made, but this node has not seen it: %v", err)}
	}
	return res, nil
}

// prepare returns cmd as it goes into the log: with the lowest version that
// has all that is in it, so that it passes while some members are older, and
// without secrets in the clear.
func (c *Catalog) prepare(ctx context.Context, cmd *catalogpb.Command) (*catalogpb.Command, error) {
	cmd = proto.CloneOf(cmd)
	if cmd.Version = versionOf(cmd); cmd.Version == 0 {
		return nil, refuse(ErrInvalid, "the command has no kind that this blockd knows")
	}
	return c.sealCommand(ctx, cmd)
}

// Err returns why this member has stopped, or nil.
func (c *Catalog) Err() error { return c.log.Err() }

// Wait returns the first state that it sees with a revision above after, or
// the context's error.
func (c *Catalog) Wait(ctx context.Context, after uint64) (*State, error) {
	for {
		s, changed := c.fsm.watch()
		if s.Revision > after {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

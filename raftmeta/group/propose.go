package group

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// Command is what Apply replicates.
type Command struct {
	Version uint32 // of the command's encoding, 1 to the FSM's MaxVersion
	// Request makes trying again safe, also from another node: see RequestID. Zero means a new one.
	Request RequestID
	Data    []byte // at most CommandMax; not kept after Apply has returned
}

// Result is what came of a command.
type Result struct {
	Index, Term uint64 // of the entry that took effect
	Data        []byte // from FSM.Apply; the caller's
}

// NewRequestID makes a request id from crypto/rand.
func NewRequestID() RequestID {
	var id RequestID
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	return id
}

// Apply replicates c and returns what the FSM made of it, on any member: one
// that isn't the leader forwards it. While there is no leader it tries again,
// until ctx ends. With a nil error the command took effect once, and is on the
// disks of a majority; this member's own state may get there a little
// later (Wait). With ErrOutcomeUnknown it may have taken effect or may still do so;
// Apply of the same Request finds out. With any other error it had no effect.
func (g *Group) Apply(ctx context.Context, c Command) (Result, error) {
	if len(c.Data) > CommandMax {
		return Result{}, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(c.Data))
	}
	if c.Request == (RequestID{}) {
		c.Request = NewRequestID()
	}
	o, err := g.submit(ctx, &envelope{kind: kindFSM, version: c.Version, request: c.Request, command: c.Data})
	return Result{o.Index, o.Term, o.Data}, err
}

// order replicates one of the group's own commands.
func (g *Group) order(ctx context.Context, ord order) (outcome, error) {
	return g.submit(ctx, &envelope{kind: kindGroup, version: 1, request: NewRequestID(), command: ord.encode()})
}

// Wait returns when this member's state has everything up to index.
func (g *Group) Wait(ctx context.Context, index uint64) error {
	err := g.machine.wait(ctx, index, g.ctx.Done())
	if why := g.unusable(); why != nil {
		return why
	}
	return err
}

// retryEvery is how long submit waits for a leader to appear before it asks
// again: it would also hear of the change, but not of a leader that is only starting.
const retryEvery = 50 * time.Millisecond

// submit gets e applied, here or by the leader.
func (g *Group) submit(ctx context.Context, e *envelope) (outcome, error) {
	e.after, _ = g.machine.position()
	maybe := false // some attempt may have put it into the log
	var last error
	for {
		leader, changed := g.WatchLeader()
		o, unsure, err := g.attempt(ctx, leader, e)
		maybe = maybe || unsure
		switch {
		case err == nil && o.Code == codeOK:
			return o, nil
		case err == nil:
			return outcome{}, o.Code.err(leader.ID, string(o.Data))
		case errors.Is(err, ErrNoLeader), errors.Is(err, ErrNotLeader), unsure:
			last = err
		default:
			return outcome{}, g.uncertain(maybe, err)
		}
		g.awaitRetry(ctx, changed)
		if err := g.unusable(); err != nil {
			return outcome{}, g.uncertain(maybe, err)
		}
		if ctx.Err() != nil {
			return outcome{}, g.uncertain(maybe, fmt.Errorf("%w (%w): %w", ErrNoLeader, ctx.Err(), last))
		}
	}
}

func (g *Group) uncertain(maybe bool, err error) error {
	if maybe && !errors.Is(err, ErrOutcomeUnknown) {
		return fmt.Errorf("%w: %v", ErrOutcomeUnknown, err)
	}
	return err
}

// attempt tries once. unsure says that e may be in the log all the same.
func (g *Group) attempt(ctx context.Context, leader Leader, e *envelope) (o outcome, unsure bool, err error) {
	if err := g.unusable(); err != nil {
		return o, false, err
	}
	switch leader.ID {
	case "":
		return o, false, ErrNoLeader
	case g.cfg.NodeID:
		o, err = g.leaderApply(ctx, e, g.cfg.NodeID)
		return o, errors.Is(err, ErrOutcomeUnknown), err
	}
	ctx, cancel := g.whileLeads(ctx, leader)
	defer cancel()
	answer, sent, err := g.call(ctx, leader.ID, leader.Address, methodApply, e.encode())
	if err == nil {
		o, err = decodeOutcome(answer)
		return o, err != nil, err
	}
	var remote *remoteError
	switch {
	case errors.As(err, &remote) && remote.is == nil, sent && remote == nil:
		return o, true, err // it broke off, or failed in a way that we don't know
	case errors.Is(err, ErrHalted), remote == nil:
		return o, false, fmt.Errorf("%w: %w", ErrNoLeader, err) // another leader will come
	}
	return o, errors.Is(err, ErrOutcomeUnknown), err
}

// whileLeads bounds a question to a leader by patience, and ends it when another node leads: one that was cut off
// will not answer, and whoever asks would wait for it with the next one there.
func (g *Group) whileLeads(ctx context.Context, asked Leader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, g.patience())
	go func() {
		for ctx.Err() == nil {
			leader, changed := g.WatchLeader()
			if leader.ID != "" && leader.ID != asked.ID {
				cancel()
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}()
	return ctx, cancel
}

// patience is how long one attempt may take: long enough for a leader to
// notice that it has no majority.
func (g *Group) patience() time.Duration { return max(5*time.Second, 10*g.cfg.Heartbeat) }

// leaderApply checks e and puts it into the log, on the leader. from is the
// member that asks. With ErrOutcomeUnknown, e may be in the log; with other errors it is not.
func (g *Group) leaderApply(ctx context.Context, e *envelope, from string) (outcome, error) {
	if g.office.Load() == nil {
		return outcome{}, ErrNotLeader
	}
	if err := g.admissible(e, from); err != nil {
		return outcome{}, err
	}
	return g.append(ctx, e)
}

// admissible is the gate: what passes is understood by every member.
func (g *Group) admissible(e *envelope, from string) error {
	gate := g.machine.gate()
	if e.version == 0 || e.version > gate {
		return fmt.Errorf("%w: version %d, and all understand %d", ErrGate, e.version, gate)
	}
	_, member := g.machine.member(from)
	if e.kind == kindFSM {
		if !member {
			return fmt.Errorf("%w: node %s is not a member", ErrRefused, from)
		}
		if err := g.cfg.FSM.Check(e.version, e.command); err != nil {
			return fmt.Errorf("%w: %w", ErrUnknownCommand, err)
		}
		return nil
	}
	ord, err := decodeOrder(e.command)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknownCommand, err)
	}
	if from == g.cfg.NodeID || member && (ord.Admit != nil || ord.Remove != nil) || ord.Announce != nil && ord.Announce.ID == from {
		return nil
	}
	return fmt.Errorf("%w: node %s may not order that", ErrRefused, from)
}

// append puts e into the log and waits until it was applied here.
func (g *Group) append(ctx context.Context, e *envelope) (outcome, error) {
	if err := g.begin(); err != nil {
		return outcome{}, err
	}
	type answer struct {
		o   *outcome
		err error
	}
	done := make(chan answer, 1)
	go func() { // the future can't be waited for along with ctx
		defer g.pending.Done()
		f := g.raft.Apply(e.encode(), g.patience())
		if err := f.Error(); err != nil {
			done <- answer{nil, err}
			return
		}
		o, _ := f.Response().(*outcome)
		done <- answer{o, nil}
	}()
	select {
	case a := <-done:
		switch {
		case a.err == nil && a.o != nil:
			return *a.o, nil
		case a.err == nil: // committed, and this member has halted
			return outcome{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ErrHalted)
		case errors.Is(a.err, raft.ErrNotLeader), errors.Is(a.err, raft.ErrEnqueueTimeout),
			errors.Is(a.err, raft.ErrLeadershipTransferInProgress):
			return outcome{}, ErrNotLeader // the library has not begun
		}
		return outcome{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, a.err)
	case <-ctx.Done():
		return outcome{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	}
}

package group

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Verify returns nil only if, at some moment after the call began, this node
// led the group in the term it returns and no node had been elected in a later
// one. It returns ErrNotLeader when it can't know that.
//
// It asks every voter which term it is in, and needs a majority that is still
// in ours. A voter moves to a later term, durably, before it votes in it. A
// later leader needs the votes of a majority, which has a voter in common
// with ours; that one voted after it had answered us, so after the call began.
// The library's own VerifyLeader does not promise this: it also counts answers
// to messages that were sent before the call.
func (g *Group) Verify(ctx context.Context) (term uint64, err error) {
	o := g.office.Load()
	if o == nil {
		return 0, ErrNotLeader
	}
	if err := g.verifier.round(ctx, g, o.term); err != nil {
		return 0, err
	}
	return o.term, nil
}

// verifier lets calls of Verify that come together share their questions.
type verifier struct {
	mu      sync.Mutex
	running bool
	waiting []*verification // for the next round
}

type verification struct {
	term uint64
	done chan error
}

// round waits for a round of questions that begins after the call.
func (v *verifier) round(ctx context.Context, g *Group, term uint64) error {
	mine := &verification{term, make(chan error, 1)}
	v.mu.Lock()
	v.waiting = append(v.waiting, mine)
	if !v.running {
		if err := g.begin(); err != nil {
			v.waiting = nil
			v.mu.Unlock()
			return err
		}
		v.running = true
		go v.run(g)
	}
	v.mu.Unlock()
	select {
	case err := <-mine.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("asking the voters: %w", ctx.Err())
	}
}

// run does rounds until nobody waits.
func (v *verifier) run(g *Group) {
	defer g.pending.Done()
	for {
		v.mu.Lock()
		now := v.waiting
		v.waiting = nil
		if len(now) == 0 {
			v.running = false
			v.mu.Unlock()
			return
		}
		v.mu.Unlock()
		term := now[len(now)-1].term // terms grow: those of earlier ones are over
		err := g.askVoters(term)
		for _, w := range now {
			if w.term != term {
				w.done <- ErrNotLeader
			} else {
				w.done <- err
			}
		}
	}
}

// askVoters returns nil when a majority of the voters, with this node, is in term.
func (g *Group) askVoters(term uint64) error {
	servers := g.servers()
	answers := make(chan bool, len(servers))
	voters, yes := 0, 0
	payload := binary.BigEndian.AppendUint64(nil, term)
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if string(s.ID) == g.cfg.NodeID {
			answers <- true // checked at the end
			continue
		}
		if err := g.begin(); err != nil {
			return err
		}
		go func() { // those that a majority doesn't wait for end by themselves
			defer g.pending.Done()
			ctx, cancel := context.WithTimeout(g.ctx, max(time.Second, 2*g.cfg.Heartbeat))
			defer cancel()
			id, address := splitRaftAddress(s.Address)
			_, _, err := g.call(ctx, id, address, methodVerify, payload)
			answers <- err == nil
		}()
	}
	for range voters {
		if <-answers {
			yes++
		}
		if yes > voters/2 {
			break
		}
	}
	if yes <= voters/2 {
		return fmt.Errorf("%w any more: %d of %d voters say so", ErrNotLeader, yes, voters)
	}
	g.confirmed.asked(term)
	if g.raft.State() != raft.Leader || g.raft.CurrentTerm() != term {
		return ErrNotLeader
	}
	return nil
}

// Barrier returns when this member's state has everything that Apply
// acknowledged, on any member, before the call began: reads of the FSM's state
// after it are linearizable. Reads without it see the past, in order.
func (g *Group) Barrier(ctx context.Context) error {
	for {
		if why := g.unusable(); why != nil {
			return why
		}
		leader, changed := g.WatchLeader()
		index, err := g.readIndex(ctx, leader)
		if err == nil {
			return g.Wait(ctx, index)
		}
		var remote *remoteError
		if errors.As(err, &remote) && (errors.Is(err, ErrRemoved) || errors.Is(err, ErrIncarnation)) {
			return err
		}
		g.awaitRetry(ctx, changed)
		if ctx.Err() != nil {
			return fmt.Errorf("%w (%w): %w", ErrNoLeader, ctx.Err(), err)
		}
	}
}

// awaitRetry waits until the leader changed, it is time to ask again, the caller
// gave up, or the group closes.
func (g *Group) awaitRetry(ctx context.Context, changed <-chan struct{}) {
	timer := time.NewTimer(retryEvery)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
	case <-g.ctx.Done():
	}
}

func (g *Group) readIndex(ctx context.Context, leader Leader) (uint64, error) {
	switch leader.ID {
	case "":
		return 0, ErrNoLeader
	case g.cfg.NodeID:
		return g.leaderIndex(ctx)
	}
	ctx, cancel := g.whileLeads(ctx, leader)
	defer cancel()
	answer, _, err := g.call(ctx, leader.ID, leader.Address, methodIndex, nil)
	if err != nil {
		return 0, err
	}
	if len(answer) != 8 {
		return 0, errEnvelope
	}
	return binary.BigEndian.Uint64(answer), nil
}

// leaderIndex is the index that a read beginning now has to wait for. The
// leader has taken office, so what earlier leaders committed is at or
// below its commit index; Verify then proves that no later leader has
// committed more. Entries above TakeOffice all pass through the state machine,
// so waiting for the index ends.
func (g *Group) leaderIndex(ctx context.Context) (uint64, error) {
	o := g.office.Load()
	if o == nil {
		return 0, ErrNotLeader
	}
	index := max(o.index, g.raft.CommitIndex())
	term, err := g.Verify(ctx)
	if err != nil {
		return 0, err
	}
	if term != o.term {
		return 0, ErrNotLeader
	}
	return index, nil
}

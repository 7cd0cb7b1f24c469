package group

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"blockd.dev/internal/clock"
)

// confirmations is when this member has last confirmed to a leader that its
// term goes on (Verify), in memory. The clock counts the time of suspension, since who
// was told something then goes by such a clock as well.
type confirmations struct {
	mu     sync.Mutex
	term   uint64     // the newest one that was asked about
	at     clock.Mono // when, the last time
	before clock.Mono // when for an earlier term; also the start of the process, and the last change of who votes
}

// began forgets what was: nothing is known of the time before.
func (c *confirmations) began() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = clock.Boot{}.Now()
}

// asked notes that a leader of a term asks. It is called before the answer is
// decided on: a question that is refused then does no harm.
func (c *confirmations) asked(term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := clock.Boot{}.Now()
	switch {
	case term < c.term:
		c.before = now
	case term > c.term:
		c.before = max(c.before, c.at)
		c.term, c.at = term, now
	default:
		c.at = now
	}
}

// quiet is for how long no term before this one was confirmed.
func (c *confirmations) quiet(term uint64) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.before
	if c.term != term {
		last = max(last, c.at)
	}
	return clock.Boot{}.Now().Sub(last)
}

// Quiet returns, on the leader, for how long at least no leader of an earlier
// term can have begun a Verify that returned nil, as of the moment at which
// Quiet returns and by the clocks of those who were asked. 0 and an error when that can't be
// known; 0 is always right. docs/RAFT.md has the argument.
func (g *Group) Quiet(ctx context.Context) (time.Duration, error) {
	o := g.office.Load()
	if o == nil {
		return 0, ErrNotLeader
	}
	if err := g.begin(); err != nil {
		return 0, err
	}
	defer g.pending.Done()
	ctx, cancel := context.WithTimeout(ctx, max(time.Second, 2*g.cfg.Heartbeat))
	defer cancel()
	payload := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, o.term), o.index)
	answers, voters := make(chan time.Duration, len(o.servers)), 0
	for _, s := range o.servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if err := g.begin(); err != nil {
			return 0, err
		}
		go func() {
			defer g.pending.Done()
			answers <- g.quietOf(ctx, s, payload)
		}()
	}
	known := make([]time.Duration, 0, voters)
	for range voters {
		if d := <-answers; d >= 0 {
			known = append(known, d)
		}
		if len(known) > voters/2 {
			return slices.Min(known), nil
		}
	}
	return 0, fmt.Errorf("%w any more: %d of %d voters say so", ErrNotLeader, len(known), voters)
}

// quietOf asks one voter, which may be this node; -1 when it does not say.
func (g *Group) quietOf(ctx context.Context, s raft.Server, payload []byte) time.Duration {
	var answer []byte
	var err error
	if string(s.ID) == g.cfg.NodeID {
		answer, err = g.answerQuiet(ctx, payload)
	} else {
		id, address := splitRaftAddress(s.Address)
		answer, _, err = g.call(ctx, id, address, methodQuiet, payload)
	}
	if err != nil || len(answer) != 8 {
		return -1
	}
	return max(0, time.Duration(binary.BigEndian.Uint64(answer)))
}

// answerQuiet answers a leader in this member's term, when it has applied the leader's TakeOffice,
// and so every change of who votes from before.
func (g *Group) answerQuiet(ctx context.Context, payload []byte) ([]byte, error) {
	if len(payload) != 16 {
		return nil, errors.New("malformed")
	}
	term, index := binary.BigEndian.Uint64(payload), binary.BigEndian.Uint64(payload[8:])
	if err := g.Wait(ctx, index); err != nil {
		return nil, err
	}
	if term != g.raft.CurrentTerm() { // then quiet: whoever has moved on confirms no earlier term
		return nil, ErrNotLeader
	}
	return binary.BigEndian.AppendUint64(nil, uint64(g.confirmed.quiet(term))), nil
}

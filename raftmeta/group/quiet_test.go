package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"blockd.dev/internal/clock"
)

// What was confirmed of an earlier term counts, by whichever order the
// questions come in, and what is of this term does not.
func TestConfirmations(t *testing.T) {
	const step = 20 * time.Millisecond
	pass := func() { time.Sleep(step) } // sleep: the clock that counts suspension can't be simulated
	now := func() clock.Mono { return clock.Boot{}.Now() }
	var c confirmations
	// since checks that for a leader of a term it has been quiet since something was done just now, and not before.
	since := func(what string, done func(), term uint64) {
		t.Helper()
		before := now()
		done()
		after := now()
		pass()
		least := now().Sub(after)
		if q, most := c.quiet(term), now().Sub(before); q < least || q > most {
			t.Errorf("%s: for a leader of term %d it was quiet for %v, and not for %v to %v", what, term, q, least, most)
		}
	}
	since("the start", c.began, 5)
	since("term 4 was confirmed", func() { c.asked(4) }, 5)
	last := now()
	c.asked(5)
	if q := c.quiet(5); q < step {
		t.Errorf("only this term was confirmed since, and yet it was quiet for %v", q)
	}
	pass()
	if q, most := c.quiet(6), now().Sub(last); q > most {
		t.Errorf("term 5 was confirmed %v ago, and yet it was quiet for %v", most, q)
	}
	since("term 3 was asked about, by a leader that does not know that it was replaced", func() { c.asked(3) }, 5)
	since("voters have changed", c.began, 5)
}

// A new leader knows when the one before was confirmed for the last time: never
// later than it was, and not much earlier.
func TestQuietAfterAnElection(t *testing.T) {
	c := start(t, 3, nil)
	if _, err := c.followers()[0].Quiet(c.ctx()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a follower knows: %v", err)
	}
	for round := range 3 {
		c.apply(c.leader(), fmt.Sprint(round))
		for _, n := range c.nodes { // they know who votes, as was committed before
			if err := n.Barrier(c.ctx()); err != nil {
				t.Fatal(err)
			}
		}
		var old *node
		var begin time.Time
		c.until("a leader is confirmed", func() bool {
			old, begin = c.leader(), time.Now()
			_, err := old.Verify(c.ctx())
			return err == nil
		})
		time.Sleep(testHeartbeat) // sleep: for as long at least it is quiet
		old.stop()
		// Verify does not wait for the last of the voters, whom its question may reach later.
		var ended clock.Mono
		for _, n := range c.nodes {
			if n != old {
				ended = max(ended, n.confirmed.last())
			}
		}
		var quiet time.Duration
		var asked clock.Mono
		c.until("a new leader that knows", func() bool {
			n := c.leading()
			if n == nil || n == old {
				return false
			}
			asked = clock.Boot{}.Now()
			var err error
			quiet, err = n.Quiet(c.ctx())
			return err == nil
		})
		if most := time.Since(begin); quiet > most {
			t.Errorf("quiet for %v, and a Verify began %v ago", quiet, most)
		}
		least := asked.Sub(ended)
		if quiet < least {
			t.Errorf("round %d: quiet for %v, and a voter was asked last %v before", round, quiet, least)
		}
		t.Logf("quiet for %v", quiet)
		old.mustOpen()
		c.until("all voters are back", func() bool { return c.settled(3) })
	}
}

// last is when this member was asked last.
func (c *confirmations) last() clock.Mono {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// A leader of the past is told nothing, nor one whose office a member has not heard of.
func TestQuietIsForTheLeader(t *testing.T) {
	c := start(t, 3, steady)
	l, f := c.leader(), c.followers()[0]
	term, _ := l.Leads()
	ask := func(term, index uint64) error {
		_, err := f.answerQuiet(c.ctx(), binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, term), index))
		return err
	}
	if err := ask(term, 1); err != nil {
		t.Errorf("this term: %v", err)
	}
	if err := ask(term-1, 1); !errors.Is(err, ErrNotLeader) {
		t.Errorf("an earlier term: %v", err)
	}
	if _, err := f.answerQuiet(c.ctx(), nil); err == nil {
		t.Error("nothing is answered")
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"blockd.dev/blockdev"
	"blockd.dev/tools/blockbench/reconnect"
	"blockd.dev/tools/blockbench/verify"
)

// violationsMax is how many violations are told.
const violationsMax = 10

// checking is a verification under way.
type checking struct {
	checker *verify.Checker

	mu    sync.Mutex
	bad   []*verify.Violation // the first ones
	count int
}

// verified is the outcome of a verification.
type verified struct {
	Complete   bool        `json:"complete"` // everything was read back, and is right
	Checked    int64       `json:"checked_blocks"`
	LookedUp   int64       `json:"writes_looked_up"` // of unknown outcome after a reconnect
	Writes     uint64      `json:"writes_in_journal"`
	Settled    int64       `json:"blocks_settled"` // whose version was open until they were read
	Open       int         `json:"open_blocks"`    // that may hold one of several versions
	Violations []violation `json:"violations"`     // the first ones
	Count      int         `json:"violations_count"`
}

type violation struct {
	Kind   string `json:"kind"`
	Offset int64  `json:"offset"`
	Text   string `json:"text"`
}

func newChecking(j *verify.Journal) *checking {
	c := &checking{}
	c.checker = &verify.Checker{Journal: j, Report: c.report,
		Uncertain: func(err error) bool { return errors.Is(err, reconnect.ErrInterrupted) }}
	return c
}

// openJournal takes up the journal, or makes it where there is none.
func (d *driver) openJournal(h host, c *connection) (*checking, error) {
	g := c.Geometry()
	j, err := verify.Open(d.journal, g.SizeBytes, g.BlockSize)
	if errors.Is(err, os.ErrNotExist) {
		j, err = verify.Create(d.journal, g.SizeBytes, g.BlockSize, verify.Config{OffsetBytes: d.spec.OffsetBytes,
			RangeBytes: d.spec.RangeBytes, Zeroed: d.zeroed, WriteCache: h.writeCache(c.first)})
	}
	if err != nil {
		return nil, err
	}
	// The journal says what the range is.
	first, end, _ := j.Oracle.Range()
	if d.spec.OffsetBytes != 0 && d.spec.OffsetBytes != first || d.spec.RangeBytes != 0 && d.spec.RangeBytes != end-first {
		err := fmt.Errorf("journal %s covers %d bytes from %d on: leave --offset and --range away, or begin another journal", d.journal, end-first, first)
		return nil, errors.Join(err, j.Close())
	}
	d.spec.OffsetBytes, d.spec.RangeBytes = first, end-first
	return newChecking(j), nil
}

// openExisting takes up a journal that must be there.
func (d *driver) openExisting(c *connection) (*checking, error) {
	g := c.Geometry()
	j, err := verify.Open(d.journal, g.SizeBytes, g.BlockSize)
	if err != nil {
		return nil, err
	}
	return newChecking(j), nil
}

func (c *checking) report(v *verify.Violation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	if len(c.bad) < violationsMax {
		c.bad = append(c.bad, v)
	}
}

// all reads everything back.
func (c *checking) all(ctx context.Context, dev blockdev.Device) error {
	return verify.CheckAll(ctx, c.checker.Device(dev), violationsMax)
}

// close ends the verification, in which err happened, and sums it up.
func (c *checking) close(err error) (*verified, error) {
	s := c.checker.Journal.Oracle.Stats()
	err = errors.Join(err, c.checker.Journal.Close())
	c.mu.Lock()
	defer c.mu.Unlock()
	v := &verified{Complete: err == nil, Checked: c.checker.Checked(), LookedUp: c.checker.Resolved(), Settled: c.checker.Settled(), Writes: s.Writes, Open: s.Open,
		Violations: []violation{}, Count: c.count}
	for _, b := range c.bad {
		v.Violations = append(v.Violations, violation{b.Kind.String(), b.Offset, b.Error()})
	}
	if c.count > 0 {
		err = dataError{fmt.Errorf("the target does not hold what it must: %d violations, the first: %w", c.count, c.bad[0])}
	}
	return v, err
}

func (v *verified) print(w io.Writer) {
	fmt.Fprintf(w, "verified %d blocks, %d writes in the journal, %d writes looked up after a reconnect, %d blocks open: ",
		v.Checked, v.Writes, v.LookedUp, v.Open)
	switch {
	case v.Count == 0 && v.Complete:
		fmt.Fprintln(w, "all hold what they must")
		return
	case v.Count == 0:
		fmt.Fprintln(w, "those that were read hold what they must, not all were")
		return
	}
	fmt.Fprintf(w, "%d violations\n", v.Count)
	for _, b := range v.Violations {
		fmt.Fprintln(w, "  "+b.Text)
	}
}

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

// levels are those of events, the least first.
var levels = []string{"info", "warning", "error"}

// sinceFlag is a time, given as such or as how long ago.
type sinceFlag struct {
	text string
	time time.Time // zero: ever
}

func (f *sinceFlag) add(c *cobra.Command) {
	c.Flags().StringVar(&f.text, "since", "", "only what is newer: how long ago (15m), or a time (2026-01-02T15:04:05Z)")
}

func (f *sinceFlag) parse(now time.Time) error {
	if f.text == "" {
		return nil
	}
	if ago, err := time.ParseDuration(f.text); err == nil {
		f.time = now.Add(-ago)
		return nil
	}
	var err error
	if f.time, err = time.Parse(time.RFC3339, f.text); err != nil {
		return usageError{fmt.Errorf("--since %q: want how long ago, such as 15m, or a time such as 2026-01-02T15:04:05Z", f.text)}
	}
	return nil
}

// passes tells whether what happened at stamp is new enough.
func (f *sinceFlag) passes(stamp string) bool {
	return f.time.IsZero() || parseTime(stamp).After(f.time)
}

// parseTime reads a time of the API; what is none is the zero time.
func parseTime(s string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, s)
	return t
}

// eventFilter is which events are wanted.
type eventFilter struct {
	since         sinceFlag
	level         string
	kind, subject string
}

func (f *eventFilter) passes(e eventView) bool {
	return f.since.passes(e.Time) && slices.Index(levels, e.Level) >= slices.Index(levels, f.level) &&
		strings.HasPrefix(e.Kind, f.kind) && (f.subject == "" || e.Subject == f.subject)
}

func (a *app) events() *cobra.Command {
	var follow bool
	var filter eventFilter
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what happened since blockd started: the last 1024 events",
		Long: `Show what happened since blockd started: the last 1024 events of the node that is asked. With
--follow it goes on, one line or JSON object each; when the node goes away it asks again, or the
next of several addresses, and goes on with what is new.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(levels, filter.level) {
				return usageError{fmt.Errorf("--level %q: want %s", filter.level, strings.Join(levels, ", "))}
			}
			if err := filter.since.parse(time.Now()); err != nil {
				return err
			}
			if _, err := a.link(); err != nil {
				return err
			}
			if follow {
				return a.followEvents(cmd, &filter)
			}
			ctx, cancel := a.context(cmd)
			defer cancel()
			var list []eventView
			err := a.watch(ctx, false, func(e eventView) error {
				if filter.passes(e) {
					list = append(list, e)
				}
				return nil
			})
			if err != nil {
				return err
			}
			return printList(a, cmd, list, eventColumns)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new events until interrupted")
	c.Flags().StringVar(&filter.level, "level", "info", "only these and worse: info, warning, error")
	c.Flags().StringVar(&filter.kind, "kind", "", "only kinds that begin so, such as volume. or session.login")
	c.Flags().StringVar(&filter.subject, "subject", "", "only those about this volume, host, disk or node")
	filter.since.add(c)
	complete(c, "level", levels...)
	return c
}

// watch calls each for every event that the node sends, until it ends.
func (a *app) watch(ctx context.Context, follow bool, each func(eventView) error) error {
	stream, err := a.clients().event.WatchEvents(ctx, request(&blockdv1.WatchEventsRequest{Follow: follow}))
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // what was wrong, Receive has found
	for stream.Receive() {
		if err := each(viewEvent(stream.Msg().GetEvent())); err != nil {
			return err
		}
	}
	return stream.Err()
}

// resumeAfter is how long followEvents waits before it asks again.
const resumeAfter = 500 * time.Millisecond

// errOutput is wrapped by errors of writing what was asked for.
var errOutput = errors.New("can't write")

// followEvents prints events until it is interrupted.
func (a *app) followEvents(cmd *cobra.Command, filter *eventFilter) error {
	ctx := cmd.Context()
	var last eventView
	seen := false
	for {
		err := a.watch(ctx, true, func(e eventView) error {
			// After asking again, the node sends all that it keeps; another node, or one that
			// was started anew, counts differently, so that time decides.
			if seen && !newer(e, last) {
				return nil
			}
			seen, last = true, e
			if !filter.passes(e) {
				return nil
			}
			if err := a.printEvent(cmd.OutOrStdout(), e); err != nil {
				return fmt.Errorf("%w: %w", errOutput, err)
			}
			return nil
		})
		code := connect.CodeOf(err)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errOutput):
			return err
		case err != nil && !seen, code == connect.CodeUnauthenticated, code == connect.CodePermissionDenied, code == connect.CodeUnimplemented:
			return err
		}
		if err == nil {
			err = errors.New("the node has ended the answer")
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s; asking again\n", Explain(err))
		select {
		case <-time.After(resumeAfter):
		case <-ctx.Done():
			return nil
		}
	}
}

// newer tells whether e came after last.
func newer(e, last eventView) bool {
	t, before := parseTime(e.Time), parseTime(last.Time)
	return t.After(before) || t.Equal(before) && e.Sequence > last.Sequence
}

// printEvent writes one event: a line, a JSON object in one line, or a YAML document.
func (a *app) printEvent(w io.Writer, e eventView) error {
	switch a.format {
	case "json":
		return json.NewEncoder(w).Encode(e)
	case "yaml":
		fmt.Fprintln(w, "---")
		return printYAML(w, e)
	}
	return writeRows(w, rows{{fmt.Sprintf("%-20s  %-7s  %-18s  %-16s  %s", shortTime(e.Time), e.Level, e.Kind, e.Subject, e.Message)}})
}

// auditFilter is which changes are wanted.
type auditFilter struct {
	since                  sinceFlag
	actor, action, subject string
	last                   int
}

func (f *auditFilter) passes(e auditView) bool {
	return f.since.passes(e.Time) && strings.Contains(e.Actor, f.actor) && strings.HasPrefix(e.Action, f.action) &&
		(f.subject == "" || e.Subject == f.subject)
}

func (a *app) audit() *cobra.Command {
	var filter auditFilter
	c := &cobra.Command{
		Use:     "audit",
		Short:   "Show the changes that were made through the API: the last 4096",
		Example: "  blockctl audit --actor alice --since 24h\n  blockctl audit --action volume. --last 20",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if filter.last < 0 {
				return usageError{fmt.Errorf("--last %d: want 0 for all, or how many", filter.last)}
			}
			if err := filter.since.parse(time.Now()); err != nil {
				return err
			}
			r, err := ask(a, cmd, a.clients().event.ListAudit, &blockdv1.ListAuditRequest{})
			if err != nil {
				return err
			}
			list := slices.DeleteFunc(views(r.GetEntries(), viewAudit), func(e auditView) bool { return !filter.passes(e) })
			if filter.last > 0 && len(list) > filter.last {
				list = list[len(list)-filter.last:]
			}
			return printList(a, cmd, list, auditColumns)
		},
	}
	c.Flags().StringVar(&filter.actor, "actor", "", "only changes by those whose name has this in it")
	c.Flags().StringVar(&filter.action, "action", "", "only actions that begin so, such as volume. or host.create")
	c.Flags().StringVar(&filter.subject, "subject", "", "only changes of this volume, host, pool or node")
	c.Flags().IntVar(&filter.last, "last", 0, "only so many, the newest; 0 for all")
	filter.since.add(c)
	return c
}

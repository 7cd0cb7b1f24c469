package cli

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/store"
	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) node() *cobra.Command {
	return group("node", "Show nodes", &cobra.Command{
		Use:   "list",
		Short: "List the nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().node.ListNodes(ctx, request(&blockdv1.ListNodesRequest{}))
			if err != nil {
				return err
			}
			list := make([]nodeView, 0, 1)
			t := rows{{"NAME", "STATE", "ROLES", "ISCSI", "API", "VERSION", "STARTED"}}
			for _, n := range r.Msg.GetNodes() {
				v := viewNode(n)
				list = append(list, v)
				t = append(t, []string{v.Name, v.State, strings.Join(v.Roles, ","), strings.Join(v.ISCSIPortals, ","), v.API, v.Version, v.Started})
			}
			return a.print(cmd, list, t)
		},
	})
}

func (a *app) disk() *cobra.Command {
	return group("disk", "Show disks", &cobra.Command{
		Use:   "list",
		Short: "List the disks that hold extents",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().node.ListDisks(ctx, request(&blockdv1.ListDisksRequest{}))
			if err != nil {
				return err
			}
			list := make([]diskView, 0, 1)
			t := rows{{"NAME", "PATH", "STATE", "DRIVER", "USED", "CAPACITY", "WRITE AMP", "LAST SCRUB"}}
			for _, d := range r.Msg.GetDisks() {
				v := viewDisk(d)
				list = append(list, v)
				t = append(t, []string{v.Name, v.Path, v.State, v.Driver, units.FormatBytes(v.UsedBytes),
					units.FormatBytes(v.CapacityBytes), fmt.Sprintf("%.2f", v.WriteAmplification), v.Scrub.LastFinished})
			}
			return a.print(cmd, list, t)
		},
	})
}

func (a *app) session() *cobra.Command {
	return group("session", "Show the sessions of hosts", &cobra.Command{
		Use:   "list",
		Short: "List the sessions",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().node.ListSessions(ctx, request(&blockdv1.ListSessionsRequest{}))
			if err != nil {
				return err
			}
			list := make([]sessionView, 0, len(r.Msg.GetSessions()))
			t := rows{{"ID", "PROTOCOL", "INITIATOR", "HOST", "REMOTE", "LOCAL", "SINCE"}}
			for _, s := range r.Msg.GetSessions() {
				v := sessionView{s.GetId(), s.GetProtocol(), s.GetInitiator(), s.GetHost(), s.GetRemoteAddress(), s.GetLocalAddress(),
					s.GetSince(), s.GetCommands(), s.GetParameters()}
				list = append(list, v)
				t = append(t, []string{v.ID, v.Protocol, v.Initiator, v.Host, v.Remote, v.Local, v.Since})
			}
			return a.print(cmd, list, t)
		},
	})
}

func (a *app) events() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what happened since blockd started: the last 1024 events",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := cmd.Context(), func() {}
			if !follow {
				ctx, cancel = a.context(cmd)
			}
			defer cancel()
			stream, err := a.clients().event.WatchEvents(ctx, request(&blockdv1.WatchEventsRequest{Follow: follow}))
			if err != nil {
				return err
			}
			list := make([]eventView, 0)
			for stream.Receive() {
				e := stream.Msg().GetEvent()
				v := eventView{e.GetSequence(), e.GetTime(), e.GetLevel(), e.GetKind(), e.GetSubject(), e.GetMessage()}
				if !follow {
					list = append(list, v)
					continue
				}
				// One line each, as it comes; JSON lines rather than a list.
				if a.format == "table" {
					err = printTable(cmd.OutOrStdout(), rows{eventLine(v)})
				} else {
					err = json.NewEncoder(cmd.OutOrStdout()).Encode(v)
				}
				if err != nil {
					return err
				}
			}
			if err := stream.Err(); err != nil {
				return err
			}
			if follow {
				return nil
			}
			t := rows{{"TIME", "LEVEL", "KIND", "SUBJECT", "MESSAGE"}}
			for _, v := range list {
				t = append(t, eventLine(v))
			}
			return a.print(cmd, list, t)
		},
	}
	c.Flags().BoolVar(&follow, "follow", false, "go on with new events until interrupted")
	return c
}

func eventLine(v eventView) []string {
	return []string{v.Time, v.Level, v.Kind, v.Subject, v.Message}
}

func (a *app) audit() *cobra.Command {
	return &cobra.Command{
		Use:   "audit",
		Short: "Show the changes that were made through the API: the last 4096",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().event.ListAudit(ctx, request(&blockdv1.ListAuditRequest{}))
			if err != nil {
				return err
			}
			list := make([]auditView, 0, len(r.Msg.GetEntries()))
			t := rows{{"REVISION", "TIME", "ACTOR", "ACTION", "SUBJECT", "DETAIL"}}
			for _, e := range r.Msg.GetEntries() {
				list = append(list, auditView{e.GetRevision(), e.GetTime(), e.GetActor(), e.GetAction(), e.GetSubject(), e.GetDetail()})
				t = append(t, []string{fmt.Sprint(e.GetRevision()), e.GetTime(), e.GetActor(), e.GetAction(), e.GetSubject(), e.GetDetail()})
			}
			return a.print(cmd, list, t)
		},
	}
}

// errUnhealthy makes `doctor` end with a code that scripts see.
var errUnhealthy = errors.New("something is broken; see the lines that say error")

func (a *app) doctor() *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at every part of blockd and say how it is and what to do; fails when something is broken",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().node.Diagnose(ctx, request(&blockdv1.DiagnoseRequest{}))
			if err != nil {
				return err
			}
			list := make([]findingView, 0, len(r.Msg.GetFindings()))
			for _, f := range r.Msg.GetFindings() {
				list = append(list, findingView{f.GetLevel(), f.GetSubject(), f.GetMessage(), f.GetAdvice()})
				if f.GetLevel() == "error" {
					err = errUnhealthy
				}
			}
			return errors.Join(a.printFindings(cmd, list), err)
		},
	}
	c.AddCommand(a.doctorNetwork())
	return c
}

func (a *app) store() *cobra.Command {
	return group("store", "Work on a disk that blockd has not open", &cobra.Command{
		Use:   "check FILE",
		Short: "Check the store on a disk or file, and say what is wrong and where; changes nothing",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := disk.Open(args[0], disk.Options{})
			if err != nil {
				return fmt.Errorf("%w; stop the blockd that uses it first", err)
			}
			var found bytes.Buffer
			report, err := store.Check(d, &found)
			if err = errors.Join(err, d.Close()); err != nil {
				return err
			}
			return a.printReport(cmd, args[0], report, found.String())
		},
	})
}

// reportView is what `store check` prints as JSON.
type reportView struct {
	File           string   `json:"file"`
	UUID           string   `json:"uuid"`
	Clean          bool     `json:"clean"`
	LogBatches     int64    `json:"log_batches"`
	Volumes        int      `json:"volumes"`
	Extents        int      `json:"extents"`
	Chunks         int      `json:"chunks"`
	ChunksTotal    int      `json:"chunks_total"`
	BlocksVerified int64    `json:"blocks_verified"`
	Poisoned       int64    `json:"poisoned_sectors"`
	ProblemCount   int      `json:"problem_count"`
	Problems       []string `json:"problems"`
}

func (a *app) printReport(cmd *cobra.Command, file string, r store.Report, found string) error {
	v := reportView{File: file, UUID: hex.EncodeToString(r.UUID[:]), Clean: r.Clean, LogBatches: r.LogBatches, Volumes: r.Volumes,
		Extents: r.Extents, Chunks: r.Chunks, ChunksTotal: r.ChunksTotal, BlocksVerified: r.Blocks, Poisoned: r.Poisoned, ProblemCount: r.Problems, Problems: []string{}}
	t := rows{}
	for line := range strings.Lines(found) {
		v.Problems = append(v.Problems, strings.TrimSpace(line))
		t = append(t, []string{strings.TrimSpace(line)})
	}
	state := "closed cleanly"
	if !r.Clean {
		state = fmt.Sprintf("not closed cleanly; its log of %d batches was taken into account", r.LogBatches)
	}
	t = append(t, []string{fmt.Sprintf("%s: store %s, %s", file, v.UUID, state)},
		[]string{fmt.Sprintf("%d volumes, %d extents, %d of %d chunks in use, %d blocks verified, %d sectors made unreadable by hosts", r.Volumes, r.Extents, r.Chunks, r.ChunksTotal, r.Blocks, r.Poisoned)},
		[]string{fmt.Sprintf("%d problems", r.Problems)})
	if err := a.print(cmd, v, t); err != nil {
		return err
	}
	if r.Problems > 0 {
		return fmt.Errorf("%s is damaged: %d problems; copy it before anything else, and restore from a backup what the lines above name", file, r.Problems)
	}
	return nil
}

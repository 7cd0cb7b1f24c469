package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) disk() *cobra.Command {
	list := &cobra.Command{
		Use:   "list",
		Short: "List the disks that hold extents",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(a, cmd, a.clients().node.ListDisks, &blockdv1.ListDisksRequest{})
			if err != nil {
				return err
			}
			return printList(a, cmd, views(r.GetDisks(), viewDisk), diskColumns)
		},
	}
	return group("disk", "Show disks, drain and remove them", list, a.diskDrain(), a.diskResume(), a.diskRemove())
}

func (a *app) session() *cobra.Command {
	return group("session", "Show the sessions of hosts", &cobra.Command{
		Use:   "list",
		Short: "List the sessions",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(a, cmd, a.clients().node.ListSessions, &blockdv1.ListSessionsRequest{})
			if err != nil {
				return err
			}
			return printList(a, cmd, views(r.GetSessions(), viewSession), sessionColumns)
		},
	})
}

// errUnhealthy makes `doctor` end with a code that scripts see.
var errUnhealthy = fmt.Errorf("%w; see the lines that say error", errBroken)

func (a *app) doctor() *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at every part of blockd and say how it is and what to do; fails when something is broken",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(a, cmd, a.clients().node.Diagnose, &blockdv1.DiagnoseRequest{})
			if err != nil {
				return err
			}
			list := views(r.GetFindings(), viewFinding)
			for _, f := range list {
				if f.Level == "error" {
					err = errUnhealthy
				}
			}
			return errors.Join(printList(a, cmd, list, findingColumns), err)
		},
	}
	c.AddCommand(a.doctorNetwork())
	return c
}

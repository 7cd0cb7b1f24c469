package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

// drainPurposes are what --for takes.
var drainPurposes = []string{"upgrade", "remove"}

func (a *app) nodeDrain() *cobra.Command {
	var purpose string
	var wait bool
	c := &cobra.Command{
		Use:   "drain NODE [--for upgrade | --for remove] [--wait]",
		Short: "Have other nodes serve what a node does, so that it can be stopped",
		Long: `Have other nodes serve what a node does, as a job. The node gets nothing new until ` + "`node resume`" + `.
For an upgrade its data stays: the job is done when no volume of several copies is served by it. To remove it,
other disks get its extents too, of some volumes at a time; when none can, and for volumes of one copy, the job waits, and says for what.
Volumes of one copy can't be reached while their node is stopped, drained or not.`,
		Example:           "  blockctl node drain n2 --wait      # then stop it, upgrade it, start it\n  blockctl node resume n2",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(drainPurposes, purpose) {
				return usageError{fmt.Errorf("--for %q: want upgrade or remove", purpose)}
			}
			r, err := ask(a, cmd, a.clients().membership.DrainNode, &blockdv1.DrainNodeRequest{Node: args[0], Purpose: purpose})
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			return a.begun(cmd, r.GetJob(), wait)
		},
	}
	c.Flags().StringVar(&purpose, "for", "upgrade", "upgrade, which leaves its data, or remove")
	waits(c, &wait)
	complete(c, "for", drainPurposes...)
	return a.dryRun(c, &blockdv1.DrainNodeRequest{})
}

func (a *app) nodeResume() *cobra.Command {
	c := &cobra.Command{
		Use:               "resume NODE",
		Short:             "Have a node take part again that was drained; ends the job that drains it",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(a, cmd, a.clients().membership.ResumeNode, &blockdv1.ResumeNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			return a.printMember(cmd, r)
		},
	}
	return a.dryRun(c, &blockdv1.ResumeNodeRequest{})
}

// drainedDiskView is what `disk drain` prints as JSON.
type drainedDiskView struct {
	Disk   string `json:"disk"`
	Result string `json:"result"` // drained, draining, or rebuilding for one that has failed
	Left   string `json:"left,omitempty"`
	Job    string `json:"job,omitempty"`
}

// diskResults are how a disk is that a job empties, by the kind of the job.
var diskResults = map[string]string{"": "draining", "drain-disk": "draining", "rebuild": "rebuilding"}

func (a *app) diskDrain() *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use:   "drain DISK [--wait]",
		Short: "Have a disk get nothing new, so that it can be removed when it is empty",
		Long: `Have a disk get nothing new, so that it can be removed when it is empty. Other disks get its extents, as a job, of some
volumes at a time, and then it is drained; volumes of one copy stay until they are deleted. ` + "`disk resume`" + ` ends it. While its job
is paused, or when that was canceled, the extents stay where they are until the job is resumed or the disk drained again.
A disk that has failed gets nothing new anyway, and its job rebuild begins by itself: this begins it again after it was canceled.
DISK is its name or its UUID.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.diskNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(a, cmd, a.clients().membership.DrainDisk, &blockdv1.DrainDiskRequest{Disk: args[0]})
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			j := viewJob(r.GetJob())
			switch {
			case r.GetLeft() == "":
				return a.print(cmd, drainedDiskView{Disk: args[0], Result: "drained"}, rows{{"disk " + args[0] + " is drained; remove it: blockctl disk remove " + args[0]}})
			case wait && j.ID == "":
				return fmt.Errorf("disk %s is draining, and no job says when it is empty: a node of an older release is in the cluster; see `blockctl disk list`", args[0])
			case wait:
				return a.begun(cmd, r.GetJob(), true)
			}
			lines := rows{{"disk " + args[0] + " gets nothing new; " + r.GetLeft()}}
			if j.ID != "" {
				lines = append(lines, []string{fmt.Sprintf("job %s is %s; blockctl job show %s says how far it is", j.ID, j.State, j.ID)})
			}
			return a.print(cmd, drainedDiskView{args[0], diskResults[j.Kind], r.GetLeft(), j.ID}, lines)
		},
	}
	waits(c, &wait)
	return a.dryRun(c, &blockdv1.DrainDiskRequest{})
}

func (a *app) diskResume() *cobra.Command {
	c := &cobra.Command{
		Use:               "resume DISK",
		Short:             "Have a disk get new data again that was drained, or had failed",
		Long:              "Have a disk get new data again that was drained, or that had failed and was mended. Its node says so again after a minute\nif it takes no writes.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.diskNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(a, cmd, a.clients().membership.ResumeDisk, &blockdv1.ResumeDiskRequest{Disk: args[0]})
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			return a.done(cmd, "disk", args[0], "active")
		},
	}
	return a.dryRun(c, &blockdv1.ResumeDiskRequest{})
}

func (a *app) diskRemove() *cobra.Command {
	var yes, force bool
	c := &cobra.Command{
		Use:   "remove DISK --yes",
		Short: "Forget a disk that has nothing any more",
		Long: `Forget a disk that has nothing any more. It is refused, forced or not, while volumes have data on it. Take
it out of its node's --disks too: a node registers anew what it starts with.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.diskNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.confirm(cmd, yes, fmt.Sprintf("disk %q is forgotten until its node starts with it again", args[0])); err != nil {
				return err
			}
			r, err := ask(a, cmd, a.clients().membership.RemoveDisk, &blockdv1.RemoveDiskRequest{Disk: args[0], Force: force})
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			return a.done(cmd, "disk", args[0], "removed")
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, forget it")
	c.Flags().BoolVar(&force, "force", false, "although it is not drained")
	return a.dryRun(c, &blockdv1.RemoveDiskRequest{})
}

package cli

import (
	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) clusterRebalance() *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use:   "rebalance [--wait]",
		Short: "Move extents from disks that have more than their share to those that have less",
		Long: `Move extents of volumes of several copies from disks that have more than their share to those that have less, as a job: after
a node or a disk was added, nothing that exists moves there by itself. A disk's share is by its size, as far as failure
domains allow, and no more is moved than it takes. Hosts go on meanwhile; ` + "`job pause`" + ` and ` + "`job cancel`" + ` stop it, and what has begun is finished.
With --dry-run nothing moves, and what would is printed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(a, cmd, a.clients().job.Rebalance, &blockdv1.RebalanceRequest{})
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			return a.begun(cmd, r.GetJob(), wait)
		},
	}
	waits(c, &wait)
	return a.dryRun(c, &blockdv1.RebalanceRequest{})
}

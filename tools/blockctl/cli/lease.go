package cli

import (
	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) lease() *cobra.Command {
	return group("lease", "Show which node serves which volume of several copies, and move that", a.leaseList(), a.leaseMove())
}

func (a *app) leaseList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the volumes of several copies with the nodes that serve them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(a, cmd, a.clients().lease.ListLeases, &blockdv1.ListLeasesRequest{})
			if err != nil {
				return err
			}
			return printList(a, cmd, views(r.GetLeases(), viewLease), leaseColumns)
		},
	}
}

func (a *app) leaseMove() *cobra.Command {
	c := &cobra.Command{
		Use:   "move VOLUME NODE",
		Short: "Have another node serve a volume, while hosts use it",
		Long: `Have another node serve a volume, while hosts use it: the one that does ends what is in flight and
hands over, and hosts wait for that moment. The move goes on after the command has ended; ` + "`lease list`" + `
shows when it is done. Naming the node that has it ends a move that has not happened yet.`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeArgs(a.volumeNames, a.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(a, cmd, a.clients().lease.MoveLease, &blockdv1.MoveLeaseRequest{Volume: args[0], To: args[1]})
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			v := viewLease(r.GetLease())
			return printTable(a, cmd, v, []leaseView{v}, leaseColumns)
		},
	}
	return a.dryRun(c, &blockdv1.MoveLeaseRequest{})
}

func (a *app) explain() *cobra.Command {
	return &cobra.Command{
		Use:               "explain VOLUME",
		Short:             "Say in words how a volume is, why, what happens next, and what to do",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(a, cmd, a.clients().explain.ExplainVolume, &blockdv1.ExplainVolumeRequest{Name: args[0]})
			if err != nil {
				return err
			}
			return a.printExplained(cmd, viewExplained(r))
		},
	}
}

func (a *app) volumeLatency() *cobra.Command {
	return &cobra.Command{
		Use:   "latency NAME",
		Short: "Show where the time of a volume's requests goes",
		Long: `Show where the time of a volume's requests goes. Of a volume of several copies the node tells that owns it,
since it owns it; of its stages some are parts of others:
  read               a host's read, from when the owner takes it up to its end
  read-queue         before that: from the arrival on the owner's node; limits and other requests hold it there
  read-lock          of read: until no earlier change of the same blocks stands in the way
  read-copy          of read: from asking the copy on that disk to its answer; the owner's own copy if it can
  read-store         of read-copy: for how long the node of that copy had it; the rest is the network and the queues to it
  read-hedged        reads that a second copy was asked for, since the first took 10 ms; from the lock to the end
  write              a host's change, likewise
  write-queue        likewise
  write-lock         likewise, and until enough copies are there
  write-copy         of write: from sending it to the copy on that disk to its answer; they go on at the same time
  write-other        of write: from the lock until the slowest copy on other nodes has it
  write-other-store  of write-other: for how long the node of that copy had it; the rest is the network and the queues to it
  lock               read-lock and write-lock together
  copy               of write: from the lock until the slowest copy of all has it
  read-forwarded     on a node that sends its hosts' reads to the owner: from the arrival there to the owner's answer
  write-forwarded    changes, likewise
Nodes of older releases tell no time of their stores, and nothing of what they forward. Of a volume of one copy its node tells
what each operation took in storage, since blockd started: the times are of one in eight, and the bounds of ranges
that double.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(a, cmd, a.clients().volume.GetVolumeLatency, &blockdv1.GetVolumeLatencyRequest{Name: args[0]})
			if err != nil {
				return err
			}
			v := viewLatency(r)
			return printTable(a, cmd, v, v.Stages, stageColumns)
		},
	}
}

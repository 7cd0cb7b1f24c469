package cli

import (
	"errors"

	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) pool() *cobra.Command {
	return group("pool", "Create and show pools, where volumes keep data", a.poolCreate(), a.poolList(), a.poolShow())
}

// printPool prints the pool of an answer, if there was one.
func (a *app) printPool(cmd *cobra.Command, r interface{ GetPool() *blockdv1.Pool }, err error) error {
	if err != nil {
		return err
	}
	if tried, ok := r.(interface{ GetChanges() []string }); ok && a.dry {
		return a.printChanges(cmd, tried.GetChanges())
	}
	p := viewPool(r.GetPool())
	return printTable(a, cmd, p, []poolView{p}, poolColumns)
}

func (a *app) poolCreate() *cobra.Command {
	var replicas, minInSync uint32
	var media, domain, ec string
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a pool",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if replicas == 0 {
				return usageError{errors.New("--replicas 0: there must be at least one copy")}
			}
			r, err := ask(a, cmd, a.clients().pool.CreatePool, &blockdv1.CreatePoolRequest{Name: args[0], Replicas: replicas, MinInSync: minInSync, Media: media, Domain: domain, Ec: ec})
			return a.printPool(cmd, r, err)
		},
	}
	c.Flags().Uint32Var(&replicas, "replicas", 1, "copies of the data; a single node can keep 1")
	c.Flags().Uint32Var(&minInSync, "min-in-sync", 0, "copies that a write must be on before it is acknowledged, or it waits; the default is most of them, and both of two. With 1, the loss of a disk may lose what was acknowledged")
	c.Flags().StringVar(&media, "media", "", "disk, or ram (gone when blockd stops); the default is what blockd was started with")
	c.Flags().StringVar(&domain, "domain", "host", "what no two copies may share: host, rack or zone, which are labels of nodes")
	c.Flags().StringVar(&ec, "ec", "", "erasure coding, such as 4+2; no node can serve that in this version, and it is refused")
	hide(c, "ec")
	c.MarkFlagsMutuallyExclusive("ec", "replicas")
	complete(c, "media", "disk", "ram")
	complete(c, "domain", "host", "rack", "zone")
	return a.dryRun(c, &blockdv1.CreatePoolRequest{})
}

func (a *app) poolList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the pools",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(a, cmd, a.clients().pool.ListPools, &blockdv1.ListPoolsRequest{})
			if err != nil {
				return err
			}
			return printList(a, cmd, views(r.GetPools(), viewPool), poolColumns)
		},
	}
}

func (a *app) poolShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show one pool",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.poolNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(a, cmd, a.clients().pool.GetPool, &blockdv1.GetPoolRequest{Name: args[0]})
			return a.printPool(cmd, r, err)
		},
	}
}

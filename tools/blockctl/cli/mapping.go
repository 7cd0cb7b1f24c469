package cli

import (
	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) mapCommand() *cobra.Command {
	var lun uint32
	c := &cobra.Command{
		Use:               "map VOLUME HOST",
		Short:             "Show a volume to a host, or to `any`",
		Example:           "  blockctl map db1 web1\n  blockctl map scratch any --lun 7",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeArgs(a.volumeNames, a.hostNamesAndAny),
		RunE: func(cmd *cobra.Command, args []string) error {
			m := &blockdv1.MapVolumeRequest{Volume: args[0], Host: args[1]}
			if cmd.Flags().Changed("lun") {
				m.Lun = &lun
			}
			r, err := ask(a, cmd, a.clients().mapping.MapVolume, m)
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			v := viewMapping(r.GetMapping())
			return printTable(a, cmd, v, []mappingView{v}, mappingColumns)
		},
	}
	c.Flags().Uint32Var(&lun, "lun", 0, "LUN to show it at, 0 to 16383 (the volume's own)")
	return a.dryRun(c, &blockdv1.MapVolumeRequest{})
}

func (a *app) unmapCommand() *cobra.Command {
	return a.dryRun(&cobra.Command{
		Use:               "unmap VOLUME HOST",
		Short:             "Take a volume from a host, or from `any`",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeArgs(a.volumeNames, a.hostNamesAndAny),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(a, cmd, a.clients().mapping.UnmapVolume, &blockdv1.UnmapVolumeRequest{Volume: args[0], Host: args[1]})
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			return a.done(cmd, "volume", args[0], "unmapped from "+args[1])
		},
	}, &blockdv1.UnmapVolumeRequest{})
}

func (a *app) mapping() *cobra.Command {
	return group("mapping", "Show which host sees which volume", &cobra.Command{
		Use:   "list",
		Short: "List the mappings",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(a, cmd, a.clients().mapping.ListMappings, &blockdv1.ListMappingsRequest{})
			if err != nil {
				return err
			}
			return printList(a, cmd, views(r.GetMappings(), viewMapping), mappingColumns)
		},
	})
}

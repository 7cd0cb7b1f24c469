package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) volume() *cobra.Command {
	return group("volume", "Create, show, resize, protect and delete volumes",
		a.volumeCreate(), a.volumeList(), a.volumeShow(), a.volumeResize(),
		a.volumeProtect(), a.volumeUnprotect(), a.volumeDelete())
}

// context bounds a command by --timeout.
func (a *app) context(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), a.timeout)
}

func (a *app) volumeCreate() *cobra.Command {
	var size, pool string
	var blockSize int32
	c := &cobra.Command{
		Use:     "create NAME --size SIZE",
		Short:   "Create a volume; map it to a host to use it",
		Example: "  blockctl volume create db1 --size 10GiB\n  blockctl volume create big --size 1.5TiB --block-size 4096",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			bytes, err := units.ParseBytes(size)
			if err != nil {
				return err
			}
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().volume.CreateVolume(ctx, request(&blockdv1.CreateVolumeRequest{RequestId: requestID(),
				Name: args[0], SizeBytes: bytes, BlockSize: blockSize, Pool: pool}))
			if err != nil {
				return err
			}
			v := viewVolume(r.Msg.GetVolume())
			return a.print(cmd, v, volumeDetail(v))
		},
	}
	c.Flags().StringVar(&size, "size", "", "size, such as 10GiB, 1.5TiB or plain bytes; a multiple of 4096")
	c.Flags().Int32Var(&blockSize, "block-size", 512, "logical block size, 512 or 4096 bytes")
	c.Flags().StringVar(&pool, "pool", "", "pool to create it in (the one called default)")
	required(c, "size")
	complete(c, "block-size", "512", "4096")
	return c
}

// required marks a flag of c that must be given.
func required(c *cobra.Command, flag string) {
	if err := c.MarkFlagRequired(flag); err != nil {
		panic(err) // no such flag: a mistake in this package
	}
}

// complete gives the shell the values of a flag of c.
func complete(c *cobra.Command, flag string, values ...string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag: a mistake in this package
	}
}

func (a *app) volumeList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the volumes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().volume.ListVolumes(ctx, request(&blockdv1.ListVolumesRequest{}))
			if err != nil {
				return err
			}
			list := make([]volumeView, 0, len(r.Msg.GetVolumes()))
			for _, v := range r.Msg.GetVolumes() {
				list = append(list, viewVolume(v))
			}
			return a.print(cmd, list, volumeTable(list))
		},
	}
}

func (a *app) volumeShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show one volume",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().volume.GetVolume(ctx, request(&blockdv1.GetVolumeRequest{Name: args[0]}))
			if err != nil {
				return err
			}
			v := viewVolume(r.Msg.GetVolume())
			return a.print(cmd, v, volumeDetail(v))
		},
	}
}

func (a *app) volumeResize() *cobra.Command {
	var size string
	c := &cobra.Command{
		Use:               "resize NAME --size SIZE",
		Short:             "Grow a volume while hosts use it",
		Long:              "Grow a volume while hosts use it. Hosts see the new size after a rescan (iscsiadm -m node -R).\nVolumes do not shrink: a host would lose the end of its file system.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			bytes, err := units.ParseBytes(size)
			if err != nil {
				return err
			}
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().volume.ResizeVolume(ctx, request(&blockdv1.ResizeVolumeRequest{RequestId: requestID(),
				Name: args[0], SizeBytes: bytes}))
			if err != nil {
				return err
			}
			v := viewVolume(r.Msg.GetVolume())
			return a.print(cmd, v, volumeDetail(v))
		},
	}
	c.Flags().StringVar(&size, "size", "", "new size, such as 20GiB; a multiple of 4096")
	required(c, "size")
	return c
}

func (a *app) volumeProtect() *cobra.Command {
	var untilPowerCycle, permanent, yes bool
	c := &cobra.Command{
		Use:               "protect NAME [--until-power-cycle | --permanent --yes]",
		Short:             "Refuse writes to a volume, from every host",
		Long:              "Refuse writes to a volume, from every host and over every protocol. Connected hosts are told.\n`volume unprotect` ends it, unless it lasts until blockd starts again, or for ever.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			state := "write-protect"
			switch {
			case permanent && !yes:
				return fmt.Errorf("volume %q could never be written again; say --yes if you mean it", args[0])
			case permanent:
				state = "permanent"
			case untilPowerCycle:
				state = "until-power-cycle"
			}
			return a.protect(cmd, args[0], state)
		},
	}
	c.Flags().BoolVar(&untilPowerCycle, "until-power-cycle", false, "until blockd starts again, and nothing ends it before")
	c.Flags().BoolVar(&permanent, "permanent", false, "for ever")
	c.Flags().BoolVar(&yes, "yes", false, "yes, for ever")
	c.MarkFlagsMutuallyExclusive("until-power-cycle", "permanent")
	return c
}

func (a *app) volumeUnprotect() *cobra.Command {
	return &cobra.Command{
		Use:               "unprotect NAME",
		Short:             "Allow writes to a volume again",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.protect(cmd, args[0], "none") },
	}
}

func (a *app) protect(cmd *cobra.Command, name, state string) error {
	ctx, cancel := a.context(cmd)
	defer cancel()
	r, err := a.clients().volume.ProtectVolume(ctx, request(&blockdv1.ProtectVolumeRequest{RequestId: requestID(),
		Name: name, Protection: state}))
	if err != nil {
		return err
	}
	v := viewVolume(r.Msg.GetVolume())
	return a.print(cmd, v, volumeDetail(v))
}

func (a *app) volumeDelete() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:               "delete NAME --yes",
		Short:             "Delete a volume with its data and mappings",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return fmt.Errorf("deleting volume %q destroys its data; say --yes if you mean it", args[0])
			}
			ctx, cancel := a.context(cmd)
			defer cancel()
			_, err := a.clients().volume.DeleteVolume(ctx, request(&blockdv1.DeleteVolumeRequest{RequestId: requestID(), Name: args[0]}))
			if err != nil {
				return err
			}
			return a.done(cmd, "volume", args[0], "deleted")
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, destroy the data")
	return c
}

// done prints that something without an answer of its own was done.
func (a *app) done(cmd *cobra.Command, what, name, did string) error {
	return a.print(cmd, map[string]string{what: name, "result": did}, rows{{what + " " + name + " " + did}})
}

// completeVolumes offers the names of volumes to the shell.
func (a *app) completeVolumes(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := a.context(cmd)
	defer cancel()
	r, err := a.clients().volume.ListVolumes(ctx, request(&blockdv1.ListVolumesRequest{}))
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, v := range r.Msg.GetVolumes() {
		names = append(names, v.GetName())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) pool() *cobra.Command {
	return group("pool", "Create and show pools, where volumes keep data", a.poolCreate(), a.poolList(), a.poolShow())
}

func (a *app) poolCreate() *cobra.Command {
	var replicas uint32
	var media string
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a pool",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if replicas == 0 {
				return errors.New("--replicas 0: there must be at least one copy")
			}
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().pool.CreatePool(ctx, request(&blockdv1.CreatePoolRequest{RequestId: requestID(),
				Name: args[0], Replicas: replicas, Media: media}))
			if err != nil {
				return err
			}
			p := viewPool(r.Msg.GetPool())
			return a.print(cmd, p, poolTable([]poolView{p}))
		},
	}
	c.Flags().Uint32Var(&replicas, "replicas", 1, "copies of the data; a single node can keep 1")
	c.Flags().StringVar(&media, "media", "", "disk, or ram (gone when blockd stops); the default is what blockd was started with")
	complete(c, "media", "disk", "ram")
	return c
}

func (a *app) poolList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the pools",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().pool.ListPools(ctx, request(&blockdv1.ListPoolsRequest{}))
			if err != nil {
				return err
			}
			list := make([]poolView, 0, len(r.Msg.GetPools()))
			for _, p := range r.Msg.GetPools() {
				list = append(list, viewPool(p))
			}
			return a.print(cmd, list, poolTable(list))
		},
	}
}

func (a *app) poolShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show one pool",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().pool.GetPool(ctx, request(&blockdv1.GetPoolRequest{Name: args[0]}))
			if err != nil {
				return err
			}
			p := viewPool(r.Msg.GetPool())
			return a.print(cmd, p, poolTable([]poolView{p}))
		},
	}
}

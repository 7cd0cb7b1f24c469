package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) volume() *cobra.Command {
	return group("volume", "Create, show, resize, limit, protect and delete volumes",
		a.volumeCreate(), a.volumeList(), a.volumeShow(), a.volumeLatency(), a.volumeResize(), a.volumeSet(),
		a.volumeProtect(), a.volumeUnprotect(), a.volumeTrust(), a.volumeDelete())
}

// printVolume prints the volume of an answer, if there was one.
func (a *app) printVolume(cmd *cobra.Command, r interface{ GetVolume() *blockdv1.Volume }, err error) error {
	if err != nil {
		return err
	}
	if tried, ok := r.(interface{ GetChanges() []string }); ok && a.dry {
		return a.printChanges(cmd, tried.GetChanges())
	}
	v := viewVolume(r.GetVolume())
	return a.print(cmd, v, volumeDetail(v))
}

func (a *app) volumeCreate() *cobra.Command {
	var size, pool string
	var blockSize int32
	var limit limitFlags
	c := &cobra.Command{
		Use:     "create NAME --size SIZE",
		Short:   "Create a volume; map it to a host to use it",
		Example: "  blockctl volume create db1 --size 10GiB\n  blockctl volume create big --size 1.5TiB --block-size 4096",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			bytes, err := units.ParseBytes(size)
			if err != nil {
				return usageError{err}
			}
			limits, err := limit.limits()
			if err != nil {
				return err
			}
			r, err := ask(a, cmd, a.clients().volume.CreateVolume, &blockdv1.CreateVolumeRequest{
				Name: args[0], SizeBytes: bytes, BlockSize: blockSize, Pool: pool, Limits: limits})
			return a.printVolume(cmd, r, err)
		},
	}
	c.Flags().StringVar(&size, "size", "", "size, such as 10GiB, 1.5TiB or plain bytes; a multiple of 4096")
	c.Flags().Int32Var(&blockSize, "block-size", 512, "logical block size, 512 or 4096 bytes")
	c.Flags().StringVar(&pool, "pool", "", "pool to create it in (the one called default)")
	limit.add(c)
	required(c, "size")
	complete(c, "block-size", "512", "4096")
	a.completeFlag(c, "pool", a.poolNames)
	return a.dryRun(c, &blockdv1.CreateVolumeRequest{})
}

func (a *app) volumeList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the volumes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(a, cmd, a.clients().volume.ListVolumes, &blockdv1.ListVolumesRequest{})
			if err != nil {
				return err
			}
			return printList(a, cmd, views(r.GetVolumes(), viewVolume), volumeColumns)
		},
	}
}

func (a *app) volumeShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show one volume",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(a, cmd, a.clients().volume.GetVolume, &blockdv1.GetVolumeRequest{Name: args[0]})
			return a.printVolume(cmd, r, err)
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
		ValidArgsFunction: a.completeArgs(a.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			bytes, err := units.ParseBytes(size)
			if err != nil {
				return usageError{err}
			}
			r, err := ask(a, cmd, a.clients().volume.ResizeVolume, &blockdv1.ResizeVolumeRequest{Name: args[0], SizeBytes: bytes})
			return a.printVolume(cmd, r, err)
		},
	}
	c.Flags().StringVar(&size, "size", "", "new size, such as 20GiB; a multiple of 4096")
	required(c, "size")
	return a.dryRun(c, &blockdv1.ResizeVolumeRequest{})
}

func (a *app) volumeProtect() *cobra.Command {
	var untilPowerCycle, permanent, yes bool
	c := &cobra.Command{
		Use:               "protect NAME [--until-power-cycle | --permanent --yes]",
		Short:             "Refuse writes to a volume, from every host",
		Long:              "Refuse writes to a volume, from every host and over every protocol. Connected hosts are told.\n`volume unprotect` ends it, unless it lasts until blockd starts again, or for ever.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			state := "write-protect"
			switch {
			case permanent:
				state = "permanent"
				if err := a.confirm(cmd, yes, fmt.Sprintf("volume %q could never be written again", args[0])); err != nil {
					return err
				}
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
	return a.dryRun(c, &blockdv1.ProtectVolumeRequest{})
}

func (a *app) volumeUnprotect() *cobra.Command {
	return a.dryRun(&cobra.Command{
		Use:               "unprotect NAME",
		Short:             "Allow writes to a volume again",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.volumeNames),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.protect(cmd, args[0], "none") },
	}, &blockdv1.ProtectVolumeRequest{})
}

func (a *app) protect(cmd *cobra.Command, name, state string) error {
	r, err := ask(a, cmd, a.clients().volume.ProtectVolume, &blockdv1.ProtectVolumeRequest{Name: name, Protection: state})
	return a.printVolume(cmd, r, err)
}

func (a *app) volumeTrust() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "trust NAME --yes",
		Short: "Take the copies of a volume that are there at their word, when those that know better are gone for good",
		Long: `Take the copies of a volume that are there at their word, when those that know better are gone for good.
A disk whose machine went down may have lost what it had said to be durable, so it is held against other
copies before hosts see it. Where those are away the volume waits; ` + "`explain`" + ` says for which disks. Bring them
back if you can: what only they have is lost by this, and nobody can tell what it was.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.confirm(cmd, yes, fmt.Sprintf("what only disks that are away have of volume %q is lost", args[0])); err != nil {
				return err
			}
			r, err := ask(a, cmd, a.clients().volume.TrustVolume, &blockdv1.TrustVolumeRequest{Name: args[0]})
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			return a.done(cmd, "volume", args[0], "trusted")
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, lose what only they have")
	return a.dryRun(c, &blockdv1.TrustVolumeRequest{})
}

func (a *app) volumeDelete() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:               "delete NAME --yes",
		Short:             "Delete a volume with its data and mappings",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.confirm(cmd, yes, fmt.Sprintf("deleting volume %q destroys its data", args[0])); err != nil {
				return err
			}
			r, err := ask(a, cmd, a.clients().volume.DeleteVolume, &blockdv1.DeleteVolumeRequest{Name: args[0]})
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			return a.done(cmd, "volume", args[0], "deleted")
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, destroy the data")
	return a.dryRun(c, &blockdv1.DeleteVolumeRequest{})
}

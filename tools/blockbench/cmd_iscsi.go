package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"blockd.dev/internal/adaptive"
	"blockd.dev/tools/blockbench/iscsihost"
	"blockd.dev/tools/blockbench/reconnect"
)

// iscsiFlags are how to log in, beside the URL.
type iscsiFlags struct {
	cfg iscsihost.Config
}

func (i *iscsiFlags) flags(f *pflag.FlagSet) {
	i.cfg.Poll.Mode = adaptive.Interrupt
	f.StringVar(&i.cfg.Initiator, "initiator", iscsihost.DefaultInitiator, "iSCSI name to log in with")
	f.BoolVar(&i.cfg.HeaderDigest, "header-digest", false, "CRC32C over headers")
	f.Var(pollFlag{&i.cfg.Poll}, "poll", "how to wait for a socket: interrupt, or adaptive, which polls it for a short while\nfirst; on one machine that takes the core on which the target would be woken")
	f.BoolVar(&i.cfg.DataDigest, "data-digest", false, "CRC32C over data")
	f.BoolVar(&i.cfg.InitialR2T, "initial-r2t", false, "send no unsolicited data")
	f.BoolVar(&i.cfg.NoImmediateData, "no-immediate-data", false, "send no data with commands")
	f.DurationVar(&i.cfg.Timeout, "timeout", 30*time.Second, "for a login, and for a target that has fallen silent")
}

// host reads the URL.
func (i *iscsiFlags) host(url string) (host, error) {
	cfg, err := iscsihost.ParseURL(url)
	if err != nil {
		return host{}, err
	}
	c := i.cfg
	c.Address, c.Target, c.LUN, c.CHAP, c.Mutual = cfg.Address, cfg.Target, cfg.LUN, cfg.CHAP, cfg.Mutual
	return host{
		dial: func(ctx context.Context) (reconnect.Session, error) {
			s, err := iscsihost.Dial(ctx, c)
			if err != nil {
				return nil, err
			}
			return s, nil
		},
		writeCache: func(s reconnect.Session) bool { return s.(*iscsihost.Session).WriteCache() },
	}, nil
}

const iscsiURL = "iscsi://[USER%SECRET@]HOST[:PORT]/TARGET/LUN"

// newISCSICommand loads an iSCSI target.
func newISCSICommand() *cobra.Command {
	var d driver
	var i iscsiFlags
	cmd := &cobra.Command{
		Use:   "iscsi " + iscsiURL,
		Short: "Load an iSCSI target, measure it, and with --verify check its data",
		Long: "Loads one logical unit with an initiator of its own and prints IOPS and latencies.\n" +
			"Writes destroy what is on the volume.\n\n" +
			"With --verify every block that is written says what it is, the journal keeps what was\n" +
			"submitted and acknowledged, every read is checked, and at the end everything is read\n" +
			"back. When the target is killed meanwhile, `blockbench verify --journal FILE URL` finds\n" +
			"out afterwards whether it has kept what it acknowledged; with --reconnect the load goes\n" +
			"on by itself. Data that is wrong ends the program with status 3.",
		Example: "  blockbench iscsi iscsi://127.0.0.1/iqn.2026-01.dev.blockd:x/0 --depth 32\n" +
			"  blockbench iscsi iscsi://127.0.0.1/iqn.2026-01.dev.blockd:x/0 --verify --journal j --read-percent 50 \\\n" +
			"      --bs 4K:80,64K:20 --connections 4 --reconnect 60s --runtime 5m",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := i.host(args[0])
			if err != nil {
				return err
			}
			return d.run(cmd, h)
		},
	}
	d.flags(cmd.Flags())
	i.flags(cmd.Flags())
	return cmd
}

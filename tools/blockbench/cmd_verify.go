package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blockd.dev/tools/blockbench/iscsihost"
)

// newVerifyCommand checks a volume against a journal.
func newVerifyCommand() *cobra.Command {
	var d driver
	i := iscsiFlags{}
	n := nvmeFlags{}
	cmd := &cobra.Command{
		Use:   "verify --journal FILE URL",
		Short: "Check after a crash that a target has kept what it acknowledged",
		Long: "Reads every block that the journal of an earlier load covers, and says of each that\n" +
			"holds what it must not: a lost write, stale data, a torn or misplaced block, flipped\n" +
			"bits. Where a write was in flight both versions are allowed; which one is there is\n" +
			"kept in the journal, and must be there from then on.\n" +
			"Ends with status 3 when data is wrong.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if d.output != "table" && d.output != "json" {
				return fmt.Errorf("output format %q: give table or json", d.output)
			}
			h, err := hostOf(args[0], &i, &n)
			if err != nil {
				return err
			}
			return d.check(cmd, h)
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.journal, "journal", "", "the journal")
	f.StringVarP(&d.output, "output", "o", "table", "table or json")
	f.DurationVar(&d.reconnect, "reconnect", 0, "go on when the target is lost and back within this time")
	f.StringVar(&i.cfg.Initiator, "initiator", iscsihost.DefaultInitiator, "iSCSI name to log in with")
	f.StringVar(&n.cfg.HostNQN, "hostnqn", defaultHostNQN, "NQN to connect with")
	f.StringVar(&n.keyFile, "dhchap-key-file", "", "file with the NVMe host's key")
	_ = cmd.MarkFlagRequired("journal") // it exists
	return cmd
}

// hostOf picks the protocol of a URL.
func hostOf(url string, i *iscsiFlags, n *nvmeFlags) (host, error) {
	switch {
	case strings.HasPrefix(url, "iscsi://"):
		return i.host(url)
	case strings.HasPrefix(url, "nvme://"):
		return n.host(url, 0)
	}
	return host{}, fmt.Errorf("the URL %q: want %s or %s", url, iscsiURL, nvmeURL)
}

// check reads everything back.
func (d *driver) check(cmd *cobra.Command, h host) error {
	d.connections = 1
	began := time.Now()
	conns, _, err := d.connect(cmd.Context(), h, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer func() { _ = conns[0].Close() }()
	c, err := d.openExisting(conns[0])
	if err != nil {
		return err
	}
	v, err := c.close(c.all(cmd.Context(), conns[0]))
	if d.output == "json" {
		if err2 := printJSON(cmd.OutOrStdout(), v); err2 != nil {
			return err2
		}
	} else {
		v.print(cmd.OutOrStdout())
		fmt.Fprintf(cmd.ErrOrStderr(), "took %v\n", time.Since(began).Round(time.Millisecond))
	}
	return err
}

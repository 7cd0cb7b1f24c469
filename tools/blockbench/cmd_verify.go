package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// newVerifyCommand checks a volume against a journal.
func newVerifyCommand() *cobra.Command {
	var d driver
	var i iscsiFlags
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
			h, err := hostOf(args[0], &i)
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
	i.flags(f)
	_ = cmd.MarkFlagRequired("journal") // it exists
	return cmd
}

// hostOf picks the protocol of a URL.
func hostOf(url string, i *iscsiFlags) (host, error) {
	if strings.HasPrefix(url, "iscsi://") {
		return i.host(url)
	}
	return host{}, fmt.Errorf("%q: want %s", url, iscsiURL)
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

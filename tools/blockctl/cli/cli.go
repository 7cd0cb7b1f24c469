// Package cli is the command tree of blockctl. It talks to the control API of
// blockd and prints what it gets as table, JSON or YAML; only `store check`,
// `doctor network` and `cert show` work without a blockd.
//
// # Parts
//
//	link      the nodes that may answer, and the way to them: socket, TLS or plain TCP
//	bundle    a certificate with its key, the authority and addresses, in one file
//	ask       one call: the time limit, request_id, --dry-run
//	columns   a table that fits the terminal
//	errors    which words and which exit code an error gets
//
// # Goroutines
//
// None outlives the command that starts it: top asks the nodes in one each.
package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// defaultAPI is where blockd listens unless told otherwise.
const defaultAPI = "127.0.0.1:7480"

// app is what every command needs.
type app struct {
	api     []string // addresses, in the order in which they are tried; empty: the bundle's, or defaultAPI
	cert    string   // file of the bundle; empty: looked for in its usual place
	format  string   // one of formats
	timeout time.Duration
	dry     bool // --dry-run
	way     *link
}

// formats are what -o takes.
var formats = []string{"table", "wide", "json", "yaml"}

const long = `Administer blockd: its volumes, hosts, nodes and the cluster that they are.

Where it asks: --api, or BLOCKD_API, is HOST:PORT of a node's control port, or
unix:PATH for the socket in a data directory (DATA/control.sock), which is for
whoever may open it. With several, separated by commas, the next is asked when one
does not answer; any node takes any call. The default is the addresses in
the certificate's file, and without one 127.0.0.1:7480.

Who asks: the nodes of a cluster want a certificate. It is in one file with its
key, the authority and addresses, as ` + "`cluster init` and `cert issue`" + ` write it:
--cert, or BLOCKCTL_CERT, or the only *.pem in ~/.config/blockd.

What it prints: a table that fits the terminal, or with -o wide all of it; JSON and
YAML have names that are only ever added to.

Exit codes:
  0  done
  1  refused or failed; the message says why
  2  the command line is wrong
  3  no node answered, or none could: asking again later may do
  4  the certificate is missing, wrong or not enough
  5  done, and what was looked at is broken (doctor, cluster status, store check)`

// New returns the command tree.
func New() *cobra.Command {
	a := &app{}
	root := group("blockctl", "Administer blockd", a.volume(), a.pool(), a.host(), a.mapCommand(), a.unmapCommand(), a.mapping(),
		a.cluster(), a.node(), a.disk(), a.lease(), a.job(), a.explain(), a.session(), a.certificate(), a.events(), a.audit(), a.top(), a.doctor(), a.store())
	root.Long = long
	root.SilenceUsage, root.SilenceErrors = true, true
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(formats, a.format) {
			return fmt.Errorf("output format %q: want one of %s", a.format, strings.Join(formats, ", "))
		}
		return nil
	}
	var api []string
	if env := os.Getenv("BLOCKD_API"); env != "" {
		api = strings.Split(env, ",")
	}
	f := root.PersistentFlags()
	f.StringSliceVar(&a.api, "api", api, "addresses to ask, HOST:PORT or unix:PATH, separated by commas; BLOCKD_API sets it too")
	f.StringVar(&a.cert, "cert", os.Getenv("BLOCKCTL_CERT"), "file with your certificate; BLOCKCTL_CERT sets it too")
	f.StringVarP(&a.format, "output", "o", "table", strings.Join(formats, ", "))
	f.DurationVar(&a.timeout, "timeout", time.Minute, "how long to wait for an answer")
	complete(root, "output", formats...)
	markRuns(root)
	return root
}

// isGroup is the annotation of commands that only hold others.
const isGroup = "group"

// group is a command that only holds others.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, Annotations: map[string]string{isGroup: ""},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(sub...)
	return c
}

// required marks a flag of c that must be given.
func required(c *cobra.Command, flag string) {
	if err := c.MarkFlagRequired(flag); err != nil {
		panic(err) // no such flag: a mistake in this package
	}
}

// hide keeps a flag of c out of its help: one that is only refused, with a reason.
func hide(c *cobra.Command, flag string) {
	if err := c.Flags().MarkHidden(flag); err != nil {
		panic(err) // no such flag: a mistake in this package
	}
}

// complete gives the shell the values of a flag of c.
func complete(c *cobra.Command, flag string, values ...string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag: a mistake in this package
	}
}

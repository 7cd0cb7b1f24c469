// Package cli is the command tree of blockctl. It talks to the control API of
// blockd and prints what it gets as table, JSON or YAML; only `store check`
// works on a file, without blockd.
package cli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

// defaultAPI is where blockd listens unless told otherwise.
const defaultAPI = "127.0.0.1:7480"

// app is what every command needs.
type app struct {
	api     string
	format  string
	timeout time.Duration
}

// New returns the command tree.
func New() *cobra.Command {
	a := &app{}
	root := &cobra.Command{
		Use:           "blockctl",
		Short:         "Administer blockd",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch a.format {
			case "table", "json", "yaml":
				return nil
			}
			return fmt.Errorf("output format %q: want table, json or yaml", a.format)
		},
	}
	api := os.Getenv("BLOCKD_API")
	if api == "" {
		api = defaultAPI
	}
	root.PersistentFlags().StringVar(&a.api, "api", api, "address of blockd's control API; BLOCKD_API sets it too")
	root.PersistentFlags().StringVarP(&a.format, "output", "o", "table", "table, json or yaml")
	root.PersistentFlags().DurationVar(&a.timeout, "timeout", time.Minute, "how long to wait for an answer")
	if err := root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is registered two lines above
	}
	root.AddCommand(a.volume(), a.pool(), a.host(), a.mapCommand(), a.unmapCommand(), a.mapping(), a.node(), a.disk(), a.session(),
		a.events(), a.audit(), a.doctor(), a.store())
	return root
}

// group is a command that only holds others.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(sub...)
	return c
}

// clients are the services at one address.
type clients struct {
	volume  blockdv1connect.VolumeServiceClient
	pool    blockdv1connect.PoolServiceClient
	host    blockdv1connect.HostServiceClient
	mapping blockdv1connect.MappingServiceClient
	node    blockdv1connect.NodeServiceClient
	event   blockdv1connect.EventServiceClient
}

func (a *app) clients() clients {
	base := "http://" + a.api
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil // the control API is on this machine or this network
	transport.DisableKeepAlives = true
	h := &http.Client{Transport: transport}
	return clients{
		volume:  blockdv1connect.NewVolumeServiceClient(h, base),
		pool:    blockdv1connect.NewPoolServiceClient(h, base),
		host:    blockdv1connect.NewHostServiceClient(h, base),
		mapping: blockdv1connect.NewMappingServiceClient(h, base),
		node:    blockdv1connect.NewNodeServiceClient(h, base),
		event:   blockdv1connect.NewEventServiceClient(h, base),
	}
}

// request wraps a message with who asks.
func request[T any](msg *T) *connect.Request[T] {
	r := connect.NewRequest(msg)
	r.Header().Set("Blockd-Actor", actor())
	return r
}

// actor is the user and machine, for the audit log.
func actor() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// requestID makes repeating a request harmless.
func requestID() string { return rand.Text() }

// Explain puts an error into words for the user.
func Explain(err error) string {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return err.Error()
	}
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial":
		return fmt.Sprintf("no blockd answers at %s: %v; start it (blockd), or say where it is with --api or BLOCKD_API", op.Addr, op.Err)
	case ce.Code() == connect.CodeDeadlineExceeded:
		return ce.Message() + "; blockd did not answer in time, see its log; --timeout waits longer"
	case ce.Code() == connect.CodeUnimplemented:
		return ce.Message() + "; is there a blockd of this version at that address?"
	}
	return ce.Message()
}

package cli

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"blockd.dev/afxdp"
)

// doctorNetwork examines this machine itself, before blockd runs on it, or with
// other privileges than blockd's.
func (a *app) doctorNetwork() *cobra.Command {
	var interfaces, peers []string
	c := &cobra.Command{
		Use:   "network",
		Short: "Look at this machine's network as the wire between nodes would use it; needs no blockd, and no root for most of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			scope := afxdp.Scope{Interfaces: interfaces}
			for _, p := range peers {
				addr, err := netip.ParseAddr(p)
				if err != nil {
					return fmt.Errorf("--peer %q: want an IP address, such as 10.0.0.2", p)
				}
				scope.Peers = append(scope.Peers, addr)
			}
			var err error
			var list []findingView
			for _, f := range afxdp.Examine(scope) {
				list = append(list, findingView{string(f.Level), f.Subject, f.Message, f.Advice})
				if f.Level == afxdp.Error {
					err = errUnhealthy
				}
			}
			return errors.Join(printList(a, cmd, list, findingColumns), err)
		},
	}
	c.Flags().StringSliceVar(&interfaces, "interface", nil, "interface that is to carry the wire; more than once for more; default: all that could")
	c.Flags().StringSliceVar(&peers, "peer", nil, "address of another node, to see whether it can be reached; more than once for more")
	return c
}

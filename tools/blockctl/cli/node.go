package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) node() *cobra.Command {
	return group("node", "Let nodes in, show them, label, drain and remove them",
		a.nodeList(), a.nodeShow(), a.nodeToken(), a.nodeJoin(), a.nodeLabel(), a.nodeDrain(), a.nodeResume(), a.nodeRemove())
}

// nodes returns all nodes: what each says of itself, where it can be asked, and
// what the cluster knows of it.
func (a *app) nodes(cmd *cobra.Command) ([]nodeView, error) {
	r, err := ask(a, cmd, a.clients().node.ListNodes, &blockdv1.ListNodesRequest{})
	if err != nil {
		return nil, err
	}
	said := views(r.GetNodes(), viewNode)
	c, err := ask(a, cmd, a.clients().cluster.GetCluster, &blockdv1.GetClusterRequest{})
	if err != nil && connect.CodeOf(err) != connect.CodeUnimplemented {
		return nil, err
	}
	return joinNodes(said, viewCluster(c.GetCluster())), nil
}

// joinNodes adds to what nodes say what the cluster knows, and the nodes that
// only the cluster knows.
func joinNodes(said []nodeView, c clusterView) []nodeView {
	out := said
	for _, m := range c.Members {
		i := 0
		for i < len(out) && out[i].Name != m.Name {
			i++
		}
		if i == len(out) {
			out = append(out, nodeView{Name: m.Name, ClusterID: c.ID, State: m.State, Roles: m.Roles, Version: m.Version, API: m.API, ISCSIPortals: []string{}})
		}
		if out[i].Version == "" {
			out[i].Version = m.Version
		}
		out[i].Member = &m
	}
	return out
}

func (a *app) nodeList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := a.nodes(cmd)
			if err != nil {
				return err
			}
			return printList(a, cmd, list, nodeColumns)
		},
	}
}

func (a *app) nodeShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show one node",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := a.nodes(cmd)
			if err != nil {
				return err
			}
			for _, v := range list {
				if v.Name == args[0] {
					return a.print(cmd, v, nodeDetail(v))
				}
			}
			return fmt.Errorf("there is no node %q; `blockctl node list` shows those that there are", args[0])
		},
	}
}

// tokenView is what `node token` prints as JSON.
type tokenView struct {
	Token   string `json:"token"`
	Expires string `json:"expires"`
}

func (a *app) nodeToken() *cobra.Command {
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "token",
		Short: "Make a token that lets one node into the cluster, once",
		Long: `Make a token that lets one node into the cluster, once, until it expires. Treat it as a
password. It also tells the new node whom to trust, so take it there on a way that nobody can change.`,
		Example: "  blockctl node token --ttl 10m\n  blockctl --api unix:/var/lib/blockd/control.sock node join TOKEN    # on the new machine",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ttl < time.Second || ttl > 7*24*time.Hour {
				return usageError{fmt.Errorf("--ttl %v: want 1s to 168h", ttl)}
			}
			r, err := ask(a, cmd, a.clients().cluster.CreateJoinToken, &blockdv1.CreateJoinTokenRequest{TtlSeconds: uint32(ttl / time.Second)})
			if err != nil {
				return err
			}
			if a.format == "table" || a.format == "wide" {
				fmt.Fprintf(cmd.ErrOrStderr(), "valid until %s, for one node; on its machine: blockctl --api unix:DATA/control.sock node join TOKEN\n", r.GetExpires())
			}
			return a.print(cmd, tokenView{r.GetToken(), r.GetExpires()}, rows{{r.GetToken()}})
		},
	}
	c.Flags().DurationVar(&ttl, "ttl", time.Hour, "for how long it is good, at most 168h")
	return c
}

func (a *app) nodeJoin() *cobra.Command {
	var addresses []string
	c := &cobra.Command{
		Use:   "join TOKEN",
		Short: "Make this node one of the cluster that the token is of; - reads it from standard input",
		Long: `Make the node that is asked one of the cluster that the token is of. It is asked for on the node's own
machine, by its socket, and must have no volumes or hosts of its own. When it returns, the
node is a member; it becomes a voter when the cluster wants one more.`,
		Example: "  blockctl --api unix:/var/lib/blockd/control.sock node join - < token",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token := args[0]
			if token == "-" {
				b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), secretFileMax))
				if err != nil {
					return err
				}
				token = strings.TrimSpace(string(b))
			}
			r, err := ask(a, cmd, a.clients().cluster.JoinCluster, &blockdv1.JoinClusterRequest{Token: token, Addresses: addresses})
			if err != nil {
				return err
			}
			v := viewCluster(r.GetCluster())
			return a.print(cmd, v, rows{{fmt.Sprintf("this node is of cluster %s now, which has %d nodes", v.Name, len(v.Members))}})
		},
	}
	c.Flags().StringSliceVar(&addresses, "address", nil, "control port of a member, instead of those in the token; more than once for more")
	return c
}

func (a *app) nodeLabel() *cobra.Command {
	c := &cobra.Command{
		Use:               "label NODE KEY=VALUE... KEY-...",
		Short:             "Set labels of a node, such as rack=r1, and with KEY- remove them; others stay",
		Example:           "  blockctl node label n1 rack=r1 zone=east\n  blockctl node label n1 zone-",
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeArgs(a.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			labels, err := parseLabels(args[1:])
			if err != nil {
				return usageError{err}
			}
			r, err := ask(a, cmd, a.clients().membership.SetNodeLabels, &blockdv1.SetNodeLabelsRequest{Node: args[0], Labels: labels})
			if err != nil {
				return err
			}
			return a.printMember(cmd, r)
		},
	}
	return a.dryRun(c, &blockdv1.SetNodeLabelsRequest{})
}

// printMember prints a node as it is after a change, or what a dry run would change.
func (a *app) printMember(cmd *cobra.Command, r interface {
	GetMember() *blockdv1.Member
	GetChanges() []string
}) error {
	if a.dry {
		return a.printChanges(cmd, r.GetChanges())
	}
	v := viewMember(r.GetMember())
	return a.print(cmd, v, memberDetail(v))
}

// parseLabels reads KEY=VALUE and KEY-; what is removed has the value "".
func parseLabels(args []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, arg := range args {
		key, value, set := strings.Cut(arg, "=")
		if !set {
			var remove bool
			if key, remove = strings.CutSuffix(arg, "-"); !remove {
				return nil, fmt.Errorf("label %q: want KEY=VALUE, or KEY- to remove it", arg)
			}
		}
		if key == "" || set && value == "" {
			return nil, fmt.Errorf("label %q: want KEY=VALUE, or KEY- to remove it", arg)
		}
		if _, twice := labels[key]; twice {
			return nil, fmt.Errorf("label %q is given twice", key)
		}
		labels[key] = value
	}
	return labels, nil
}

func (a *app) nodeRemove() *cobra.Command {
	var yes, force bool
	c := &cobra.Command{
		Use:   "remove NODE --yes",
		Short: "Forget a node for good; its certificate is worth nothing from then on",
		Long: `Forget a node for good; its certificate is worth nothing from then on. A node that has
disks, or may be serving, is removed only with --force; its disks are forgotten then, and it comes back only
with its data directory wiped and by a new token. While volumes have their data on it, it is refused:
delete them first. Only when the node is down does --force give them up too, and what is on them is lost:
for a node that is lost for good. --dry-run lists them.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("removing node %q ends its certificate, and it comes back only by a new token", args[0])
			if force {
				what = fmt.Sprintf("removing node %q by force forgets its disks, and if it is down its volumes, which --dry-run lists; it comes back only wiped and by a new token", args[0])
			}
			if err := a.confirm(cmd, yes, what); err != nil {
				return err
			}
			r, err := ask(a, cmd, a.clients().membership.RemoveNode, &blockdv1.RemoveNodeRequest{Node: args[0], Force: force})
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			for _, change := range r.GetChanges() {
				fmt.Fprintln(cmd.ErrOrStderr(), change)
			}
			return a.done(cmd, "node", args[0], "removed")
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, forget it")
	c.Flags().BoolVar(&force, "force", false, "although it has disks, or may be serving; if it is down, also with the volumes it has")
	return a.dryRun(c, &blockdv1.RemoveNodeRequest{})
}

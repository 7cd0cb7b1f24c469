package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) cluster() *cobra.Command {
	return group("cluster", "Make a cluster, see how it is, back it up", a.clusterInit(), a.clusterStatus(), a.clusterTransfer(), a.clusterRebalance(), a.clusterBackup())
}

// clusterNameDefault is what a cluster is called that is given no name.
const clusterNameDefault = "blockd"

func (a *app) clusterInit() *cobra.Command {
	var name, out string
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a cluster of this one node, and the first administrator's certificate",
		Long: `Make a cluster of this one node: its certificate authority, its keys, and the first
administrator's certificate, which is written to a file together with its key and kept
nowhere else. It is asked for on the node's own machine, by its socket. The node must
listen where others can reach it (blockd --api 10.0.0.1:7480); what volumes it has, stay.`,
		Example: "  blockctl --api unix:/var/lib/blockd/control.sock cluster init --name prod\n  blockctl node token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				dir, err := bundleDir()
				if err != nil {
					return fmt.Errorf("where to keep the certificate: %w; say it with --out", err)
				}
				out = filepath.Join(dir, name+".pem")
			}
			if _, err := a.link(); err != nil { // before the new file is among those that are looked for
				return err
			}
			f, err := reserve(out)
			if err != nil {
				return err
			}
			r, err := ask(a, cmd, a.clients().cluster.InitCluster, &blockdv1.InitClusterRequest{Name: name})
			if err != nil {
				giveUp(f)
				return err
			}
			v := initView{viewCluster(r.GetCluster()), out}
			text := marshalBundle(v.Name, addressesOf(v.Members), r.GetAdminCertificatePem(), r.GetAdminKeyPem(), r.GetCaPem())
			if err := keep(f, text); err != nil {
				return fmt.Errorf("the cluster was made, and its administrator's certificate could not be written: %w; get another from the node's socket: blockctl cert issue admin --role admin", err)
			}
			return a.print(cmd, v, rows{
				{fmt.Sprintf("cluster %s was made, of node %s", v.Name, v.Leader)},
				{"your certificate, as administrator, is in " + out},
				{"let more nodes in with: blockctl node token"}})
		},
	}
	c.Flags().StringVar(&name, "name", clusterNameDefault, "the cluster's name")
	c.Flags().StringVar(&out, "out", "", "file for the certificate (~/.config/blockd/NAME.pem)")
	return c
}

// initView is what `cluster init` prints as JSON.
type initView struct {
	clusterView `yaml:",inline"`
	Certificate string `json:"certificate"` // the file that it is in
}

// addressesOf returns where the members answer.
func addressesOf(members []memberView) []string {
	var out []string
	for _, m := range members {
		if m.API != "" {
			out = append(out, m.API)
		}
	}
	return out
}

func (a *app) getCluster(cmd *cobra.Command, linearizable bool) (clusterView, error) {
	r, err := ask(a, cmd, a.clients().cluster.GetCluster, &blockdv1.GetClusterRequest{Linearizable: linearizable})
	if err != nil {
		return clusterView{}, err
	}
	return viewCluster(r.GetCluster()), nil
}

func (a *app) clusterStatus() *cobra.Command {
	var linearizable bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the cluster is; fails when it is stuck",
		Long: `Show how the cluster is: healthy, degraded (it works, and has lost redundancy) or stuck
(it refuses changes). It is what the asked node knows; only the leader knows how all the others are.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := a.getCluster(cmd, linearizable)
			if err != nil {
				return err
			}
			if err := a.printCluster(cmd, v); err != nil {
				return err
			}
			if v.State == "stuck" {
				return fmt.Errorf("%w: the cluster is stuck: %s", errBroken, v.Reason)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&linearizable, "linearizable", false, "wait until the asked node knows all that the leader has acknowledged")
	return c
}

func (a *app) printCluster(cmd *cobra.Command, v clusterView) error {
	if a.format == "json" || a.format == "yaml" {
		return a.print(cmd, v, nil)
	}
	leader := cmp.Or(v.Leader, "nobody")
	t := rows{{"cluster", cmp.Or(v.Name, "none; make one with `blockctl cluster init`")}, {"id", v.ID}, {"state", v.State}}
	if v.Reason != "" {
		t = append(t, []string{"reason", v.Reason})
	}
	t = append(t, []string{"leader", fmt.Sprintf("%s, in term %d", leader, v.Term)}, []string{"revision", fmt.Sprint(v.Revision)},
		[]string{"format", fmt.Sprintf("%d in use, %d known to this node", v.FormatVersion, v.FormatVersionSupported)})
	if err := a.print(cmd, v, t); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout())
	return printTable(a, cmd, v, v.Members, memberColumns)
}

func (a *app) clusterTransfer() *cobra.Command {
	return &cobra.Command{
		Use:               "transfer [NODE]",
		Short:             "Hand the lead of the cluster to another node, by default the one that has most of the log",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeArgs(a.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			m := &blockdv1.TransferLeadershipRequest{}
			if len(args) > 0 {
				m.To = args[0]
			}
			r, err := ask(a, cmd, a.clients().cluster.TransferLeadership, m)
			if err != nil {
				return err
			}
			leader := cmp.Or(r.GetLeader(), "being elected")
			return a.print(cmd, map[string]string{"leader": r.GetLeader()}, rows{{"the lead was handed over; the leader is " + leader}})
		},
	}
}

func (a *app) clusterBackup() *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the cluster's whole state to a file; - is standard output",
		Long: `Write the cluster's whole state to a file: volumes, hosts, nodes and all that the control
API shows, but no data of volumes. Secrets in it are sealed by the cluster key, which is not in it: keep
DATA/pki/cluster.keys of a node too, apart from it. The file appears when all of it is there.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" {
				_, err := a.backup(cmd, cmd.OutOrStdout())
				return err
			}
			if _, err := os.Lstat(args[0]); err == nil {
				return fmt.Errorf("%s exists already; name another file", args[0])
			}
			f, err := os.OpenFile(args[0]+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
			if err != nil {
				return err
			}
			n, err := a.backup(cmd, f)
			if err == nil {
				err = f.Sync()
			}
			if err = errors.Join(err, f.Close()); err == nil {
				err = os.Rename(f.Name(), args[0])
			}
			if err != nil {
				os.Remove(f.Name())
				return err
			}
			return a.print(cmd, backupView{args[0], n}, rows{{fmt.Sprintf("%s has the state of the cluster, %d bytes", args[0], n)}})
		},
	}
}

// backupView is what `cluster backup` prints as JSON.
type backupView struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

// backup writes the state to w, and returns how many bytes that are.
func (a *app) backup(cmd *cobra.Command, w io.Writer) (n int64, err error) {
	if _, err := a.link(); err != nil {
		return 0, err
	}
	ctx, cancel := a.context(cmd)
	defer cancel()
	stream, err := a.clients().cluster.BackupMeta(ctx, request(&blockdv1.BackupMetaRequest{}))
	if err != nil {
		return 0, err
	}
	defer func() { _ = stream.Close() }() // what was wrong, Receive has found
	for stream.Receive() {
		m, err := w.Write(stream.Msg().GetChunk())
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	if err := stream.Err(); err != nil {
		return n, err
	}
	if n == 0 {
		return 0, errors.New("the node has sent no backup")
	}
	return n, nil
}

func labelsText(labels map[string]string) string {
	var out []string
	for _, k := range sortedKeys(labels) {
		out = append(out, k+"="+labels[k])
	}
	return strings.Join(out, ",")
}

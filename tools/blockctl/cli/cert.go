package cli

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/pki"
)

func (a *app) certificate() *cobra.Command {
	return group("cert", "Issue certificates for people and programs; show yours, and refresh its file", a.certIssue(), a.certShow(), a.certRefresh())
}

// issueView is what `cert issue` prints as JSON.
type issueView struct {
	Name        string `json:"name"`
	Role        string `json:"role"`
	Expires     string `json:"expires"`
	Certificate string `json:"certificate"` // the file that it is in
}

func (a *app) certIssue() *cobra.Command {
	var role, out string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "issue NAME --role ROLE",
		Short: "Issue a certificate for a person or a program",
		Long: `Issue a certificate for a person or a program, by whose name the audit log knows them. The key
is made here and does not leave this machine; the file has both, the authority and the
nodes' addresses. A viewer looks; an operator also changes volumes, hosts and mappings; an admin does everything.`,
		Example: "  blockctl cert issue grafana --role viewer --out grafana.pem",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			parsed, err := pki.ParseRole(role)
			if err != nil {
				return usageError{fmt.Errorf("--role %q: want viewer, operator or admin", role)}
			}
			if ttl < time.Minute || ttl > pki.ClientLifeMax {
				return usageError{fmt.Errorf("--ttl %v: want 1m to %v", ttl, pki.ClientLifeMax)}
			}
			cluster, err := a.getCluster(cmd, false)
			if err != nil {
				return err
			}
			if out == "" {
				out = strings.ReplaceAll(args[0], "/", "_") + ".pem"
			}
			f, err := reserve(out)
			if err != nil {
				return err
			}
			text, expires, err := a.issue(cmd, cluster, pki.Identity{Cluster: cluster.ID, Role: parsed, Name: args[0]}, ttl)
			if err != nil {
				giveUp(f)
				return err
			}
			if err := keep(f, text); err != nil {
				return err
			}
			return a.print(cmd, issueView{args[0], role, stamp(expires), out},
				rows{{fmt.Sprintf("%s has the certificate of %s, %s of cluster %s until %s", out, args[0], role, cluster.Name, stamp(expires))}})
		},
	}
	c.Flags().StringVar(&role, "role", "", "viewer, operator or admin")
	c.Flags().DurationVar(&ttl, "ttl", 90*24*time.Hour, "for how long it is good")
	c.Flags().StringVar(&out, "out", "", "file for it (NAME.pem)")
	required(c, "role")
	complete(c, "role", "viewer", "operator", "admin")
	return c
}

// issue makes a key for id, has it signed, and returns the text of the bundle.
func (a *app) issue(cmd *cobra.Command, cluster clusterView, id pki.Identity, ttl time.Duration) (text []byte, expires time.Time, err error) {
	key, csr, err := pki.NewRequest(id)
	if err != nil {
		return nil, expires, err
	}
	r, err := ask(a, cmd, a.clients().cluster.IssueClientCertificate, &blockdv1.IssueClientCertificateRequest{
		Name: id.Name, Role: id.Role.String(), TtlSeconds: uint32(ttl / time.Second), CsrDer: csr})
	if err != nil {
		return nil, expires, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, expires, err
	}
	text = marshalBundle(cluster.Name, addressesOf(cluster.Members), r.GetCertificatePem(), pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), r.GetCaPem())
	b, err := parseBundle("the node's answer", text)
	if err != nil {
		return nil, expires, err
	}
	if b.creds.Self() != id {
		return nil, expires, fmt.Errorf("the node has sent the certificate of %s, and %s was asked for", b.creds.Self(), id)
	}
	return text, b.cert.NotAfter, nil
}

// certView is what `cert show` prints as JSON.
type certView struct {
	File      string   `json:"file"`
	Cluster   string   `json:"cluster"`
	ClusterID string   `json:"cluster_id"`
	Name      string   `json:"name"`
	Role      string   `json:"role"`
	Expires   string   `json:"expires"`
	Serial    string   `json:"serial"`
	Addresses []string `json:"addresses"`
}

func (a *app) certShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show [FILE]",
		Short: "Show whose the certificate is that blockctl uses, or that of a file; asks no node",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			named := a.cert
			if len(args) > 0 {
				named = args[0]
			}
			b, err := findBundle(named)
			switch {
			case err != nil:
				return err
			case b == nil:
				return fmt.Errorf("%w: there is none; `blockctl cluster init` and `blockctl cert issue` write one, --cert names it", errCertificate)
			}
			id := b.creds.Self()
			v := certView{b.file, b.name, id.Cluster, id.Name, id.Role.String(), stamp(b.cert.NotAfter), pki.Serial(b.cert), b.addresses}
			return errors.Join(a.print(cmd, v, rows{{"file", v.File}, {"cluster", v.Cluster}, {"cluster id", v.ClusterID}, {"name", v.Name}, {"role", v.Role},
				{"expires", v.Expires}, {"serial", v.Serial}, {"addresses", strings.Join(v.Addresses, ",")}}), b.check(time.Now()))
		},
	}
}

func (a *app) certRefresh() *cobra.Command {
	return &cobra.Command{
		Use:   "refresh",
		Short: "Write the addresses that the cluster's nodes have now into your certificate's file",
		Long: `Write the addresses that the cluster's nodes have now into your certificate's file, so that
blockctl finds those that were added since, when others are gone. The certificate stays as it is.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := findBundle(a.cert)
			if err == nil && b == nil {
				err = fmt.Errorf("%w: there is none; `blockctl cluster init` and `blockctl cert issue` write one, --cert names it", errCertificate)
			}
			if err != nil {
				return err
			}
			cluster, err := a.getCluster(cmd, false)
			if err != nil {
				return err
			}
			if id := b.creds.Self().Cluster; cluster.ID != id {
				return fmt.Errorf("%s is of cluster %s, and the node that was asked is of %s; --api names others", b.file, id, cluster.ID)
			}
			b.name, b.addresses = cluster.Name, addressesOf(cluster.Members)
			if err := b.save(); err != nil {
				return err
			}
			return a.print(cmd, map[string]any{"file": b.file, "addresses": b.addresses}, rows{{b.file + " names " + strings.Join(b.addresses, ", ")}})
		},
	}
}

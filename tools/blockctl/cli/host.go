package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) host() *cobra.Command {
	return group("host", "Keep the hosts that may attach volumes, and their secrets",
		a.hostAdd(), a.hostList(), a.hostShow(), a.hostSet(), a.hostDelete())
}

// chapFlags are the flags for one direction of CHAP.
type chapFlags struct{ prefix, user, file string }

func (f *chapFlags) add(c *cobra.Command, prefix, what string) {
	f.prefix = prefix
	c.Flags().StringVar(&f.user, prefix+"-user", "", what)
	c.Flags().StringVar(&f.file, prefix+"-secret-file", "", "file with the secret, 12 to 255 bytes in one line; - reads standard input")
}

// read returns nil when neither flag was given.
func (f *chapFlags) read(cmd *cobra.Command) (*blockdv1.Chap, error) {
	if f.user == "" && f.file == "" {
		return nil, nil
	}
	if f.user == "" || f.file == "" {
		return nil, fmt.Errorf("--%s-user and --%s-secret-file go together: give both", f.prefix, f.prefix)
	}
	var b []byte
	var err error
	if f.file == "-" {
		b, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), secretFileMax))
	} else {
		b, err = readSecretFile(f.file)
	}
	if err != nil {
		return nil, fmt.Errorf("--%s-secret-file: %w", f.prefix, err)
	}
	secret := strings.TrimRight(string(b), "\r\n")
	if strings.ContainsAny(secret, "\r\n") {
		return nil, fmt.Errorf("--%s-secret-file: the file has more than one line", f.prefix)
	}
	return &blockdv1.Chap{User: f.user, Secret: secret}, nil
}

// dhchapFlags are the flags for DH-HMAC-CHAP.
type dhchapFlags struct{ key, controller string }

func (f *dhchapFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.key, "dhchap-key-file", "", "file with the host's DH-HMAC-CHAP key for NVMe, DHHC-1:..., as nvme gen-dhchap-key prints it")
	c.Flags().StringVar(&f.controller, "dhchap-ctrl-key-file", "", "file with the key that the controller proves itself with to this host")
}

// read returns nil when neither flag was given.
func (f *dhchapFlags) read() (*blockdv1.DhChap, error) {
	if f.key == "" && f.controller == "" {
		return nil, nil
	}
	if f.key == "" {
		return nil, fmt.Errorf("--dhchap-ctrl-key-file needs --dhchap-key-file: the host is authenticated first")
	}
	out := &blockdv1.DhChap{}
	for _, k := range []struct {
		flag, file string
		to         *string
	}{{"dhchap-key-file", f.key, &out.Key}, {"dhchap-ctrl-key-file", f.controller, &out.ControllerKey}} {
		if k.file == "" {
			continue
		}
		b, err := readSecretFile(k.file)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", k.flag, err)
		}
		*k.to = strings.TrimSpace(string(b))
	}
	return out, nil
}

// secretFileMax bounds what is read of a secret file, in bytes.
const secretFileMax = 4096

func readSecretFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, secretFileMax))
}

// printHost prints the host of an answer, if there was one.
func (a *app) printHost(cmd *cobra.Command, r interface{ GetHost() *blockdv1.Host }, err error) error {
	if err != nil {
		return err
	}
	if tried, ok := r.(interface{ GetChanges() []string }); ok && a.dry {
		return a.printChanges(cmd, tried.GetChanges())
	}
	h := viewHost(r.GetHost())
	return a.print(cmd, h, hostDetail(h))
}

// hostFlags are what is known of a host.
type hostFlags struct {
	iqn, nqn     string
	chap, mutual chapFlags
	dhchap       dhchapFlags
}

func (f *hostFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.iqn, "iqn", "", "its iSCSI initiator name (Linux: /etc/iscsi/initiatorname.iscsi)")
	c.Flags().StringVar(&f.nqn, "nqn", "", "its NVMe host NQN (Linux: /etc/nvme/hostnqn)")
	f.chap.add(c, "chap", "user that the host authenticates as")
	f.mutual.add(c, "mutual-chap", "user that the target authenticates as to the host")
	f.dhchap.add(c)
}

// secrets reads the files; what was not given is nil.
func (f *hostFlags) secrets(cmd *cobra.Command) (chap, mutual *blockdv1.Chap, dhchap *blockdv1.DhChap, err error) {
	if chap, err = f.chap.read(cmd); err != nil {
		return nil, nil, nil, err
	}
	if mutual, err = f.mutual.read(cmd); err != nil {
		return nil, nil, nil, err
	}
	dhchap, err = f.dhchap.read()
	return chap, mutual, dhchap, err
}

func (a *app) hostAdd() *cobra.Command {
	var f hostFlags
	c := &cobra.Command{
		Use:     "add NAME [--iqn IQN] [--nqn NQN]",
		Short:   "Add a host",
		Example: "  blockctl host add web1 --iqn iqn.1993-08.org.debian:01:4b2f\n  blockctl host add web2 --iqn iqn.1993-08.org.debian:01:77aa --chap-user web2 --chap-secret-file web2.secret",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			chap, mutual, dhchap, err := f.secrets(cmd)
			if err != nil {
				return err
			}
			r, err := ask(a, cmd, a.clients().host.CreateHost, &blockdv1.CreateHostRequest{
				Name: args[0], Iqn: f.iqn, Nqn: f.nqn, Chap: chap, MutualChap: mutual, Dhchap: dhchap})
			return a.printHost(cmd, r, err)
		},
	}
	f.add(c)
	return a.dryRun(c, &blockdv1.CreateHostRequest{})
}

func (a *app) hostList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the hosts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(a, cmd, a.clients().host.ListHosts, &blockdv1.ListHostsRequest{})
			if err != nil {
				return err
			}
			return printList(a, cmd, views(r.GetHosts(), viewHost), hostColumns)
		},
	}
}

func (a *app) hostShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show one host",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.hostNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(a, cmd, a.clients().host.GetHost, &blockdv1.GetHostRequest{Name: args[0]})
			return a.printHost(cmd, r, err)
		},
	}
}

func (a *app) hostSet() *cobra.Command {
	var f hostFlags
	var noChap, noMutual, noDHChap bool
	c := &cobra.Command{
		Use:               "set NAME",
		Short:             "Change what is given of a host, and leave the rest",
		Long:              "Change what is given of a host, and leave the rest. New secrets count from the next login.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.hostNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			m := &blockdv1.UpdateHostRequest{Name: args[0]}
			if cmd.Flags().Changed("iqn") {
				m.Iqn = &f.iqn
			}
			if cmd.Flags().Changed("nqn") {
				m.Nqn = &f.nqn
			}
			var err error
			if m.Chap, m.MutualChap, m.Dhchap, err = f.secrets(cmd); err != nil {
				return err
			}
			if noDHChap {
				m.Dhchap = &blockdv1.DhChap{}
			}
			if noMutual || noChap {
				m.MutualChap = &blockdv1.Chap{}
			}
			if noChap {
				m.Chap = &blockdv1.Chap{}
			}
			r, err := ask(a, cmd, a.clients().host.UpdateHost, m)
			return a.printHost(cmd, r, err)
		},
	}
	f.add(c)
	c.Flags().BoolVar(&noDHChap, "no-dhchap", false, "let the host in over NVMe without DH-HMAC-CHAP, in both directions")
	c.MarkFlagsMutuallyExclusive("no-dhchap", "dhchap-key-file")
	c.Flags().BoolVar(&noChap, "no-chap", false, "let the host in without CHAP, in both directions")
	c.Flags().BoolVar(&noMutual, "no-mutual-chap", false, "do not authenticate the target to the host")
	c.MarkFlagsMutuallyExclusive("no-chap", "chap-user")
	c.MarkFlagsMutuallyExclusive("no-chap", "mutual-chap-user")
	c.MarkFlagsMutuallyExclusive("no-mutual-chap", "mutual-chap-user")
	c.MarkFlagsOneRequired("iqn", "nqn", "chap-user", "mutual-chap-user", "no-chap", "no-mutual-chap", "dhchap-key-file", "no-dhchap")
	return a.dryRun(c, &blockdv1.UpdateHostRequest{})
}

func (a *app) hostDelete() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:               "delete NAME --yes",
		Short:             "Delete a host with its mappings; its sessions end",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.hostNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.confirm(cmd, yes, fmt.Sprintf("deleting host %q takes its volumes from it at once", args[0])); err != nil {
				return err
			}
			r, err := ask(a, cmd, a.clients().host.DeleteHost, &blockdv1.DeleteHostRequest{Name: args[0]})
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, r.GetChanges())
			}
			return a.done(cmd, "host", args[0], "deleted")
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, take its volumes from it")
	return a.dryRun(c, &blockdv1.DeleteHostRequest{})
}

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

func (a *app) hostAdd() *cobra.Command {
	var iqn, nqn string
	var chap, mutual chapFlags
	var dhchap dhchapFlags
	c := &cobra.Command{
		Use:     "add NAME [--iqn IQN] [--nqn NQN]",
		Short:   "Add a host",
		Example: "  blockctl host add web1 --iqn iqn.1993-08.org.debian:01:4b2f\n  blockctl host add web2 --iqn iqn.1993-08.org.debian:01:77aa --chap-user web2 --chap-secret-file web2.secret",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m := &blockdv1.CreateHostRequest{RequestId: requestID(), Name: args[0], Iqn: iqn, Nqn: nqn}
			var err error
			if m.Chap, err = chap.read(cmd); err != nil {
				return err
			}
			if m.MutualChap, err = mutual.read(cmd); err != nil {
				return err
			}
			if m.Dhchap, err = dhchap.read(); err != nil {
				return err
			}
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().host.CreateHost(ctx, request(m))
			if err != nil {
				return err
			}
			h := viewHost(r.Msg.GetHost())
			return a.print(cmd, h, hostDetail(h))
		},
	}
	c.Flags().StringVar(&iqn, "iqn", "", "its iSCSI initiator name (Linux: /etc/iscsi/initiatorname.iscsi)")
	c.Flags().StringVar(&nqn, "nqn", "", "its NVMe host NQN (Linux: /etc/nvme/hostnqn)")
	chap.add(c, "chap", "user that the host authenticates as")
	mutual.add(c, "mutual-chap", "user that the target authenticates as to the host")
	dhchap.add(c)
	return c
}

func (a *app) hostList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the hosts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().host.ListHosts(ctx, request(&blockdv1.ListHostsRequest{}))
			if err != nil {
				return err
			}
			list := make([]hostView, 0, len(r.Msg.GetHosts()))
			for _, h := range r.Msg.GetHosts() {
				list = append(list, viewHost(h))
			}
			return a.print(cmd, list, hostTable(list))
		},
	}
}

func (a *app) hostShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show one host",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeHosts,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().host.GetHost(ctx, request(&blockdv1.GetHostRequest{Name: args[0]}))
			if err != nil {
				return err
			}
			h := viewHost(r.Msg.GetHost())
			return a.print(cmd, h, hostDetail(h))
		},
	}
}

func (a *app) hostSet() *cobra.Command {
	var iqn, nqn string
	var chap, mutual chapFlags
	var dhchap dhchapFlags
	var noChap, noMutual, noDHChap bool
	c := &cobra.Command{
		Use:               "set NAME",
		Short:             "Change what is given of a host, and leave the rest",
		Long:              "Change what is given of a host, and leave the rest. New secrets count from the next login.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeHosts,
		RunE: func(cmd *cobra.Command, args []string) error {
			m := &blockdv1.UpdateHostRequest{RequestId: requestID(), Name: args[0]}
			if cmd.Flags().Changed("iqn") {
				m.Iqn = &iqn
			}
			if cmd.Flags().Changed("nqn") {
				m.Nqn = &nqn
			}
			var err error
			if m.Chap, err = chap.read(cmd); err != nil {
				return err
			}
			if m.MutualChap, err = mutual.read(cmd); err != nil {
				return err
			}
			if m.Dhchap, err = dhchap.read(); err != nil {
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
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().host.UpdateHost(ctx, request(m))
			if err != nil {
				return err
			}
			h := viewHost(r.Msg.GetHost())
			return a.print(cmd, h, hostDetail(h))
		},
	}
	c.Flags().StringVar(&iqn, "iqn", "", "its iSCSI initiator name")
	c.Flags().StringVar(&nqn, "nqn", "", "its NVMe host NQN")
	chap.add(c, "chap", "user that the host authenticates as")
	mutual.add(c, "mutual-chap", "user that the target authenticates as to the host")
	dhchap.add(c)
	c.Flags().BoolVar(&noDHChap, "no-dhchap", false, "let the host in over NVMe without DH-HMAC-CHAP, in both directions")
	c.MarkFlagsMutuallyExclusive("no-dhchap", "dhchap-key-file")
	c.Flags().BoolVar(&noChap, "no-chap", false, "let the host in without CHAP, in both directions")
	c.Flags().BoolVar(&noMutual, "no-mutual-chap", false, "do not authenticate the target to the host")
	c.MarkFlagsMutuallyExclusive("no-chap", "chap-user")
	c.MarkFlagsMutuallyExclusive("no-chap", "mutual-chap-user")
	c.MarkFlagsMutuallyExclusive("no-mutual-chap", "mutual-chap-user")
	c.MarkFlagsOneRequired("iqn", "nqn", "chap-user", "mutual-chap-user", "no-chap", "no-mutual-chap", "dhchap-key-file", "no-dhchap")
	return c
}

func (a *app) hostDelete() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:               "delete NAME --yes",
		Short:             "Delete a host with its mappings; its sessions end",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeHosts,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return fmt.Errorf("deleting host %q takes its volumes from it at once; say --yes if you mean it", args[0])
			}
			ctx, cancel := a.context(cmd)
			defer cancel()
			if _, err := a.clients().host.DeleteHost(ctx, request(&blockdv1.DeleteHostRequest{RequestId: requestID(), Name: args[0]})); err != nil {
				return err
			}
			return a.done(cmd, "host", args[0], "deleted")
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, take its volumes from it")
	return c
}

func (a *app) completeHosts(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, err := a.hostNames(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) hostNames(cmd *cobra.Command) ([]string, error) {
	ctx, cancel := a.context(cmd)
	defer cancel()
	r, err := a.clients().host.ListHosts(ctx, request(&blockdv1.ListHostsRequest{}))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, h := range r.Msg.GetHosts() {
		names = append(names, h.GetName())
	}
	return names, nil
}

// completeMapping offers volumes, then hosts.
func (a *app) completeMapping(cmd *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return a.completeVolumes(cmd, args, to)
	}
	names, err := a.hostNames(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return append(names, "any"), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) mapCommand() *cobra.Command {
	var lun uint32
	c := &cobra.Command{
		Use:               "map VOLUME HOST",
		Short:             "Show a volume to a host, or to `any`",
		Example:           "  blockctl map db1 web1\n  blockctl map scratch any --lun 7",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeMapping,
		RunE: func(cmd *cobra.Command, args []string) error {
			m := &blockdv1.MapVolumeRequest{RequestId: requestID(), Volume: args[0], Host: args[1]}
			if cmd.Flags().Changed("lun") {
				m.Lun = &lun
			}
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().mapping.MapVolume(ctx, request(m))
			if err != nil {
				return err
			}
			list := mappingViews([]*blockdv1.Mapping{r.Msg.GetMapping()})
			return a.print(cmd, list[0], mappingTable(list))
		},
	}
	c.Flags().Uint32Var(&lun, "lun", 0, "LUN to show it at, 0 to 16383 (the volume's own)")
	return c
}

func mappingTable(list []mappingView) rows {
	t := rows{{"VOLUME", "HOST", "LUN"}}
	for _, m := range list {
		t = append(t, []string{m.Volume, m.Host, fmt.Sprint(m.LUN)})
	}
	return t
}

func (a *app) unmapCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "unmap VOLUME HOST",
		Short:             "Take a volume from a host, or from `any`",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeMapping,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			if _, err := a.clients().mapping.UnmapVolume(ctx, request(&blockdv1.UnmapVolumeRequest{RequestId: requestID(),
				Volume: args[0], Host: args[1]})); err != nil {
				return err
			}
			return a.done(cmd, "volume", args[0], "unmapped from "+args[1])
		},
	}
}

func (a *app) mapping() *cobra.Command {
	return group("mapping", "Show which host sees which volume", &cobra.Command{
		Use:   "list",
		Short: "List the mappings",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.context(cmd)
			defer cancel()
			r, err := a.clients().mapping.ListMappings(ctx, request(&blockdv1.ListMappingsRequest{}))
			if err != nil {
				return err
			}
			list := mappingViews(r.Msg.GetMappings())
			return a.print(cmd, list, mappingTable(list))
		},
	})
}

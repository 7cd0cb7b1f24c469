package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"blockd.dev/internal/adaptive"
	"blockd.dev/target/auth"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/tools/blockbench/reconnect"
)

const (
	nvmeURL        = "nvme://HOST[:PORT]/NQN/NSID"
	defaultHostNQN = "nqn.2026-01.dev.blockd:blockbench"
)

// nvmeFlags are how to connect, beside the URL.
type nvmeFlags struct {
	cfg                    nvmehost.Config
	keyFile, controllerKey string
}

func (n *nvmeFlags) flags(f *pflag.FlagSet) {
	n.cfg.Poll.Mode = adaptive.Interrupt
	f.StringVar(&n.cfg.HostNQN, "hostnqn", defaultHostNQN, "NQN to connect with")
	f.BoolVar(&n.cfg.HeaderDigest, "header-digest", false, "CRC32C over headers")
	f.Var(pollFlag{&n.cfg.Poll}, "poll", "how to wait for a socket: interrupt, or adaptive, which polls it for a short while\nfirst; on one machine that takes the core on which the target would be woken")
	f.BoolVar(&n.cfg.DataDigest, "data-digest", false, "CRC32C over data")
	f.BoolVar(&n.cfg.NoInline, "no-inline", false, "send no data in command capsules")
	f.DurationVar(&n.cfg.KeepAlive, "keep-alive", 15*time.Second, "keep alive timeout that the controller is told (0: none)")
	f.DurationVar(&n.cfg.Timeout, "timeout", 30*time.Second, "for a target that has fallen silent while commands are under way")
	f.StringVar(&n.keyFile, "dhchap-key-file", "", "file with the host's key, as `nvme gen-dhchap-key` prints it")
	f.StringVar(&n.controllerKey, "dhchap-controller-key-file", "", "file with the key that the controller must prove")
}

// parseNVMeURL reads where a namespace is.
func parseNVMeURL(s string) (addr, nqn string, nsid uint32, err error) {
	rest, ok := strings.CutPrefix(s, "nvme://")
	part := strings.Split(rest, "/")
	if !ok || len(part) != 3 || part[0] == "" || part[1] == "" {
		return "", "", 0, fmt.Errorf("%q: want %s", s, nvmeURL)
	}
	n, err := strconv.ParseUint(part[2], 10, 32)
	if err != nil || n == 0 || n >= 1<<32-2 {
		return "", "", 0, fmt.Errorf("%q: the NSID is not a number from 1: want %s", s, nvmeURL)
	}
	addr = part[0]
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(strings.Trim(addr, "[]"), "4420")
	}
	return addr, part[1], uint32(n), nil
}

func readKey(file string) (auth.DHKey, error) {
	if file == "" {
		return auth.DHKey{}, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return auth.DHKey{}, err
	}
	k, err := auth.ParseDHKey(string(text))
	if err != nil {
		return k, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

// namespace is a namespace with an association of its own.
type namespace struct {
	*nvmehost.Namespace
	host *nvmehost.Host
}

func (n namespace) Close() error {
	n.host.Close()
	return nil
}

// host reads the URL. Each connection is an association with one I/O queue.
func (n *nvmeFlags) host(url string, depth int) (host, error) {
	c := n.cfg
	var nsid uint32
	var err error
	if c.Addr, c.SubNQN, nsid, err = parseNVMeURL(url); err != nil {
		return host{}, err
	}
	var err2 error
	c.Key, err = readKey(n.keyFile)
	c.Controller, err2 = readKey(n.controllerKey)
	if err := errors.Join(err, err2); err != nil {
		return host{}, err
	}
	_, _ = rand.Read(c.HostID[:]) // never fails
	c.Depth = max(depth, 32) + 1
	return host{
		dial: func(ctx context.Context) (reconnect.Session, error) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			h, err := nvmehost.Dial(c)
			if err != nil {
				return nil, err
			}
			ns, err := h.Namespace(nsid)
			if err != nil {
				h.Close()
				return nil, err
			}
			return namespace{ns, h}, nil
		},
		writeCache: func(s reconnect.Session) bool {
			const vwc = 525 // volatile write cache, byte of Identify Controller
			return s.(namespace).host.Identify()[vwc]&1 != 0
		},
	}, nil
}

// newNVMeCommand loads an NVMe/TCP target.
func newNVMeCommand() *cobra.Command {
	var d driver
	var n nvmeFlags
	cmd := &cobra.Command{
		Use:   "nvme " + nvmeURL,
		Short: "Load an NVMe/TCP target, measure it, and with --verify check its data",
		Long: "Loads one namespace with a host of its own and prints IOPS and latencies. Writes\n" +
			"destroy what is on the volume. Each connection is an association with one I/O queue.\n" +
			"For --verify, --journal and --reconnect see `blockbench iscsi --help`: a journal\n" +
			"belongs to the volume, whichever protocol it is reached by.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := n.host(args[0], d.spec.Depth)
			if err != nil {
				return err
			}
			return d.run(cmd, h)
		},
	}
	d.flags(cmd.Flags())
	n.flags(cmd.Flags())
	return cmd
}

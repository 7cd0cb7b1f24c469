package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"blockd.dev/testenv/vm"
)

func vmCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "vm", Short: "Virtual machines with the Linux initiators"}
	cmd.AddCommand(vmRunCommand())
	return cmd
}

func vmRunCommand() *cobra.Command {
	var (
		config   vm.Config
		forwards []string
		env      []string
	)
	cmd := &cobra.Command{
		Use:   "run SCRIPT",
		Short: "Boot a VM, run a script in it, exit with the script's status",
		Long: `Boots a Debian kernel under QEMU with iscsiadm, nvme, multipath, fio, mkfs.*,
sg_* and busybox, and runs SCRIPT in it ("-": standard input). The script finds
this host's 127.0.0.1 at $TARGET_HOST (10.0.2.2), and at 127.0.0.1 too.

The kernel is downloaded once, as root or not; nothing is installed.`,
		Example: `  testenv vm run attach.sh
  echo 'iscsid; iscsiadm -m discovery -t st -p $TARGET_HOST' | testenv vm run -
  testenv vm run --env SIZE=64m --cards 2 --console boot.log attach.sh`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			script, err := readScript(args[0])
			if err != nil {
				return err
			}
			config.Script = script
			config.Env = map[string]string{}
			for _, e := range env {
				name, value, ok := strings.Cut(e, "=")
				if !ok {
					return fmt.Errorf("--env %q: want NAME=VALUE", e)
				}
				config.Env[name] = value
			}
			for _, f := range forwards {
				forward, err := vm.ParseForward(f)
				if err != nil {
					return err
				}
				config.Forwards = append(config.Forwards, forward)
			}
			config.Output = cmd.OutOrStdout()
			config.OnCall = func(_ context.Context, words []string) (string, error) {
				return "", errors.New("no test is listening to `host " + strings.Join(words, " ") + "`")
			}
			result, err := vm.Run(cmd.Context(), config)
			fmt.Fprintf(cmd.ErrOrStderr(), "testenv: boot %.1f s, whole run %.1f s\n", result.Boot.Seconds(), result.Elapsed.Seconds())
			if err != nil && result.ExitCode > 0 && len(result.Complaints) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "testenv:", err)
				os.Exit(result.ExitCode)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.Kernel, "kernel", vm.DefaultKernel, "Debian package, or metapackage, to take the kernel from")
	flags.StringVar(&config.CacheDir, "cache", "", "where the kernel and the image are kept (default $BLOCKD_TESTENV_CACHE or ~/.cache/blockd-testenv)")
	flags.DurationVar(&config.Timeout, "timeout", vm.DefaultTimeout, "when to give up")
	flags.IntVar(&config.MemoryMiB, "memory", vm.DefaultMemoryMiB, "the guest's memory in MiB")
	flags.IntVar(&config.Cards, "cards", vm.DefaultCards, "network cards, each another path to the host: 10.0.2.2, 10.0.3.2, ...")
	flags.StringArrayVar(&forwards, "forward", nil, "make the guest's port reachable on 127.0.0.1: HOSTPORT:GUESTPORT")
	flags.StringArrayVar(&env, "env", nil, "the script's environment: NAME=VALUE")
	flags.StringVar(&config.ConsolePath, "console", "", "keep the kernel's console in this file (a failed run keeps it anyway)")
	return cmd
}

func readScript(name string) (string, error) {
	if name == "-" {
		name = "/dev/stdin"
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("read the script: %w", err)
	}
	return string(text), nil
}

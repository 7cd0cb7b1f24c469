package vm

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Defaults of Config.
const (
	DefaultTimeout   = 10 * time.Minute
	DefaultMemoryMiB = 1024
	DefaultKernel    = "linux-image-6.12-cloud-amd64"
	DefaultCards     = 1
	MaxCards         = 4
	MaxProcessors    = 8
)

// Config says what to run. The zero value of each field means its default.
type Config struct {
	// Script is the text to run in the guest: a program for the interpreter
	// that its first line names, or for bash when it names none. Required.
	Script string

	// Env is the script's environment, beside PATH, HOME and TARGET_HOST
	// (10.0.2.2 unless set here).
	Env map[string]string

	// Programs are files of this host, linked statically, that the guest has in
	// /usr/bin beside its own.
	Programs []string

	// Timeout bounds the run, boot included. Default DefaultTimeout.
	Timeout time.Duration

	// Kernel is the Debian package to take the kernel from, or a
	// metapackage that depends on one. Default DefaultKernel.
	Kernel string

	// CacheDir keeps the kernel and the filesystem image between runs.
	// Default: $BLOCKD_TESTENV_CACHE, else blockd-testenv in the user's cache
	// directory.
	CacheDir string

	// MemoryMiB is the guest's memory. Its filesystem lives in it too.
	// Default DefaultMemoryMiB, at least 512.
	MemoryMiB int

	// Cards is the number of network cards, 1 to MaxCards; card n (from 0)
	// reaches the host as 10.0.(2+n).2. Default 1.
	Cards int

	// Processors is the number of the guest's processors, 1 to MaxProcessors.
	// They share one processor of this host, so that more of them only means
	// more queues. Default 1.
	Processors int

	// KernelArgs are further words of the kernel's command line, such as
	// nvme_core.multipath=N.
	KernelArgs []string

	// Forwards lets the host connect to the guest, by the first card.
	Forwards []Forward

	// Command prepares QEMU's command line as a command, for who runs it elsewhere:
	// in another network namespace, where the guest's connections to the host's
	// addresses then go. Default: exec.CommandContext.
	Command func(ctx context.Context, argv ...string) (*exec.Cmd, error)

	// ConsolePath is a file for the kernel's console. Default: none; a failed
	// run then keeps it in a temporary file that the error names.
	ConsolePath string

	// Output receives what the script prints, as it prints. May be nil.
	Output io.Writer

	// OnLine is called for each line that the script prints, without its
	// newline, in order, from one goroutine. May be nil.
	OnLine func(line string)

	// OnCall answers `host WORDS...` in the guest: words is what was given to
	// it. Its reply, one line, is printed by the guest's `host`; with an error,
	// `host` prints that and exits with status 1. The guest waits meanwhile.
	// ctx ends with the run. Nil refuses every call.
	OnCall func(ctx context.Context, words []string) (reply string, err error)
}

// Forward makes a TCP port of the guest reachable on the host's 127.0.0.1.
type Forward struct {
	HostPort, GuestPort uint16
}

// ParseForward reads HOSTPORT:GUESTPORT.
func ParseForward(s string) (Forward, error) {
	var f Forward
	if n, err := fmt.Sscanf(s, "%d:%d", &f.HostPort, &f.GuestPort); err != nil || n != 2 || f.HostPort == 0 || f.GuestPort == 0 {
		return Forward{}, fmt.Errorf("forward %q: want HOSTPORT:GUESTPORT, such as 8022:22", s)
	}
	return f, nil
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// withDefaults returns c with its defaults filled in, or what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if strings.TrimSpace(c.Script) == "" {
		return c, fmt.Errorf("vm: Script is empty: there is nothing to run")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		if !envName.MatchString(name) {
			return c, fmt.Errorf("vm: Env: %q cannot be the name of a shell variable", name)
		}
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Timeout < 0 {
		return c, fmt.Errorf("vm: Timeout is %v; it must be positive", c.Timeout)
	}
	if c.Kernel == "" {
		c.Kernel = DefaultKernel
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = DefaultMemoryMiB
	}
	if c.MemoryMiB < 512 {
		return c, fmt.Errorf("vm: MemoryMiB is %d; the guest needs at least 512 for its filesystem", c.MemoryMiB)
	}
	if c.Cards == 0 {
		c.Cards = DefaultCards
	}
	if c.Cards < 1 || c.Cards > MaxCards {
		return c, fmt.Errorf("vm: Cards is %d; want 1 to %d", c.Cards, MaxCards)
	}
	if c.Processors == 0 {
		c.Processors = 1
	}
	if c.Processors < 1 || c.Processors > MaxProcessors {
		return c, fmt.Errorf("vm: Processors is %d; want 1 to %d", c.Processors, MaxProcessors)
	}
	if c.Command == nil {
		c.Command = func(ctx context.Context, argv ...string) (*exec.Cmd, error) {
			return exec.CommandContext(ctx, argv[0], argv[1:]...), nil
		}
	}
	if c.CacheDir == "" {
		dir, err := cacheDir()
		if err != nil {
			return c, err
		}
		c.CacheDir = dir
	}
	return c, nil
}

package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Result is how a run went.
type Result struct {
	// ExitCode is the script's, or -1 when the guest did not get that far.
	ExitCode int
	// Boot is the time from starting QEMU to starting the script.
	Boot time.Duration
	// Elapsed is the whole run's time, without making the image.
	Elapsed time.Duration
	// Complaints are lines of the kernel's console that a healthy run has not.
	Complaints []string
	// ConsolePath is where the console was kept; "" when it was not.
	ConsolePath string
}

// ErrFailed is the kind of error that Run returns when the guest ran but the
// run did not go well: the script failed, the kernel complained, or time was up.
// Other errors mean that the guest could not be run.
var ErrFailed = errors.New("the run failed")

// Run boots a guest, runs the script in it, and returns when the guest is off.
// The error is nil when the script ended with 0 and the kernel had no complaint.
func Run(ctx context.Context, c Config) (Result, error) {
	result := Result{ExitCode: -1}
	c, err := c.withDefaults()
	if err != nil {
		return result, err
	}
	k, err := fetchKernel(ctx, c.CacheDir, c.Kernel)
	if err != nil {
		return result, err
	}
	img, err := image(ctx, c.CacheDir, k)
	if err != nil {
		return result, err
	}
	dir, err := os.MkdirTemp("", "blockd-vm-*")
	if err != nil {
		return result, fmt.Errorf("vm: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	initrd := filepath.Join(dir, "initrd")
	if err := writeInitrd(initrd, img, c); err != nil {
		return result, err
	}

	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("not done after %v", c.Timeout))
	defer cancel()
	g := &guest{config: c, started: time.Now(), exitCode: -1}
	runErr := g.run(ctx, qemuArgs(c, k, initrd))
	result.Elapsed = time.Since(g.started)
	result.Boot = g.boot
	result.ExitCode = g.exitCode
	result.Complaints = complaints(g.console.Bytes())

	var why []string
	switch {
	case errors.Is(runErr, context.DeadlineExceeded) || errors.Is(runErr, context.Canceled):
		why = append(why, context.Cause(ctx).Error())
	case runErr != nil:
		why = append(why, runErr.Error())
	case g.exitCode == -1:
		why = append(why, "the guest went off before its script ended")
	case g.exitCode != 0:
		why = append(why, fmt.Sprintf("the script ended with status %d", g.exitCode))
	}
	if len(result.Complaints) > 0 {
		why = append(why, fmt.Sprintf("the guest's kernel complained: %s", result.Complaints[0]))
	}
	result.ConsolePath = c.ConsolePath
	if result.ConsolePath == "" && len(why) > 0 {
		result.ConsolePath = filepath.Join(os.TempDir(), fmt.Sprintf("blockd-vm-console-%d-%d.log", os.Getpid(), g.started.UnixNano()))
	}
	if result.ConsolePath != "" {
		if err := os.WriteFile(result.ConsolePath, g.console.Bytes(), 0o644); err != nil {
			return result, fmt.Errorf("vm: keep the console: %w", err)
		}
	}
	if len(why) > 0 {
		return result, fmt.Errorf("vm: %w: %s (console: %s)", ErrFailed, strings.Join(why, "; "), result.ConsolePath)
	}
	return result, nil
}

// guest is one running machine.
type guest struct {
	config  Config
	started time.Time

	console  consoleBuffer
	boot     time.Duration
	exitCode int
}

// run starts QEMU and pumps its streams until it ends. The returned error is
// about the machine, not about the script.
func (g *guest) run(ctx context.Context, argv []string) error {
	control, controlGuest, err := socketPair("control")
	if err != nil {
		return err
	}
	defer func() { _ = control.Close() }()
	output, outputGuest, err := socketPair("output")
	if err != nil {
		_ = controlGuest.Close()
		return err
	}
	defer func() { _ = output.Close() }()

	// The kernel takes QEMU's parent to be a thread. This one must not go to another
	// goroutine, which could end it (dieWithParent).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stderr bytes.Buffer
	cmd, err := g.config.Command(ctx, argv...)
	if err != nil {
		return errors.Join(fmt.Errorf("prepare QEMU: %w", err), controlGuest.Close(), outputGuest.Close())
	}
	cmd.Stdout, cmd.Stderr = &g.console, &stderr
	cmd.ExtraFiles = []*os.File{controlGuest, outputGuest}
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = dieWithParent()
	err = cmd.Start()
	_ = controlGuest.Close()
	_ = outputGuest.Close()
	if err != nil {
		return fmt.Errorf("start QEMU: %w; run scripts/need.sh vm", err)
	}
	var pumps sync.WaitGroup
	var outputErr, controlErr error
	pumps.Go(func() { outputErr = g.pumpOutput(output) })
	pumps.Go(func() { controlErr = g.pumpControl(ctx, control) })
	err = cmd.Wait()
	// QEMU's ends of the sockets are closed now, so both pumps come to an end.
	pumps.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("QEMU: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return errors.Join(outputErr, controlErr)
}

// maxLine bounds a line from the guest.
const maxLine = 1 << 20

// pumpOutput hands on what the script prints.
func (g *guest) pumpOutput(from io.Reader) error {
	sink := io.Discard
	if g.config.Output != nil {
		sink = g.config.Output
	}
	lines := bufio.NewScanner(io.TeeReader(from, sink))
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		if g.config.OnLine != nil {
			g.config.OnLine(strings.TrimSuffix(lines.Text(), "\r"))
		}
	}
	return lines.Err()
}

// pumpControl serves the guest's side channel. Each line from the guest is one
// of
//
//	ready SECONDS    the script starts now; SECONDS since the kernel booted
//	call WORDS       answered by "ok REPLY" or "error WORDS"
//	exit STATUS      the script has ended
func (g *guest) pumpControl(ctx context.Context, control io.ReadWriter) error {
	lines := bufio.NewScanner(control)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "ready":
			g.boot = time.Since(g.started)
		case "call":
			reply, err := g.call(ctx, strings.Fields(rest))
			answer := "ok " + oneLine(reply) + "\n"
			if err != nil {
				answer = "error " + oneLine(err.Error()) + "\n"
			}
			if _, err := io.WriteString(control, answer); err != nil {
				return fmt.Errorf("answer the guest: %w", err)
			}
		case "exit":
			code, err := strconv.Atoi(rest)
			if err != nil {
				return fmt.Errorf("the guest said %q", lines.Text())
			}
			g.exitCode = code
		default:
			return fmt.Errorf("the guest said %q, which means nothing", lines.Text())
		}
	}
	return lines.Err()
}

func (g *guest) call(ctx context.Context, words []string) (string, error) {
	if g.config.OnCall == nil {
		return "", errors.New("nobody listens to calls in this run")
	}
	return g.config.OnCall(ctx, words)
}

func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", " ") }

// consoleBuffer keeps what the kernel printed, up to a bound.
type consoleBuffer struct{ bytes.Buffer }

const consoleMax = 16 << 20

// Write keeps p while there is room, and takes all of it either way.
func (c *consoleBuffer) Write(p []byte) (int, error) {
	if room := consoleMax - c.Len(); room > 0 {
		c.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// socketPair returns two ends of a stream: ours, and one for QEMU.
func socketPair(name string) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("vm: socket pair: %w", err)
	}
	// Non-blocking, so that Go's poller waits for it and Close wakes a reader.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, fmt.Errorf("vm: socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name+"-guest"), nil
}

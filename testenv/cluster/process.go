package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process that this package started, in a form that outlives who
// started it: a pid alone may belong to somebody else by now.
type Process struct {
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"` // field 22 of /proc/PID/stat: clock ticks after boot (proc(5))
	Boot  string `json:"boot,omitempty"`  // kernel.random.boot_id
}

// errGone is of a process that has ended.
var errGone = errors.New("it does not run")

// pollEvery is how often a wait looks for what the kernel announces to nobody
// but a parent.
const pollEvery = 10 * time.Millisecond

// start starts a process in the network namespace, in a session of its own,
// its output appended to the file log. The context of the caller does not end it.
func start(namespace, log string, env []string, argv ...string) (Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Process{}, fmt.Errorf("cluster: %w", err)
	}
	defer out.Close()
	// ip becomes the process, so the pid is the process's.
	cmd := exec.Command("ip", append([]string{"netns", "exec", namespace}, argv...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return Process{}, fmt.Errorf("cluster: start %s: %w", argv[0], err)
	}
	p, err := identify(cmd.Process.Pid)
	if err != nil {
		return Process{}, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	go func() { _ = cmd.Wait() }() // how it ended is in its log
	return p, nil
}

// identify tells a process from others that will have its pid.
func identify(pid int) (Process, error) {
	started, _, err := stat(pid)
	if err != nil {
		return Process{}, fmt.Errorf("cluster: process %d: %w", pid, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return Process{PID: pid, Start: started, Boot: strings.TrimSpace(string(boot))}, err
}

// stat returns the start time and the state of a process.
func stat(pid int) (started uint64, state byte, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			err = errGone
		}
		return 0, 0, err
	}
	// The name, in parentheses, may hold anything; the state is field 3.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %d fields after the name, want 20", pid, len(fields))
	}
	started, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return started, fields[0][0], err
}

// State is "running", "paused" or "gone". A process that has ended counts as
// gone even while its parent has not asked how.
func (p Process) State() (string, error) {
	if p.PID == 0 {
		return "gone", nil
	}
	now, err := identify(p.PID)
	if errors.Is(err, errGone) || err == nil && now != p {
		return "gone", nil
	}
	if err != nil {
		return "", err
	}
	_, state, err := stat(p.PID)
	switch {
	case errors.Is(err, errGone) || err == nil && (state == 'Z' || state == 'X'):
		return "gone", nil
	case state == 'T':
		return "paused", nil
	}
	return "running", err
}

// signal sends it to this process and to no other. It returns errGone when the
// process has ended.
func (p Process) signal(sig syscall.Signal) error {
	if p.PID == 0 {
		return errGone
	}
	// Once the descriptor is open, the pid means the process that has it now;
	// what is checked after that is true until the end.
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return errGone
	}
	if err != nil {
		return fmt.Errorf("cluster: process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if state, err := p.State(); err != nil || state == "gone" {
		return errors.Join(err, errGone)
	}
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return errGone
	}
	return err
}

// end sends the signal, SIGKILL if it is still there after patience, and waits until it is gone.
func (p Process) end(sig syscall.Signal, patience time.Duration) error {
	if err := p.signal(sig); err != nil {
		if errors.Is(err, errGone) {
			return nil
		}
		return err
	}
	// A stopped process acts on no signal but this pair.
	_ = p.signal(syscall.SIGCONT)
	deadline := time.Now().Add(patience)
	for killed := sig == syscall.SIGKILL; ; {
		state, err := p.State()
		if err != nil || state == "gone" {
			return err
		}
		if time.Now().After(deadline) {
			if killed {
				return fmt.Errorf("cluster: process %d is still there %v after SIGKILL", p.PID, patience)
			}
			killed, deadline = true, time.Now().Add(patience)
			if err := p.signal(syscall.SIGKILL); err != nil && !errors.Is(err, errGone) {
				return err
			}
		}
		time.Sleep(pollEvery)
	}
}

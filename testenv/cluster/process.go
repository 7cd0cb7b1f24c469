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

// open returns a pidfd of the process, errGone when it is another's pid or
// nobody's. A process that has ended and whose parent has not asked how still has its pid.
func (p Process) open() (int, error) {
	if p.PID == 0 {
		return -1, errGone
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, errGone
	}
	if err != nil {
		return -1, fmt.Errorf("cluster: process %d: %w", p.PID, err)
	}
	// The descriptor means the process that has the pid now. If that one has the
	// start time, before and after, it is this one.
	now, err := identify(p.PID)
	if err == nil && now != p {
		err = errGone
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// waitEnded waits until all threads of the process have ended, and with them what it
// held: the first one's state in /proc tells less.
func waitEnded(pidfd int, patience time.Duration) (ended bool, err error) {
	deadline := time.Now().Add(patience)
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(max(0, time.Until(deadline)).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}

// State is "running", "paused" or "gone".
func (p Process) State() (string, error) {
	fd, err := p.open()
	if errors.Is(err, errGone) {
		return "gone", nil
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if ended, err := waitEnded(fd, 0); err != nil || ended {
		return "gone", err
	}
	_, state, err := stat(p.PID)
	switch {
	case errors.Is(err, errGone):
		return "gone", nil
	case state == 'T':
		return "paused", nil
	}
	return "running", err
}

// signal sends it to this process and to no other. It returns errGone when the
// process has ended.
func (p Process) signal(sig syscall.Signal) error {
	fd, err := p.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return send(fd, sig)
}

func send(pidfd int, sig syscall.Signal) error {
	if ended, err := waitEnded(pidfd, 0); err != nil || ended {
		return errors.Join(err, errGone)
	}
	err := unix.PidfdSendSignal(pidfd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return errGone
	}
	return err
}

// end sends the signal, SIGKILL if the process is still there after patience, and
// waits until it is gone.
func (p Process) end(sig syscall.Signal, patience time.Duration) error {
	fd, err := p.open()
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// One that is paused acts on no other signal before SIGCONT.
	for _, signals := range [][]syscall.Signal{{sig, syscall.SIGCONT}, {syscall.SIGKILL}} {
		for _, sig := range signals {
			if err := send(fd, sig); err != nil && !errors.Is(err, errGone) {
				return err
			}
		}
		if ended, err := waitEnded(fd, patience); err != nil || ended {
			return err
		}
	}
	return fmt.Errorf("cluster: process %d is still there %v after SIGKILL", p.PID, patience)
}

// pause stops the process and waits until it has stopped: the signal returns before that.
func (p Process) pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		switch state, err := p.State(); {
		case err != nil:
			return err
		case state == "gone":
			return errGone
		case state == "paused":
			return nil
		}
		time.Sleep(pollEvery)
	}
}

package cluster

import (
	"errors"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestARecycledPidIsLeftAlone: a process with the same pid, but another start
// or boot, is another process.
func TestARecycledPidIsLeftAlone(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	p, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []Process{
		{p.PID, p.Start - 1, p.Boot},
		{p.PID, p.Start, "another boot"},
		{},
	} {
		if state, err := other.State(); err != nil || state != "gone" {
			t.Errorf("%+v is %s, %v; want gone", other, state, err)
		}
		if err := other.signal(syscall.SIGKILL); !errors.Is(err, errGone) {
			t.Errorf("signal %+v: %v, want errGone", other, err)
		}
		if err := other.end(syscall.SIGKILL, time.Second); err != nil {
			t.Errorf("end %+v: %v", other, err)
		}
	}
	if state, err := p.State(); err != nil || state != "running" {
		t.Fatalf("the process is %s, %v; want running", state, err)
	}
}

// TestEndReachesAPausedProcess: SIGTERM alone would wait for SIGCONT.
func TestEndReachesAPausedProcess(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	p, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.pause(); err != nil {
		t.Fatal(err)
	}
	if state, err := p.State(); err != nil || state != "paused" {
		t.Errorf("it is %s, %v; want paused", state, err)
	}
	if err := p.end(syscall.SIGTERM, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	<-ended
	if sig := cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(); sig != syscall.SIGTERM {
		t.Errorf("it ended by %v, want SIGTERM", sig)
	}
}

// TestMountsBelow finds mounts, those of directories whose names only begin alike not.
func TestMountsBelow(t *testing.T) {
	found, err := mountsBelow("/proc")
	if err != nil || len(found) == 0 || found[0] != (mount{"/proc", "proc", "proc"}) {
		t.Errorf("on /proc there are %+v, %v", found, err)
	}
	if found, err := mountsBelow("/pro"); err != nil || len(found) > 0 {
		t.Errorf("below /pro there are %+v, %v", found, err)
	}
	if got := unescape(`/a\040b\134c`); got != `/a b\c` {
		t.Errorf("unescape: %q", got)
	}
}

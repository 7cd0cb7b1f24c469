//go:build e2e

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// remains lists what there is of a cluster: with its prefix in the name or its
// directory in the arguments, and programs of this package.
func remains(t *testing.T, prefix, dir string) (out []string) {
	t.Helper()
	add := func(kind, name string) { out = append(out, kind+" "+name) }
	spaces, err := filepath.Glob(filepath.Join(namespacesDir, prefix+"*"))
	must(t, err)
	for _, s := range spaces {
		add("namespace", s)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, prefix+"-") || strings.Contains(line, dir) {
			add("mount", line)
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, file := range commands {
		b, err := os.ReadFile(file)
		if err == nil && file != fmt.Sprintf("/proc/%d/cmdline", os.Getpid()) && strings.Contains(string(b), dir) {
			add("process", strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		add("directory", dir)
	}
	return out
}

// links lists the interfaces of the machine's own namespace.
func links(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// filters are the programs on the ports of the switch.
func filters(t *testing.T, c *Cluster) (ids []ebpf.ProgramID) {
	t.Helper()
	s, err := load(c.dir)
	must(t, err)
	must(t, inNamespace(s.namespace(switchName), func() error {
		for _, p := range s.Places {
			dev, err := net.InterfaceByName(p.port())
			if err != nil {
				return err
			}
			attached, err := link.QueryPrograms(link.QueryOptions{Target: dev.Index, Attach: ebpf.AttachTCXEgress})
			if err != nil {
				return err
			}
			for _, a := range attached.Programs {
				ids = append(ids, a.ID)
			}
		}
		return nil
	}))
	return ids
}

// exists tells whether the kernel has a program.
func exists(t *testing.T, id ebpf.ProgramID) bool {
	t.Helper()
	program, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	must(t, errors.Join(err, program.Close()))
	return true
}

// waitFor polls what nobody announces.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for !done() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// TestDownLeavesNothing, whatever faults there are at the time.
func TestDownLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with a blank")
	linksBefore := links(t)
	c, err := Up(t.Context(), Config{Dir: dir, Nodes: 2, Standalone: true})
	must(t, err)
	prefix := strings.TrimSuffix(places(t, c)["n1"].Namespace, "-n1")
	if got := remains(t, prefix, dir); len(got) < 4+2+2+1 {
		t.Errorf("remains() finds only %q of a cluster that is up", got)
	}
	programs := filters(t, c)
	if len(programs) != 3 {
		t.Errorf("%d programs on 3 ports", len(programs))
	}
	must(t, c.Delay(t.Context(), time.Millisecond, 0, []string{"n1"}, []string{"n2"}))
	must(t, c.Pause("n1"))
	must(t, c.DiskFull("n2", true))
	stray, err := c.Command(t.Context(), "n2", "sleep", "1000")
	must(t, err)
	must(t, stray.Start())
	must(t, c.Down())
	if err := stray.Wait(); err == nil {
		t.Error("a process in a node's namespace outlived Down")
	}
	if got := remains(t, prefix, dir); len(got) > 0 {
		t.Errorf("after Down: %q", got)
	}
	if got := links(t); got != linksBefore {
		t.Errorf("interfaces %q, before %q", got, linksBefore)
	}
	// The kernel frees a namespace and what is in it some time after its end.
	for _, id := range programs {
		waitFor(t, "the kernel to free a program", func() bool { return !exists(t, id) })
	}
	must(t, c.Down())
	if err := c.Kill("n1"); err == nil {
		t.Error("Kill after Down found a cluster")
	}
}

// TestUpThatFailsLeavesNothing: when a node doesn't start, when it never gets
// ready and the caller gives up, and when the directory is in use.
func TestUpThatFailsLeavesNothing(t *testing.T) {
	bin := t.TempDir()
	real, err := defaultBinDir()
	must(t, err)
	for _, name := range []string{"blockctl", "testenv"} {
		must(t, os.Symlink(filepath.Join(real, name), filepath.Join(bin, name)))
	}
	blockd := filepath.Join(bin, "blockd")
	started := blockd + ".started"
	for name, script := range map[string]string{
		"a node ends":            `case "$*" in */n2/*) echo "no blood in n2"; exit 3;; esac; exec sleep 1000`,
		"what runs is no blockd": `echo blockd ready; exec sleep 1000`,
		"a node is never ready":  `touch "$0.started"; exec sleep 1000`,
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(blockd, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
			must(t, os.RemoveAll(started))
			linksBefore := links(t)
			dir := filepath.Join(t.TempDir(), "c")
			ctx, giveUp := context.WithCancel(t.Context())
			defer giveUp()
			go func() {
				for ctx.Err() == nil {
					if _, err := os.Stat(started); err == nil {
						giveUp()
					}
					pause(ctx)
				}
			}()
			c, err := Up(ctx, Config{Dir: dir, BinDir: bin})
			if err == nil {
				t.Fatal(errors.Join(errors.New("Up succeeded"), c.Down()))
			}
			if name == "a node ends" && !strings.Contains(err.Error(), "no blood in n2") {
				t.Errorf("the error doesn't tell what n2 said: %v", err)
			}
			if gaveUp := errors.Is(err, context.Canceled); gaveUp != (name == "a node is never ready") {
				t.Errorf("it ended since the caller gave up: %v: %v", gaveUp, err)
			}
			if got := remains(t, "bd-no-prefix", dir); len(got) > 0 {
				t.Errorf("after a failed Up: %q", got)
			}
			if got := links(t); got != linksBefore {
				t.Errorf("interfaces %q, before %q", got, linksBefore)
			}
		})
	}
	t.Run("the directory is in use", func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "precious")
		must(t, os.WriteFile(file, nil, 0o600))
		if _, err := Up(t.Context(), Config{Dir: dir}); err == nil {
			t.Error("Up took a directory that is not empty")
		}
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	})
}

// TestDownAfterACrash: Up was killed half way, just after it had started a node
// and before it could write down which process that is.
func TestDownAfterACrash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	made, err := makeDir(dir)
	must(t, err)
	config, err := Config{Dir: dir, Standalone: true}.withDefaults()
	must(t, err)
	prefix, err := drawPrefix()
	must(t, err)
	s := newState(config, prefix)
	s.MadeDir = made
	must(t, s.save())
	must(t, s.makeNetwork())
	must(t, deleteNamespace(s.namespace("n3"))) // as if it had not come so far
	p := s.nodes()[0]
	must(t, s.makeDisks(p))
	process, err := start(p.Namespace, p.Log(), nil, append([]string{filepath.Join(config.BinDir, "blockd")}, s.arguments(p)...)...)
	must(t, err)
	must(t, s.await(t.Context(), []awaited{{"blockd", process, p.Log(), 0, readyLine}}))
	c, err := Open(dir)
	must(t, err)
	must(t, c.Down())
	if state, err := process.State(); err != nil || state != "gone" {
		t.Errorf("the node is %s, %v; want gone", state, err)
	}
	if got := remains(t, prefix, dir); len(got) > 0 {
		t.Errorf("after Down: %q", got)
	}
}

// TestWhatIsNotOursStays: a mount and a namespace in the place of the
// cluster's are not taken down with it.
func TestWhatIsNotOursStays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	c, err := Up(t.Context(), Config{Dir: dir, Nodes: 1, Standalone: true})
	must(t, err)
	p := places(t, c)["n1"]
	must(t, c.Kill("n1"))
	must(t, unix.Mount("somebody", p.fs(), "tmpfs", 0, "size=1m"))
	file := filepath.Join(p.fs(), "precious")
	must(t, os.WriteFile(file, nil, 0o600))
	if err := c.Down(); err == nil {
		t.Error("Down says nothing of a file system in its way")
	}
	if _, err := os.Stat(filepath.Join(dir, stateFile)); err != nil {
		t.Errorf("the state is gone, though not all is down: %v", err)
	}
	_, err = os.Stat(file)
	must(t, errors.Join(err, unix.Unmount(p.fs(), 0)))
	must(t, c.Down())
	if got := remains(t, strings.TrimSuffix(p.Namespace, "-n1"), dir); len(got) > 0 {
		t.Errorf("after Down: %q", got)
	}
}

// TestCommandLine drives a cluster by testenv alone, each verb in a process of
// its own, beside a second cluster that none of it may touch.
func TestCommandLine(t *testing.T) {
	other := idle(t, Config{Nodes: 2})
	bin, err := defaultBinDir()
	must(t, err)
	dir := filepath.Join(t.TempDir(), "c")
	run := func(args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "testenv"), append([]string{"cluster", "--dir", dir}, args...)...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("testenv cluster %s: %v: %s", strings.Join(args, " "), err, stderr.String())
		}
		return out
	}
	status := func() (st Status) {
		t.Helper()
		must(t, json.Unmarshal(run("status", "-o", "json"), &st))
		return st
	}
	var st Status
	must(t, json.Unmarshal(run("up", "--nodes", "2", "--standalone", "-o", "json", "--bin", bin), &st))
	defer func() {
		if c, err := Open(dir); err == nil {
			must(t, c.Down())
		}
	}()
	if len(st.Nodes) != 2 || st.Nodes[0].State != "running" || st.Nodes[1].State != "running" {
		t.Fatalf("up says %+v", st)
	}
	if out := run("exec", "n2", "--", "sh", "-c", "echo $BLOCKD_API; ip -br addr show eth0"); !strings.Contains(string(out), "10.77.0.2/24") {
		t.Errorf("exec on n2 says %s", out)
	}
	pid := st.Nodes[0].Process.PID
	run("pause", "n1")
	run("partition", "--one-way", "n1", "n2,host")
	run("loss", "25%", "--from", "n2", "--to", "n1")
	run("delay", "5ms", "--from", "n2", "--to", "host")
	run("disk-error", "n2", "read p=0.5 err=EIO")
	run("disk-full", "n1", "on")
	st = status()
	got := map[string]float64{}
	for _, w := range st.Wires {
		got[w.From+w.To] = w.Loss + float64(w.Delay/time.Millisecond)*1000
	}
	for wire, want := range map[string]float64{"n1n2": 100, "n1host": 100, "n2n1": 25, "n2host": 5000} {
		if got[wire] != want {
			t.Errorf("%s: loss and delay %v, want %v", wire, got[wire], want)
		}
	}
	if st.Nodes[0].State != "paused" || !st.Nodes[0].DiskFull || strings.Join(st.Nodes[1].DiskFaults, "") != "read p=0.5 err=EIO" || !st.CarrierUp {
		t.Errorf("status %+v", st)
	}
	run("heal")
	run("resume", "n1")
	run("disk-full", "n1", "off")
	run("kill", "n2")
	run("disk-error", "n2")
	if st = status(); st.Nodes[1].State != "gone" || st.CarrierUp || len(st.Nodes[1].DiskFaults) > 0 || st.Nodes[0].Process.PID != pid {
		t.Errorf("status %+v", st)
	}
	run("restart", "n2")
	run("stop", "n1")
	if st = status(); st.Nodes[0].State != "gone" || st.Nodes[1].State != "running" {
		t.Errorf("status %+v", st)
	}
	run("down")
	if got := remains(t, st.Prefix, dir); len(got) > 0 {
		t.Errorf("after down: %q", got)
	}
	for _, name := range []string{"n1", "n2"} {
		expectState(t, other, name, "running")
		must(t, answers(t, other, name, patience))
	}
}

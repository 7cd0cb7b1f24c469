package ceph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// daemon is a monitor or an OSD, in the foreground of its own.
type daemon struct {
	name  string
	cmd   *exec.Cmd
	words bytes.Buffer // what it printed; read once ended is closed
	ended chan struct{}
}

// stopGrace is how long a daemon may take to end before it is killed.
const stopGrace = 15 * time.Second

// start runs a daemon until Down.
func (c *Cluster) start(argv ...string) error {
	d := &daemon{name: strings.Join(argv, " "), ended: make(chan struct{})}
	d.cmd = c.command(context.Background(), append(argv, "-f")...)
	d.cmd.Stdout, d.cmd.Stderr = &d.words, &d.words
	// ^C is for the caller, who takes it down in order.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("ceph: %w", err)
	}
	c.daemons = append(c.daemons, d)
	go func() {
		_ = d.cmd.Wait() // how it ended shows in ProcessState
		close(d.ended)
	}()
	return nil
}

// stop ends a daemon and waits for it.
func (d *daemon) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	select {
	case <-d.ended:
		return nil
	case <-time.After(stopGrace):
	}
	err := d.cmd.Process.Kill()
	<-d.ended
	return err
}

// died tells of daemons that have ended by themselves.
func (c *Cluster) died() error {
	var errs []error
	for _, d := range c.daemons {
		select {
		case <-d.ended:
			errs = append(errs, fmt.Errorf("ceph: %s has ended (%v): %s", d.name, d.cmd.ProcessState, strings.TrimSpace(d.words.String())))
		default:
		}
	}
	return errors.Join(errs...)
}

// PIDs are those of all daemons.
func (c *Cluster) PIDs() (out []int) {
	for _, d := range c.daemons {
		out = append(out, d.cmd.Process.Pid)
	}
	return out
}

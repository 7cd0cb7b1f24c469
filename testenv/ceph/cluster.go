package ceph

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Cluster is a running Ceph cluster. Its methods are for one goroutine at a time.
type Cluster struct {
	config  Config
	fsid    string
	monitor string // its address
	conf    string // path of ceph.conf
	made    bool   // Dir was missing
	daemons []*daemon
}

// pool has all images; its name is what rbd and fio assume.
const pool = "rbd"

// commandTimeout bounds each call of Ceph's programs, which wait for ever otherwise.
const commandTimeout = 2 * time.Minute

// Up builds a cluster, and returns when its pool takes images. If it can't, or
// ctx ends, it takes down what it had built.
func Up(ctx context.Context, config Config) (_ *Cluster, err error) {
	if config, err = config.withDefaults(); err != nil {
		return nil, err
	}
	c := &Cluster{config: config, fsid: newUUID()}
	if c.monitor, err = freeAddress(); err != nil {
		return nil, fmt.Errorf("ceph: %w", err)
	}
	if c.made, err = emptyDir(config.Dir); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{c.startMonitor, c.startOSDs, c.awaitOSDs, c.createPool} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, c.Down())
		}
	}
	return c, nil
}

// emptyDir makes a directory, or finds that it is empty.
func emptyDir(dir string) (made bool, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return true, os.MkdirAll(dir, 0o700)
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("ceph: %s is not empty; give another directory", dir)
	}
	return false, err
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.config.Dir}, elem...)...)
}

func (c *Cluster) startMonitor(ctx context.Context) (err error) {
	if c.conf, err = c.writeConf(); err != nil {
		return fmt.Errorf("ceph: %w", err)
	}
	if _, err := c.run(ctx, "monmaptool", "--create", "--fsid", c.fsid, "--addv", "a", "[v2:"+c.monitor+"]", c.path("monmap")); err != nil {
		return err
	}
	if _, err := c.run(ctx, "ceph-mon", "--mkfs", "-i", "a", "--monmap", c.path("monmap")); err != nil {
		return err
	}
	return c.start("ceph-mon", "-i", "a")
}

func (c *Cluster) startOSDs(ctx context.Context) error {
	for i := range c.config.OSDs {
		id, uuid := strconv.Itoa(i), newUUID()
		if err := os.Mkdir(c.path("osd"+id), 0o700); err != nil {
			return fmt.Errorf("ceph: %w", err)
		}
		if _, err := c.run(ctx, "ceph", "osd", "new", uuid, id); err != nil {
			return err
		}
		if _, err := c.run(ctx, "ceph-osd", "--mkfs", "-i", id, "--osd-uuid", uuid); err != nil {
			return err
		}
		if err := c.start("ceph-osd", "-i", id); err != nil {
			return err
		}
	}
	return nil
}

// awaitOSDs waits until the monitor has heard from all OSDs, or a daemon has died.
func (c *Cluster) awaitOSDs(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.config.ReadyTimeout, fmt.Errorf("not all are up after %v", c.config.ReadyTimeout))
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := c.run(ctx, "ceph", "osd", "stat", "--format", "json")
		var stat struct {
			Up int `json:"num_up_osds"`
		}
		if err == nil {
			err = json.Unmarshal([]byte(out), &stat)
		}
		if err == nil && stat.Up == c.config.OSDs {
			return nil
		}
		if died := c.died(); died != nil {
			return died
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("ceph: OSDs: %w", context.Cause(ctx)), err)
		case <-tick.C:
		}
	}
}

func (c *Cluster) createPool(ctx context.Context) error {
	_, err := c.run(ctx, "ceph", "osd", "pool", "create", pool, "32", "32", "replicated")
	return err
}

// CreateImage makes an image of a size in bytes, a multiple of 1 MiB. Nothing is
// allocated before it is written.
func (c *Cluster) CreateImage(ctx context.Context, name string, size int64) error {
	_, err := c.run(ctx, "rbd", "create", name, "--pool", pool, "--size", strconv.FormatInt(size>>20, 10), "--image-feature", "layering")
	return err
}

// command prepares one of Ceph's programs, or one that uses its libraries.
func (c *Cluster) command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "CEPH_CONF="+c.conf)
	cmd.Dir = c.config.Dir
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run is output within commandTimeout.
func (c *Cluster) run(ctx context.Context, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	return c.output(ctx, argv...)
}

// output runs a program to its end, and returns what it printed.
func (c *Cluster) output(ctx context.Context, argv ...string) (string, error) {
	cmd := c.command(ctx, argv...)
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return "", errors.Join(fmt.Errorf("ceph: %s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(words.String())), c.died())
	}
	return string(out), nil
}

// Down ends all processes and removes all files. The OSDs go first, as they would
// wait for a monitor.
func (c *Cluster) Down() error {
	var errs []error
	for i := len(c.daemons) - 1; i >= 0; i-- {
		errs = append(errs, c.daemons[i].stop())
	}
	c.daemons = nil
	entries, err := os.ReadDir(c.config.Dir)
	errs = append(errs, err)
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(c.path(e.Name())))
	}
	if c.made {
		errs = append(errs, os.Remove(c.config.Dir))
	}
	return errors.Join(errs...)
}

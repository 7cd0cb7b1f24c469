package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/blockdev/disk"
)

// Cluster is a cluster on this machine, made by this process or another. Its
// methods may be called from any goroutine and any process: each reads the
// state from the directory and locks it while it changes something. An error
// of a method that names a node or place says which there are.
type Cluster struct {
	dir string
	mu  sync.Mutex // locks are per open file, and waiting for one takes a thread
}

// killPatience is how long a process may take to be gone after SIGKILL: it may
// have to finish system calls on a machine that is busy.
const killPatience = 30 * time.Second

// Up builds a cluster and returns when all its nodes are ready. If it can't, or
// ctx ends, it takes down what it had built, and the error ends with what the nodes said last.
func Up(ctx context.Context, config Config) (_ *Cluster, err error) {
	config, err = config.withDefaults()
	if err == nil {
		err = config.validate()
	}
	if err != nil {
		return nil, err
	}
	made, err := makeDir(config.Dir)
	if err != nil {
		return nil, err
	}
	prefix, err := drawPrefix()
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: config.Dir}
	err = c.change(func(*state) error {
		s := newState(config, prefix)
		s.MadeDir = made
		if err := s.save(); err != nil {
			return err
		}
		return s.build(ctx)
	})
	if err != nil {
		err = fmt.Errorf("%w%s", err, c.tails())
		return nil, errors.Join(err, c.Down())
	}
	return c, nil
}

// Open finds the cluster that Up built in dir. The error is fs.ErrNotExist when
// there is none.
func Open(dir string) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := load(dir); err != nil {
		return nil, err
	}
	return &Cluster{dir: dir}, nil
}

// makeDir makes an empty directory, or finds that it is one.
func makeDir(dir string) (made bool, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return false, fmt.Errorf("cluster: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, stateFile)); err == nil {
		return false, fmt.Errorf("cluster: there is one in %s; take it down first, or give another directory", dir)
	}
	if len(entries) > 0 {
		return false, fmt.Errorf("cluster: %s is not empty; give another directory", dir)
	}
	return false, nil
}

// drawPrefix finds one that nothing is named by.
func drawPrefix() (string, error) {
	for {
		var b [3]byte
		_, _ = rand.Read(b[:]) // never fails
		prefix := "bd" + hex.EncodeToString(b[:])
		taken, err := filepath.Glob(filepath.Join(namespacesDir, prefix+"-*"))
		if err != nil || len(taken) == 0 {
			return prefix, err
		}
	}
}

// change runs f on the state, nil while there is none, under the lock.
func (c *Cluster) change(f func(*state) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	unlock, err := lock(c.dir)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := load(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return f(s)
}

// update is change for a cluster that must be there.
func (c *Cluster) update(f func(*state) error) error {
	return c.change(func(s *state) error {
		if s == nil {
			return fmt.Errorf("cluster: the one in %s has been taken down", c.dir)
		}
		return f(s)
	})
}

// build makes all that s plans.
func (s *state) build(ctx context.Context) error {
	if err := s.makeNetwork(); err != nil {
		return err
	}
	for _, p := range s.nodes() {
		if err := errors.Join(ctx.Err(), s.makeDisks(p)); err != nil {
			return err
		}
	}
	if err := s.startNodes(ctx, s.nodes()); err != nil || s.Config.Standalone {
		return err
	}
	return s.form(ctx)
}

// makeDisks gives a node a file system with a data directory and disks.
func (s *state) makeDisks(p *Place) error {
	if err := os.MkdirAll(p.fs(), 0o700); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	// Its source is what Down knows it by.
	if !s.Config.OnDisk {
		if err := unix.Mount(p.Namespace, p.fs(), "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", s.fsSize())); err != nil {
			return fmt.Errorf("cluster: mount a tmpfs on %s: %w", p.fs(), err)
		}
	}
	return s.fillDisks(p)
}

// fillDisks puts an empty data directory and empty disks into a node's file system. On the file
// system of the cluster's directory what the disks will hold is reserved, as blockd does where it makes its own.
func (s *state) fillDisks(p *Place) error {
	if err := os.Mkdir(p.Data(), 0o700); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	for i := range s.Config.Disks {
		var err error
		if s.Config.OnDisk {
			_, err = disk.Create(p.disk(i), s.Config.DiskSize)
			if err == nil && s.Config.Written {
				err = writeAll(p.disk(i), s.Config.DiskSize)
			}
		} else {
			err = makeSparse(p.disk(i), s.Config.DiskSize)
		}
		if err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	return nil
}

// writeAll writes zeroes to all of a file, past the page cache.
func writeAll(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	zeroes := disk.NewAligned(4 << 20)
	for off := int64(0); off < size && err == nil; off += int64(len(zeroes)) {
		_, err = f.WriteAt(zeroes[:min(int64(len(zeroes)), size-off)], off)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// makeSparse makes a file that takes room as it fills.
func makeSparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// emptyDisks takes away what fillDisks made, and all that the node has kept there since.
func (s *state) emptyDisks(p *Place) error {
	err := os.RemoveAll(p.Data())
	for i := range s.Config.Disks {
		err = errors.Join(err, os.Remove(p.disk(i)))
	}
	return err
}

// fsSize is the size of a node's file system in bytes.
func (s *state) fsSize() int64 { return int64(s.Config.Disks)*s.Config.DiskSize + s.Config.SpareSize }

// Down takes everything down that Up and the other methods made, and ends every
// process in the cluster's namespaces, whoever started it there. It goes on after
// an error, and may be called again, also when nothing is left.
func (c *Cluster) Down() error {
	madeDir := false
	err := c.change(func(s *state) error {
		if s == nil {
			return nil
		}
		var errs []error
		errs = append(errs, s.endAll()...)
		for _, p := range s.nodes() {
			errs = append(errs, removePlace(p))
		}
		for _, p := range s.Places {
			errs = append(errs, deleteNamespace(p.Namespace))
		}
		errs = append(errs, deleteNamespace(s.namespace(switchName)))
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("cluster: not all of it could be taken down; %s stays, so that you can try again: %w", stateFile, err)
		}
		madeDir = s.MadeDir
		for _, name := range []string{carrierLog, bundleFile, stateFile} {
			if err := os.Remove(filepath.Join(c.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not even the directory is there
	}
	if err == nil && madeDir {
		err = os.Remove(c.dir)
	}
	return err
}

// endAll ends the cluster's processes.
func (s *state) endAll() (errs []error) {
	for _, p := range s.nodes() {
		errs = append(errs, p.Process.end(syscall.SIGKILL, killPatience))
	}
	errs = append(errs, s.Carrier.end(syscall.SIGKILL, killPatience))
	inside, err := s.processesInside()
	errs = append(errs, err)
	for _, p := range inside {
		errs = append(errs, p.end(syscall.SIGKILL, killPatience))
	}
	return errs
}

// processesInside finds the processes in the cluster's namespaces.
func (s *state) processesInside() ([]Process, error) {
	ours := map[uint64]bool{}
	for _, name := range append([]string{s.namespace(switchName)}, s.namespaceNames()...) {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(namespacesDir, name), &st); err == nil && isNamespace(name) {
			ours[st.Ino] = true
		}
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, dir := range dirs {
		var st unix.Stat_t
		if unix.Stat(dir+"/ns/net", &st) != nil || !ours[st.Ino] {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(dir, "/proc/%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		if p, err := identify(pid); err == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// isNamespace tells a namespace from the plain file that is left when its
// mount failed.
func isNamespace(name string) bool {
	var st unix.Statfs_t
	return unix.Statfs(filepath.Join(namespacesDir, name), &st) == nil && st.Type == unix.NSFS_MAGIC
}

func (s *state) namespaceNames() (names []string) {
	for _, p := range s.Places {
		names = append(names, p.Namespace)
	}
	return names
}

// removePlace unmounts a node's file system and removes its directory, which
// it leaves alone as long as anybody else has mounted something there.
func removePlace(p *Place) error {
	mounts, err := mountsBelow(p.Dir)
	if err != nil {
		return err
	}
	ours := mount{path: p.fs(), source: p.Namespace, kind: "tmpfs"}
	for _, m := range mounts {
		if m != ours {
			return fmt.Errorf("%s is mounted on %s, and is not the cluster's; unmount it", m.source, m.path)
		}
	}
	if len(mounts) > 0 {
		if err := unix.Unmount(p.fs(), 0); err != nil {
			return fmt.Errorf("unmount %s: %w; somebody uses it", p.fs(), err)
		}
	}
	return os.RemoveAll(p.Dir)
}

type mount struct{ path, source, kind string }

// mountsBelow lists what is mounted on dir and below it, the first first.
func mountsBelow(dir string) (out []mount, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		head, tail, ok := strings.Cut(line, " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(h) < 5 || len(t) < 2 {
			return nil, fmt.Errorf("/proc/self/mountinfo: %q is no line of proc(5)", line)
		}
		m := mount{path: unescape(h[4]), kind: t[0], source: unescape(t[1])}
		if m.path == dir || strings.HasPrefix(m.path, dir+"/") {
			out = append(out, m)
		}
	}
	return out, nil
}

// unescape undoes how the kernel writes paths into mountinfo.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

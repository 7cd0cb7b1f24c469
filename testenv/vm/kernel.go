package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
)

// kernel is an unpacked kernel package.
type kernel struct {
	image   string // the bzImage
	modules string // lib/modules/VERSION
	version string
}

func cacheDir() (string, error) {
	if dir := os.Getenv("BLOCKD_TESTENV_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("vm: no place to keep the guest's kernel: set BLOCKD_TESTENV_CACHE: %w", err)
	}
	return filepath.Join(dir, "blockd-testenv"), nil
}

// fetching is held by the one that fetches a kernel into whatever directory:
// apt-get update has a lock of the system's, and fails when somebody else has it.
var fetching sync.Mutex

// fetchKernel returns the kernel of the package, downloading and unpacking it
// when dir does not have it yet. A metapackage is followed to what it depends
// on; what was fetched once is kept and used from then on.
func fetchKernel(ctx context.Context, dir, pkg string) (kernel, error) {
	root := filepath.Join(dir, "kernel", pkg)
	if k, err := unpackedKernel(root); err == nil {
		return k, nil
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return kernel{}, fmt.Errorf("vm: %w", err)
	}
	fetching.Lock()
	defer fetching.Unlock()
	unlock, err := lockFile(filepath.Join(filepath.Dir(root), "lock"))
	if err != nil {
		return kernel{}, fmt.Errorf("vm: %w", err)
	}
	defer unlock()
	if k, err := unpackedKernel(root); err == nil { // somebody else fetched it
		return k, nil
	}
	tmp, err := os.MkdirTemp(filepath.Dir(root), "fetch-*")
	if err != nil {
		return kernel{}, fmt.Errorf("vm: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()

	if err := download(ctx, tmp, pkg); err != nil {
		if os.Geteuid() != 0 {
			return kernel{}, fmt.Errorf("%w; if the package lists are old, run: sudo apt-get update", err)
		}
		// A fresh machine has no package lists, an old one stale ones.
		if _, err := run(ctx, tmp, "apt-get", "update", "-q"); err != nil {
			return kernel{}, err
		}
		if err := download(ctx, tmp, pkg); err != nil {
			return kernel{}, err
		}
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return kernel{}, fmt.Errorf("vm: apt-get download %s left %d packages in %s, want one", pkg, len(debs), tmp)
	}
	tree := filepath.Join(tmp, "tree")
	if _, err := run(ctx, tmp, "dpkg-deb", "-x", debs[0], tree); err != nil {
		return kernel{}, err
	}
	k, err := unpackedKernel(tree)
	if err != nil {
		return kernel{}, fmt.Errorf("vm: %s does not look like a kernel package: %w", filepath.Base(debs[0]), err)
	}
	// Which module needs which others, for modprobe.
	if _, err := run(ctx, tmp, "depmod", "-b", tree, k.version); err != nil {
		return kernel{}, err
	}
	if err := os.Rename(tree, root); err != nil {
		// Another process may have been faster; then its copy is as good.
		if k, err := unpackedKernel(root); err == nil {
			return k, nil
		}
		return kernel{}, fmt.Errorf("vm: %w", err)
	}
	return unpackedKernel(root)
}

var dependsOnImage = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-\S+)`)

// lockFile waits until this process has the lock of that name to itself: two
// test programs that start together must not both run apt-get.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// download gets the newest version of pkg, or of the package that pkg is a
// metapackage for, into dir.
func download(ctx context.Context, dir, pkg string) error {
	out, err := run(ctx, dir, "apt-cache", "depends", "--no-recommends", pkg)
	if err != nil {
		return err
	}
	if m := dependsOnImage.FindSubmatch(out); m != nil {
		pkg = string(m[1])
	}
	_, err = run(ctx, dir, "apt-get", "download", "-q", pkg)
	return err
}

// unpackedKernel looks for a kernel in the unpacked package under root.
func unpackedKernel(root string) (kernel, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil {
		return kernel{}, err
	}
	if len(images) != 1 {
		return kernel{}, fmt.Errorf("%d files called vmlinuz-* in %s/boot, want one", len(images), root)
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	k := kernel{image: images[0], version: version}
	for _, lib := range []string{"usr/lib", "lib"} {
		k.modules = filepath.Join(root, lib, "modules", version)
		if _, err := os.Stat(k.modules); err == nil {
			return k, nil
		}
	}
	return kernel{}, fmt.Errorf("no modules for %s in %s", version, root)
}

// run executes a program and returns what it printed. The error holds its
// complaints.
func run(ctx context.Context, dir string, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+searchPath())
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("vm: %s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// searchPath is PATH with the directories of the system's own tools, which an
// ordinary user's PATH may lack.
func searchPath() string {
	return os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
}

package vm

import (
	"bufio"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed guest/init.sh
var guestInit []byte

//go:embed guest/host.sh
var guestHost []byte

// guestPrograms are copied from the host.
var guestPrograms = []string{
	"bash", "busybox", "kmod", "modprobe", "lsmod", "udevadm",
	"iscsid", "iscsiadm", "nvme", "multipath", "multipathd", "mpathpersist", "kpartx", "dmsetup",
	"fio",
	"mkfs.ext4", "e2fsck", "fsck.ext4", "resize2fs", "tune2fs", "dumpe2fs",
	"mkfs.xfs", "xfs_repair", "xfs_db", "xfs_io", "xfs_growfs",
	"mount", "umount", "findmnt", "lsblk", "blkid", "blkdiscard", "fstrim", "blockdev", "wipefs", "losetup", "flock",
	"timeout", "dd", "sha256sum", "cmp", "truncate", "stat", "grep", "sed",
}

// guestGlobs are copied where they exist: tools in numbers, plug-ins that are
// loaded by name, and udev's rules.
var guestGlobs = []string{
	"/usr/bin/sg_*", "/usr/bin/rescan-scsi-bus.sh", "/usr/bin/scsi_*",
	"/usr/lib/multipath/*.so", "/usr/lib/x86_64-linux-gnu/fio/*.so",
	"/usr/lib/udev/rules.d/*", "/usr/lib/udev/*_id",
	"/usr/lib/x86_64-linux-gnu/libgcc_s.so.1", // loaded when a thread is cancelled
	"/etc/mke2fs.conf", "/etc/iscsi/iscsid.conf",
}

// guestFiles are written by us.
var guestFiles = map[string]string{
	"/etc/passwd":        "root:x:0:0:root:/root:/bin/bash\n",
	"/etc/group":         "root:x:0:\ntty:x:5:\ndisk:x:6:\nlp:x:7:\nkmem:x:15:\ndialout:x:20:\ncdrom:x:24:\ntape:x:26:\naudio:x:29:\nvideo:x:44:\ninput:x:101:\nkvm:x:102:\nrender:x:103:\nsgx:x:104:\n",
	"/etc/hosts":         "10.0.2.2 target\n",
	"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	"/etc/os-release":    "ID=blockd-testenv\n",
}

// image returns the path of the guest's filesystem, made for the kernel and
// the programs as they are now. It is built when dir holds none that fits.
func image(ctx context.Context, dir string, k kernel) (string, error) {
	t, err := guestTree(ctx, k)
	if err != nil {
		return "", err
	}
	key, err := t.fingerprint(k)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "image-"+key[:16]+".cpio")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("vm: %w", err)
	}
	old, err := filepath.Glob(filepath.Join(dir, "image-*.cpio"))
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "new-*")
	if err != nil {
		return "", fmt.Errorf("vm: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := t.write(f); err != nil {
		_ = f.Close()
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("vm: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return "", fmt.Errorf("vm: %w", err)
	}
	for _, o := range old {
		if o == path {
			continue // another guest made it meanwhile
		}
		_ = os.Remove(o) // made for programs or a kernel that are gone
	}
	return path, nil
}

// guestTree lists what goes into the guest.
func guestTree(ctx context.Context, k kernel) (*tree, error) {
	t := newTree()
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		t.link("/"+link, "usr/"+link)
		t.dirs["/usr/"+link] = true
	}
	for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/mnt", "/var/lib/iscsi", "/var/lock", "/etc/iscsi", "/etc/nvme", "/etc/multipath", "/vm"} {
		t.dirs[d] = true
		t.parents(d)
	}
	t.link("/var/run", "/run")
	t.link("/etc/mtab", "/proc/self/mounts")
	for _, p := range guestPrograms {
		if err := t.program(p); err != nil {
			return nil, err
		}
	}
	for _, g := range guestGlobs {
		if err := t.glob(g); err != nil {
			return nil, err
		}
	}
	t.link("/usr/lib/systemd/systemd-udevd", "/usr/bin/udevadm")

	applets, err := run(ctx, "/", "busybox", "--list")
	if err != nil {
		return nil, err
	}
	busybox, err := t.where("busybox")
	if err != nil {
		return nil, err
	}
	for _, a := range strings.Fields(string(applets)) {
		// A full program under the same name wins, in whichever directory.
		if _, err := t.where(a); err != nil {
			t.link("/usr/bin/"+a, busybox)
		}
	}

	modules, err := moduleFiles(k)
	if err != nil {
		return nil, err
	}
	lists, err := filepath.Glob(filepath.Join(k.modules, "modules.*"))
	if err != nil {
		return nil, err
	}
	for _, l := range lists {
		modules = append(modules, filepath.Base(l))
	}
	for _, m := range modules {
		t.put(filepath.Join("/usr/lib/modules", k.version, m), filepath.Join(k.modules, m))
	}
	return t, nil
}

// where finds a program among those collected.
func (t *tree) where(name string) (string, error) {
	for _, d := range []string{"/usr/bin/", "/usr/sbin/"} {
		if t.files[d+name] != "" || t.links[d+name] != "" {
			return d + name, nil
		}
	}
	return "", fmt.Errorf("vm: no program %s in the guest", name)
}

// fingerprint changes whenever the image would.
func (t *tree) fingerprint(k kernel) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%q\n%q\n", k.version, guestInit, guestHost)
	for _, name := range slices.Sorted(maps.Keys(guestFiles)) {
		fmt.Fprintf(h, "%q %q\n", name, guestFiles[name])
	}
	for _, d := range slices.Sorted(maps.Keys(t.dirs)) {
		fmt.Fprintf(h, "dir %q\n", d)
	}
	for _, name := range slices.Sorted(maps.Keys(t.links)) {
		fmt.Fprintf(h, "link %q %q\n", name, t.links[name])
	}
	for _, name := range slices.Sorted(maps.Keys(t.files)) {
		info, err := os.Stat(t.files[name])
		if err != nil {
			return "", fmt.Errorf("vm: %w", err)
		}
		fmt.Fprintf(h, "file %q %d %d %o\n", name, info.Size(), info.ModTime().UnixNano(), info.Mode())
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// write writes the archive.
func (t *tree) write(to io.Writer) error {
	buffered := bufio.NewWriterSize(to, 1<<20)
	c := &cpioWriter{w: buffered}
	for _, d := range slices.Sorted(maps.Keys(t.dirs)) { // parents sort first
		c.dir(d[1:])
	}
	for _, name := range slices.Sorted(maps.Keys(t.links)) {
		c.symlink(name[1:], t.links[name])
	}
	// Before devtmpfs is mounted, init's own input and output.
	c.charDevice("dev/console", 0o600, 5, 1)
	c.charDevice("dev/null", 0o666, 1, 3)
	c.file("init", 0o755, guestInit)
	c.file("usr/bin/host", 0o755, guestHost)
	for _, name := range slices.Sorted(maps.Keys(guestFiles)) {
		c.file(name[1:], 0o644, []byte(guestFiles[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(t.files)) {
		content, err := os.ReadFile(t.files[name])
		if err != nil {
			return fmt.Errorf("vm: %w", err)
		}
		info, err := os.Stat(t.files[name])
		if err != nil {
			return fmt.Errorf("vm: %w", err)
		}
		c.file(name[1:], info.Mode(), content)
	}
	if err := c.close(); err != nil {
		return fmt.Errorf("vm: the guest's filesystem image: %w", err)
	}
	return buffered.Flush()
}

// writeInitrd writes what one run boots: the image, and after it the run's own
// script, environment and programs, in an archive that the kernel unpacks on top.
func writeInitrd(path, imagePath string, c Config) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("vm: %w", err)
	}
	defer func() {
		if closeErr := out.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("vm: %w", closeErr)
		}
	}()
	in, err := os.Open(imagePath)
	if err != nil {
		return fmt.Errorf("vm: %w", err)
	}
	defer func() { _ = in.Close() }()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("vm: %w", err)
	}
	script := c.Script
	if !strings.HasPrefix(script, "#!") {
		script = "#!/bin/bash\n" + script
	}
	w := &cpioWriter{w: out}
	w.file("vm/script", 0o755, []byte(script))
	w.file("vm/env", 0o644, []byte(environment(c)))
	for _, p := range c.Programs {
		content, err := os.ReadFile(p)
		if err != nil {
			return fmt.Errorf("vm: a program for the guest: %w", err)
		}
		w.file("usr/bin/"+filepath.Base(p), 0o755, content)
	}
	if err := w.close(); err != nil {
		return fmt.Errorf("vm: %s: %w", path, err)
	}
	return nil
}

// environment is shell text that exports what the script finds in its
// environment.
func environment(c Config) string {
	env := map[string]string{"TARGET_HOST": "10.0.2.2", "CARDS": fmt.Sprint(c.Cards)}
	maps.Copy(env, c.Env)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(env[name], "'", `'\''`))
	}
	return b.String()
}

package reservation

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var vol = VolumeID{0xab, 1}

func mustApply(t *testing.T, b Backend, line string) Result {
	t.Helper()
	res, err := b.Apply(context.Background(), vol, command(t, line))
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return res
}

func open(t *testing.T, dir string) *Local {
	t.Helper()
	l, err := OpenLocal(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func stateOf(t *testing.T, b Backend) string {
	t.Helper()
	v, err := b.Volume(vol)
	if err != nil {
		t.Fatal(err)
	}
	return describe(v.State())
}

// TestLocalKeepsWhatAPTPLSays: with APTPL a restart finds registrations and
// reservation, without it nothing.
func TestLocalKeepsWhatAPTPLSays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sub", "reservations")
	l := open(t, dir)
	mustApply(t, l, "A register new=1")
	mustApply(t, l, "A reserve key=1 type=we")
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Fatalf("without APTPL %d files were made", len(entries))
	}
	l = open(t, dir)
	if got := stateOf(t, l); got != "gen 0:" {
		t.Fatalf("after a restart without APTPL: %s", got)
	}

	mustApply(t, l, "A register new=1 aptpl")
	mustApply(t, l, "n host-register new=2")
	mustApply(t, l, "A reserve key=1 type=we")
	l = open(t, dir)
	if got := stateOf(t, l); got != "gen 0: A=1* n=2 (write exclusive) aptpl" {
		t.Fatalf("after a restart with APTPL: %s", got)
	}
	// It is in force at once, for the same initiator port that logs in again.
	v, err := l.Volume(vol)
	if err != nil {
		t.Fatal(err)
	}
	a, n := party("A"), party("n")
	if !v.Allows(&a, AccessWrite) || v.Allows(&n, AccessWrite) {
		t.Fatal("the reservation is not in force after a restart")
	}

	mustApply(t, l, "A register key=1 new=1 no-aptpl")
	l = open(t, dir)
	if got := stateOf(t, l); got != "gen 0:" {
		t.Fatalf("after APTPL was turned off: %s", got)
	}
}

var errDisk = errors.New("the disk said no")

// cutDisk stops working after a number of steps; with torn, the write it stops
// at leaves half a file.
type cutDisk struct {
	disk
	left int
	torn bool
}

func (d *cutDisk) step() error {
	if d.left--; d.left < 0 {
		return errDisk
	}
	return nil
}

func (d *cutDisk) WriteSynced(path string, b []byte) error {
	if err := d.step(); err != nil {
		if d.torn {
			_ = d.disk.WriteSynced(path, b[:len(b)/2])
		}
		return err
	}
	return d.disk.WriteSynced(path, b)
}

func (d *cutDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.disk.Rename(from, to)
}

func (d *cutDisk) Remove(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.disk.Remove(path)
}

func (d *cutDisk) SyncDir(dir string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.disk.SyncDir(dir)
}

// TestLocalCrashBetweenSteps stops a change at each of its steps, with whole
// and torn files: the command fails, nothing is published, and a restart
// finds the old or the new table, never a mixture.
func TestLocalCrashBetweenSteps(t *testing.T) {
	const before = "gen 0: A=1* B=2 (exclusive access) aptpl"
	for _, tc := range []struct{ line, after string }{
		{"B preempt-abort key=2 new=1 type=we", "gen 0: B=2* (write exclusive) aptpl"},
		{"B register key=2 new=2 no-aptpl", "gen 0:"},
	} {
		for steps := range 4 {
			for _, torn := range []bool{false, true} {
				dir := t.TempDir()
				l := open(t, dir)
				mustApply(t, l, "A register new=1 aptpl")
				mustApply(t, l, "B register new=2 aptpl")
				mustApply(t, l, "A reserve key=1 type=ea")
				v, err := l.Volume(vol)
				if err != nil {
					t.Fatal(err)
				}
				published := 0
				stop := v.Watch(func(*Change) { published++ })
				defer stop()
				old := v.State()

				l.disk = &cutDisk{disk: osDisk{}, left: steps, torn: torn}
				_, err = l.Apply(context.Background(), vol, command(t, tc.line))
				done := err == nil
				if !done && (!errors.Is(err, errDisk) || published != 0 || v.State() != old) {
					t.Fatalf("%s, %d steps: %v, published %d", tc.line, steps, err, published)
				}
				if steps == 3 && !done {
					t.Fatalf("%s takes more than 3 steps: %v", tc.line, err)
				}
				got := stateOf(t, open(t, dir))
				if got != tc.after && (done || got != before) {
					t.Fatalf("%s, %d steps, torn %v: a restart finds %s", tc.line, steps, torn, got)
				}
				if entries, _ := os.ReadDir(dir); len(entries) > 1 {
					t.Fatalf("%d files are left", len(entries))
				}
			}
		}
	}
}

// TestLocalAfterDiskErrors: an error before the file is replaced has no
// effect, and the next command works; one after it freezes the table, since
// nobody knows what a restart would find.
func TestLocalAfterDiskErrors(t *testing.T) {
	l := open(t, t.TempDir())
	l.disk = &cutDisk{disk: osDisk{}, left: 0}
	if _, err := l.Apply(context.Background(), vol, command(t, "A register new=1 aptpl")); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	l.disk = osDisk{}
	mustApply(t, l, "A register new=1 aptpl")

	l.disk = &cutDisk{disk: osDisk{}, left: 2}
	if _, err := l.Apply(context.Background(), vol, command(t, "A register key=1 new=2")); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	l.disk = osDisk{}
	_, err := l.Apply(context.Background(), vol, command(t, "A clear key=1"))
	if !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "frozen") {
		t.Fatalf("after a failed directory sync: %v", err)
	}
	if got := stateOf(t, l); got != "gen 1: A=1 aptpl" {
		t.Fatalf("published %s", got)
	}
}

// TestLocalRefusesDamage: a damaged table stops its volume, with words, and no
// other.
func TestLocalRefusesDamage(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	mustApply(t, l, "A register new=1 aptpl")
	path := l.path(vol)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "cut": b[:len(b)-1], "flipped": append([]byte{b[0] ^ 1}, b[1:]...), "huge": make([]byte, fileBytesMax+1),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir)
		_, err := l.Volume(vol)
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) && name != "huge" {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := l.Apply(context.Background(), vol, command(t, "A register new=1")); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%s: a command was taken: %v", name, err)
		}
		if _, err := l.Volume(VolumeID{9}); err != nil {
			t.Fatalf("%s: another volume: %v", name, err)
		}
	}
}

// syncLog records the folders that were synced.
type syncLog struct {
	disk
	dirs []string
}

func (d *syncLog) SyncDir(dir string) error {
	d.dirs = append(d.dirs, dir)
	return d.disk.SyncDir(dir)
}

// TestLocalFolderIsDurable: each folder that is made is synced into the one
// above it, and one that is there is left alone.
func TestLocalFolderIsDurable(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "a", "b")
	log := &syncLog{disk: osDisk{}}
	for range 2 {
		if err := makeDir(log, dir); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{root, filepath.Join(root, "a")}; !slices.Equal(log.dirs, want) {
		t.Fatalf("synced %q, want %q", log.dirs, want)
	}
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLocal(file); err == nil {
		t.Fatal("a file was taken for a folder")
	}
}

// TestLocalRemove: a deleted volume's table is gone, also for commands that
// were on their way.
func TestLocalRemove(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	mustApply(t, l, "A register new=1 aptpl")
	v, err := l.get(vol)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Remove(vol); err != nil {
			t.Fatal(err)
		}
	}
	if v.broken != errRemoved {
		t.Fatal("a late command could bring the file back")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Fatal("the file is still there")
	}
	if got := stateOf(t, l); got != "gen 0:" {
		t.Fatal(got)
	}
}

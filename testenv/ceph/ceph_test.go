package ceph

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stand puts scripts in the PATH instead of Ceph. Each call of one is a line of the
// file that it returns.
func stand(t *testing.T, scripts map[string]string) (calls string) {
	t.Helper()
	dir := t.TempDir()
	calls = filepath.Join(dir, "calls")
	for _, name := range []string{"monmaptool", "ceph-mon", "ceph-osd", "ceph", "rbd", "fio"} {
		script := "#!/bin/sh\necho " + name + " \"$@\" >>" + calls + "\n" + scripts[name] + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return calls
}

// untilTold makes a script a daemon when it is to stay in the foreground.
const untilTold = `case "$*" in *" -f") exec sleep 1000;; esac`

func called(t *testing.T, calls, line string) {
	t.Helper()
	b, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains("\n"+string(b), "\n"+line) {
		t.Errorf("%q was not called, but\n%s", line, b)
	}
}

// countUp tells how many OSDs have been started so far.
const countUp = `echo "{\"num_up_osds\":$(grep -c '^ceph-osd .* -f$' "$(dirname "$0")/calls")}"`

// TestUpAndDown starts every daemon, and leaves neither process nor file.
func TestUpAndDown(t *testing.T) {
	calls := stand(t, map[string]string{"ceph-mon": untilTold, "ceph-osd": untilTold, "ceph": countUp})
	dir := filepath.Join(t.TempDir(), "ceph")
	c, err := Up(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	pids := c.PIDs()
	if len(pids) != 4 {
		t.Errorf("%d daemons, want a monitor and 3 OSDs", len(pids))
	}
	conf, err := os.ReadFile(filepath.Join(dir, "ceph.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"osd pool default size = 3", "osd pool default min size = 2", "rbd cache = false", "bluestore block size = 4294967296"} {
		if !strings.Contains(string(conf), "\n"+line+"\n") {
			t.Errorf("ceph.conf lacks %q", line)
		}
	}
	if err := c.CreateImage(t.Context(), "bench", 512<<20); err != nil {
		t.Error(err)
	}
	called(t, calls, "rbd create bench --pool rbd --size 512")
	called(t, calls, "ceph-osd -i 2 -f")
	if err := c.Down(); err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("process %d after Down: %v", pid, err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s after Down: %v", dir, err)
	}
}

// TestDeadDaemon is told of with what it said, and nothing stays.
func TestDeadDaemon(t *testing.T) {
	stand(t, map[string]string{"ceph-mon": untilTold, "ceph-osd": `case "$*" in *" -f") echo the block is gone; exit 3;; esac`, "ceph": `echo '{"num_up_osds":0}'`})
	dir := filepath.Join(t.TempDir(), "ceph")
	_, err := Up(t.Context(), Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "the block is gone") {
		t.Errorf("Up says %v, not what the OSD said", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", dir, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	used := t.TempDir()
	if err := os.WriteFile(filepath.Join(used, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for words, config := range map[string]Config{
		"Dir is missing":     {},
		"1 OSDs":             {Dir: "x", OSDs: 1},
		"OSDs of 1MiB":       {Dir: "x", OSDSize: 1 << 20},
		"is not empty":       {Dir: used},
		"can't be written":   {Dir: "with a blank"},
		"give an empty dire": {OSDs: 3},
	} {
		if _, err := Up(t.Context(), config); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("Up of %+v says %v, not %q", config, err, words)
		}
	}
}

func TestMissingSaysHowToGetIt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := Missing(t.Context()); err == nil || !strings.Contains(err.Error(), "apt-get install --no-install-recommends "+Packages) {
		t.Errorf("%v", err)
	}
	stand(t, map[string]string{"fio": "echo libaio"})
	if err := Missing(t.Context()); err == nil || !strings.Contains(err.Error(), "rbd engine") {
		t.Errorf("of a fio without rbd: %v", err)
	}
	stand(t, map[string]string{"fio": "echo rbd"})
	if err := Missing(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFio(t *testing.T) {
	const out = `{"jobs":[{"error":0,"read":{"iops":0},"write":{"iops":563.5,"clat_ns":{"percentile":{"50.000000":1700000,"99.000000":5000000}}}}]}`
	calls := stand(t, map[string]string{"fio": "echo '" + out + "'"})
	c := &Cluster{config: Config{Dir: t.TempDir()}}
	s, err := c.Run(context.Background(), "bench", Load{Write: true, BlockBytes: 4096, Depth: 32, Warmup: time.Second, Runtime: 5 * time.Second})
	if want := (Sample{563.5, 1700 * time.Microsecond, 5 * time.Millisecond}); err != nil || s != want {
		t.Errorf("%+v, %v, want %+v", s, err, want)
	}
	called(t, calls, "fio --name=peer --ioengine=rbd --clientname=admin --pool=rbd --rbdname=bench --rw=randwrite --bs=4096 --iodepth=32"+
		" --output-format=json --time_based --ramp_time=1 --runtime=5")
	if _, err := c.Run(context.Background(), "bench", Load{BlockBytes: 4096, Depth: 1}); err == nil {
		t.Error("a fio that read nothing is no error")
	}
}

package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/faulty"
	"blockd.dev/blockdev/ram"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/target/reservation"
	"blockd.dev/tools/blockctl/cli"
)

// testConfig is a small node on free ports with data in dir.
func testConfig(dir string) Config {
	c := NewConfig()
	c.Data, c.API, c.ISCSI = dir, "127.0.0.1:0", []string{"127.0.0.1:0", "[::1]:0"}
	c.NVMe, c.Discovery = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}
	c.DiskSize, c.ArenaSize = diskSizeMin, arenaSizeMin
	return c
}

func start(t *testing.T, cfg Config) *Daemon {
	t.Helper()
	d, err := Start(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, d) })
	return d
}

func stop(t *testing.T, d *Daemon) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := d.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// ctl runs blockctl and returns what it prints.
func ctl(d *Daemon, args ...string) (string, error) {
	var out bytes.Buffer
	c := cli.New()
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetIn(strings.NewReader("from-standard-input\n"))
	c.SetArgs(append([]string{"--api", d.APIAddress()}, args...))
	err := c.Execute()
	return out.String(), err
}

func mustCtl(t *testing.T, d *Daemon, args ...string) string {
	t.Helper()
	out, err := ctl(d, args...)
	if err != nil {
		t.Fatalf("blockctl %s: %s", strings.Join(args, " "), cli.Explain(err))
	}
	return out
}

func refused(t *testing.T, d *Daemon, want string, args ...string) {
	t.Helper()
	out, err := ctl(d, args...)
	if err == nil || !strings.Contains(cli.Explain(err), want) {
		t.Errorf("blockctl %s: %v with %q, want %q", strings.Join(args, " "), err, out, want)
	}
}

func mustJSON[T any](t *testing.T, d *Daemon, args ...string) T {
	t.Helper()
	var v T
	out := mustCtl(t, d, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return v
}

func get(t *testing.T, d *Daemon, path string) (int, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get("http://" + d.APIAddress() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestEveryVerb(t *testing.T) {
	d := start(t, testConfig(t.TempDir()))

	v := mustJSON[map[string]any](t, d, "volume", "create", "db1", "--size", "10GiB")
	for _, key := range []string{"name", "id", "size_bytes", "block_size", "iqn", "lun", "nqn", "nsid", "uuid", "pool", "state"} {
		if _, ok := v[key]; !ok {
			t.Errorf("volume show lacks %s: %v", key, v)
		}
	}
	if v["size_bytes"] != float64(10<<30) || v["block_size"] != 512.0 || v["lun"] != 0.0 || v["nsid"] != 1.0 ||
		v["state"] != "online" || v["pool"] != "default" || len(v["id"].(string)) != 32 || len(v["uuid"].(string)) != 36 {
		t.Errorf("%v", v)
	}
	mustCtl(t, d, "volume", "create", "big", "--size", "1.5TiB", "--block-size", "4096")
	mustCtl(t, d, "pool", "create", "fast", "--media", "ram")
	mustCtl(t, d, "volume", "create", "tmp", "--size", "1048576", "--pool", "fast")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a-secret-of-web1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustCtl(t, d, "host", "add", "web1", "--iqn", "iqn.1993-08.org.debian:01:4b2f", "--chap-user", "web1", "--chap-secret-file", secret)
	mustCtl(t, d, "host", "set", "web1", "--mutual-chap-user", "target", "--mutual-chap-secret-file", "-")
	mustCtl(t, d, "host", "add", "web2", "--iqn", "iqn.1993-08.org.debian:01:77aa")
	mustCtl(t, d, "map", "db1", "web1")
	mustCtl(t, d, "map", "tmp", "any", "--lun", "7")
	mustCtl(t, d, "volume", "resize", "db1", "--size", "20GiB")
	if g, _ := d.volumes.get(d.catalog.State().Volume("db1").ID); g.dev.Geometry().SizeBytes != 20<<30 {
		t.Error("the device did not grow")
	}
	h, err := d.catalog.Unseal(d.catalog.State().Host("web1"))
	if err != nil {
		t.Fatal(err)
	}
	if h.Chap.Secret != "a-secret-of-web1" || h.Mutual.Secret != "from-standard-input" {
		t.Errorf("secrets are not those given: %q %q", h.Chap.Secret, h.Mutual.Secret)
	}

	for _, tc := range []struct{ args, want string }{
		{"volume list", `
NAME  STATE   SIZE    USED  BLOCK  LUN  POOL     MAPPED TO
big   online  1.5TiB  0B    4096   1    default  -
db1   online  20GiB   0B    512    0    default  web1:0
tmp   online  1MiB    0B    512    2    fast     any:7
`},
		{"pool show fast", `
NAME  MEDIA  REPLICAS  VOLUMES  PROVISIONED  USED  CAPACITY
fast  ram    1         1        1MiB         0B    -
`},
		{"host list", `
NAME  IQN                             NQN  CHAP    SESSIONS  VOLUMES
web1  iqn.1993-08.org.debian:01:4b2f  -    mutual  0         db1:0
web2  iqn.1993-08.org.debian:01:77aa  -    no      0         -
`},
		{"mapping list", `
VOLUME  HOST  LUN
db1     web1  0
tmp     any   7
`},
		{"session list", `
ID  PROTOCOL  INITIATOR  HOST  REMOTE  SINCE
`},
		{"unmap db1 web1", "\nvolume db1 unmapped from web1\n"},
		{"host delete web1 --yes", "\nhost web1 deleted\n"},
		{"volume delete big --yes", "\nvolume big deleted\n"},
	} {
		if got := "\n" + mustCtl(t, d, strings.Fields(tc.args)...); got != tc.want {
			t.Errorf("%s:%swant:%s", tc.args, got, tc.want)
		}
	}

	if y := mustCtl(t, d, "pool", "list", "-o", "yaml"); !strings.HasPrefix(y, "- name: default\n  id: ") {
		t.Errorf("yaml: %s", y)
	}
	nodes := mustJSON[[]map[string]any](t, d, "node", "list")
	if len(nodes) != 1 || nodes[0]["state"] != "ready" || len(nodes[0]["iscsi_portals"].([]any)) != 2 {
		t.Errorf("%v", nodes)
	}
	disks := mustJSON[[]map[string]any](t, d, "disk", "list")
	if len(disks) != 1 || disks[0]["state"] != "online" || disks[0]["capacity_bytes"].(float64) <= 0 {
		t.Errorf("%v", disks)
	}
	for _, f := range mustJSON[[]map[string]string](t, d, "doctor") {
		if f["level"] == "error" {
			t.Errorf("%v", f)
		}
	}
	audit := mustJSON[[]map[string]any](t, d, "audit")
	last := audit[len(audit)-2:] // the delete, and the end of it by the node itself
	if last[1]["revision"] != float64(len(audit)) || last[0]["action"] != "volume.delete" ||
		!strings.Contains(last[0]["actor"].(string), "@") || last[1]["actor"] != "blockd" {
		t.Errorf("%v", last)
	}
	events := mustCtl(t, d, "events")
	for _, kind := range []string{"node.ready", "volume.create", "host.set", "volume.delete"} {
		if !strings.Contains(events, kind) {
			t.Errorf("events lack %s", kind)
		}
	}
	if all := events + fmt.Sprint(audit); strings.Contains(all, "a-secret-of-web1") || strings.Contains(all, "from-standard-input") {
		t.Error("a secret is in events or audit")
	}

	refused(t, d, "no volume \"nope\"", "volume", "show", "nope")
	refused(t, d, "--yes", "volume", "delete", "db1")
	refused(t, d, "do not shrink", "volume", "resize", "db1", "--size", "1GiB")
	refused(t, d, "10GiB", "volume", "create", "x", "--size", "10GB")
	refused(t, d, "512 or 4096", "volume", "create", "x", "--size", "1GiB", "--block-size", "1024")
	refused(t, d, "exists already", "volume", "create", "db1", "--size", "1GiB")
	refused(t, d, "host add", "map", "db1", "nobody")
	refused(t, d, "--replicas 1", "pool", "create", "p", "--replicas", "3")
	refused(t, d, "give both", "host", "add", "x", "--iqn", "iqn.2020-01.x:x", "--chap-user", "u")
	refused(t, d, "not on this node", "volume", "create", "huge", "--size", "3PiB", "--pool", "fast")
	if code, body := get(t, d, "/readyz"); code != 503 {
		t.Errorf("/readyz with a failed volume: %d %s", code, body)
	}
	mustCtl(t, d, "volume", "delete", "huge", "--yes")
	refused(t, d, "want one of table, wide, json, yaml", "volume", "list", "-o", "xml")
	refused(t, d, "at least one of the flags", "host", "set", "web2")

	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ready", "/": "<title>blockd</title>",
		"/metrics": `blockd_volume_size_bytes{volume="db1"} 2.147483648e+10`} {
		if code, body := get(t, d, path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d without %q", path, code, want)
		}
	}
	if code, _ := get(t, d, "/nothing"); code != 404 {
		t.Errorf("/nothing: %d", code)
	}
}

func TestNoBlockdAnswers(t *testing.T) {
	c := cli.New()
	c.SetArgs([]string{"--api", "127.0.0.1:1", "volume", "list"})
	if err := c.Execute(); err == nil || !strings.Contains(cli.Explain(err), "no blockd answers at 127.0.0.1:1") {
		t.Fatal(cli.Explain(err))
	}
}

func TestCompletion(t *testing.T) {
	d := start(t, testConfig(t.TempDir()))
	mustCtl(t, d, "volume", "create", "db1", "--size", "1GiB")
	for args, want := range map[string]string{"volume show": "db1", "map db1": "any", "volume create x --block-size": "4096"} {
		if out := mustCtl(t, d, append(append([]string{"__complete"}, strings.Fields(args)...), "")...); !strings.Contains(out, want) {
			t.Errorf("%s: %s", args, out)
		}
	}
	if out := mustCtl(t, d, "completion", "bash"); !strings.Contains(out, "__start_blockctl") {
		t.Error("no bash completion")
	}
}

func volumeDevice(t *testing.T, d *Daemon, name string) *meter {
	t.Helper()
	v, ok := d.volumes.get(d.catalog.State().Volume(name).ID)
	if !ok || v.dev == nil {
		t.Fatalf("%s is not open: %v", name, v.err)
	}
	return v.dev
}

func TestRestartBringsEverythingBack(t *testing.T) {
	cfg := testConfig(t.TempDir())
	d := start(t, cfg)
	mustCtl(t, d, "volume", "create", "db1", "--size", "1GiB")
	mustCtl(t, d, "volume", "create", "old", "--size", "1GiB")
	mustCtl(t, d, "host", "add", "web1", "--iqn", "iqn.1993-08.org.debian:01:4b2f")
	mustCtl(t, d, "map", "db1", "web1", "--lun", "3")
	data := bytes.Repeat([]byte("persistent data."), 256)
	for _, name := range []string{"db1", "old"} {
		if err := blockdev.WriteAt(volumeDevice(t, d, name), data, 8192); err != nil {
			t.Fatal(err)
		}
	}
	mustCtl(t, d, "volume", "delete", "old", "--yes")
	mustCtl(t, d, "volume", "create", "old", "--size", "1GiB")
	before := mustCtl(t, d, "volume", "show", "db1") + mustCtl(t, d, "host", "show", "web1")
	iqn := d.catalog.State().IQN
	stop(t, d)

	d = start(t, cfg)
	if after := mustCtl(t, d, "volume", "show", "db1") + mustCtl(t, d, "host", "show", "web1"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if d.catalog.State().IQN != iqn {
		t.Error("the target's name changed")
	}
	got := make([]byte, len(data))
	if err := blockdev.ReadAt(volumeDevice(t, d, "db1"), got, 8192); err != nil || !bytes.Equal(got, data) {
		t.Errorf("data is not back: %v", err)
	}
	if err := blockdev.ReadAt(volumeDevice(t, d, "old"), got, 8192); err != nil || !bytes.Equal(got, make([]byte, len(data))) {
		t.Errorf("a new volume shows the data of a deleted one of its name: %v", err)
	}
	if sees := d.targetConfig(d.catalog.State()); len(sees.AnyView) != 0 || len(sees.Views["iqn.1993-08.org.debian:01:4b2f"]) != 1 {
		t.Errorf("views: %v %v", sees.AnyView, sees.Views)
	}
}

// sleeper is a node of which only the catalog is up.
type sleeper struct{ *Daemon }

func openCatalogOf(t *testing.T, cfg Config) sleeper {
	t.Helper()
	d := &Daemon{cfg: cfg, log: zap.NewNop(), events: newEventLog(zap.NewNop())}
	var err error
	if d.data, err = openDataDir(cfg.Data); err != nil {
		t.Fatal(err)
	}
	if err := d.openPlane(); err != nil {
		t.Fatal(err)
	}
	if err := d.catchUp(context.Background()); err != nil {
		t.Fatal(err)
	}
	return sleeper{d}
}

func (s sleeper) close(t *testing.T) {
	t.Helper()
	if err := errors.Join(s.closePlane(context.Background()), s.data.close()); err != nil {
		t.Fatal(err)
	}
}

func TestDeletionGoesOnAfterACrash(t *testing.T) {
	cfg := testConfig(t.TempDir())
	d := start(t, cfg)
	mustCtl(t, d, "volume", "create", "v", "--size", "1GiB")
	if err := blockdev.WriteAt(volumeDevice(t, d, "v"), make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	stop(t, d)
	// As if the process had been killed between the two commands of a delete.
	asleep := openCatalogOf(t, cfg)
	if _, err := asleep.catalog.Do(retire("v")); err != nil {
		t.Fatal(err)
	}
	asleep.close(t)
	d = start(t, cfg)
	if s := d.catalog.State(); len(s.Volumes) != 0 {
		t.Errorf("still there: %+v", s.Volumes)
	}
	if st := d.disks[0].store.Stats(); st.UsedBytes != 0 {
		t.Errorf("%d bytes are still used", st.UsedBytes)
	}
}

func TestOneDataDirectoryOneBlockd(t *testing.T) {
	cfg := testConfig(t.TempDir())
	start(t, cfg)
	if _, err := Start(cfg, zap.NewNop()); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by another blockd (process %d)", os.Getpid())) {
		t.Fatal(err)
	}
}

func TestTakenPortIsNamed(t *testing.T) {
	d := start(t, testConfig(t.TempDir()))
	cfg := testConfig(t.TempDir())
	cfg.ISCSI = d.ISCSIAddresses()[:1]
	if _, err := Start(cfg, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "--iscsi") || !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatal(err)
	}
}

func TestForeignDisksAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, []byte("somebody's file system"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, diskSizeMin); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(filepath.Join(dir, "data"))
	cfg.Disks = []string{path}
	if _, err := Start(cfg, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "wipefs") {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(b), "somebody's file system") {
		t.Fatal("the disk was written to")
	}
}

func TestANodeDrivesSeveralDisks(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(filepath.Join(dir, "data"))
	for _, name := range []string{"a", "b"} {
		path := filepath.Join(dir, name)
		if _, err := disk.Create(path, diskSizeMin); err != nil {
			t.Fatal(err)
		}
		cfg.Disks = append(cfg.Disks, path)
	}
	d := start(t, cfg)
	on := map[string]string{} // path to volume
	for _, name := range []string{"u", "v", "w"} {
		mustCtl(t, d, "volume", "create", name, "--size", "64MiB")
		if err := blockdev.WriteAt(volumeDevice(t, d, name), bytes.Repeat([]byte(name), 4096), 0); err != nil {
			t.Fatal(err)
		}
		on[d.diskOf(d.catalog.State().Volume(name)).path] = name
	}
	if len(on) != 2 {
		t.Fatalf("the volumes are all on one disk: %v", on)
	}
	stop(t, d)

	// One disk is gone: its volumes fail, the others are served.
	if err := os.Rename(cfg.Disks[0], cfg.Disks[0]+".away"); err != nil {
		t.Fatal(err)
	}
	d = start(t, cfg)
	if out := mustCtl(t, d, "disk", "list"); !strings.Contains(out, "failed") || !strings.Contains(out, "online") {
		t.Errorf("%s", out)
	}
	kept := on[cfg.Disks[1]]
	got := make([]byte, 4096)
	if err := blockdev.ReadAt(volumeDevice(t, d, kept), got, 0); err != nil || string(got[:1]) != kept {
		t.Errorf("volume %s on the other disk: %q, %v", kept, got[:1], err)
	}
	if state, why := d.volumeState(d.catalog.State().Volume(on[cfg.Disks[0]])); state != "failed" || why == "" {
		t.Errorf("a volume on the lost disk is %s: %s", state, why)
	}
	stop(t, d)

	// A blank one in its place is not taken for it.
	if _, err := disk.Create(cfg.Disks[0], diskSizeMin); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(cfg, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "is blank") {
		t.Error(err)
	}

	// It comes back.
	if err := os.Rename(cfg.Disks[0]+".away", cfg.Disks[0]); err != nil {
		t.Fatal(err)
	}
	d = start(t, cfg)
	for _, name := range []string{"u", "v", "w"} {
		if err := blockdev.ReadAt(volumeDevice(t, d, name), got, 0); err != nil || string(got[:1]) != name {
			t.Errorf("volume %s: %q, %v", name, got[:1], err)
		}
	}
}

func TestTheWrongDiskIsRefused(t *testing.T) {
	a, b := testConfig(t.TempDir()), testConfig(t.TempDir())
	for _, cfg := range []Config{a, b} {
		d := start(t, cfg)
		mustCtl(t, d, "volume", "create", "v", "--size", "1GiB")
		if err := blockdev.WriteAt(volumeDevice(t, d, "v"), make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
		stop(t, d)
	}
	mixed := a
	mixed.Disks = []string{filepath.Join(b.Data, "disk0")}
	if _, err := Start(mixed, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "has volumes on disk") {
		t.Error(err)
	}
	fresh := testConfig(t.TempDir())
	fresh.Disks = mixed.Disks
	if _, err := Start(fresh, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "knows nothing of") {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(a.Data, "disk0")); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(a, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "is not there") {
		t.Error(err)
	}
	ramToo := b
	ramToo.Media = catalog.MediaRAM
	if _, err := Start(ramToo, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "start with --media disk") {
		t.Error(err)
	}
}

func TestDevPrintsHowToGoOn(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Dev, cfg.Media = true, catalog.MediaRAM
	d := start(t, cfg)
	var b bytes.Buffer
	if err := d.PrintGuide(&b); err != nil {
		t.Fatal(err)
	}
	iqn, portal := d.catalog.State().IQN, d.ISCSIAddresses()[0]
	for _, want := range []string{
		"iscsiadm -m discovery -t sendtargets -p " + portal,
		"iscsiadm -m node -T " + iqn + " -p " + portal + " --login",
		"qemu-img info iscsi://" + portal + "/" + iqn + "/0",
		"bin/blockctl --api " + d.APIAddress() + " volume show vol0",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s lacks %s", b.String(), want)
		}
	}
	if v := mustJSON[map[string]any](t, d, "volume", "show", "vol0"); v["size_bytes"] != float64(1<<30) || v["state"] != "online" {
		t.Errorf("%v", v)
	}
	if sees := d.targetConfig(d.catalog.State()); len(sees.AnyView) != 1 {
		t.Errorf("%v", sees.AnyView)
	}
}

func TestRunStopsOnASignal(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Dev = true
	signals := make(chan os.Signal, 1)
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Run(cfg, in, zap.NewNop(), signals) }()
	var text []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(text, []byte("blockd ready\n")) {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, buf[:n]...)
	}
	began := time.Now()
	signals <- syscall.SIGTERM
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("it took %v", took)
	}
}

func TestRequestsAreIdempotent(t *testing.T) {
	d := start(t, testConfig(t.TempDir()))
	body := `{"requestId":"r1","name":"v","sizeBytes":"1073741824"}`
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	post := func(body string) (int, string) {
		r, err := c.Post("http://"+d.APIAddress()+"/blockd.v1.VolumeService/CreateVolume", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
	code1, first := post(body)
	code2, second := post(body)
	if code1 != 200 || code2 != 200 || first != second || len(d.catalog.State().Volumes) != 1 {
		t.Errorf("%d %s\n%d %s", code1, first, code2, second)
	}
	if code, text := post(`{"requestId":"r1","name":"w","sizeBytes":"1073741824"}`); code != 400 || !strings.Contains(text, "another request") {
		t.Errorf("%d %s", code, text)
	}
	// What is not a request is refused and changes nothing.
	for _, bad := range []string{"", "{", "[]", `{"name":1}`, `{"name":"x","sizeBytes":"-1"}`, `{"name":"x","sizeBytes":"9223372036854775807"}`,
		`{"name":"../../etc","sizeBytes":"1073741824"}`, `{"name":"x\u0000","sizeBytes":"1073741824"}`,
		`{"name":"` + strings.Repeat("x", 2<<20) + `"}`, `{"unknown":1}`} {
		if code, text := post(bad); code < 400 || code >= 500 {
			t.Errorf("%.40q: %d %s", bad, code, text)
		}
	}
	if n := len(d.catalog.State().Volumes); n != 1 {
		t.Errorf("%d volumes", n)
	}
}

func TestMeterCountsAndDoesNotAllocate(t *testing.T) {
	dev, err := ram.New(ram.Config{SizeBytes: 1 << 20, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	var failures []error
	m := newMeter(dev, func(err error) { failures = append(failures, err) })
	buf := make([]byte, 4096)
	r := &blockdev.Request{Op: blockdev.OpWrite, Length: 4096, Data: [][]byte{buf}, Done: func(*blockdev.Request) {}}
	batch := []*blockdev.Request{r}
	for range 16 {
		m.Submit(batch)
	}
	st := &m.ops[blockdev.OpWrite]
	if st.ops.Load() != 16 || st.bytes.Load() != 16*4096 || st.errors.Load() != 0 || st.timed.Load() != 2 {
		t.Errorf("%d ops, %d bytes, %d errors, %d timed", st.ops.Load(), st.bytes.Load(), st.errors.Load(), st.timed.Load())
	}
	if !raceEnabled {
		if n := testing.AllocsPerRun(1000, func() { m.Submit(batch) }); n >= 0.5 {
			t.Errorf("%v allocations per request", n)
		}
	}
	if err := blockdev.ReadAt(m, buf, 1<<20); !errors.Is(err, blockdev.ErrOutOfRange) || len(failures) != 0 {
		t.Errorf("%v, %v", err, failures)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.ReadAt(m, buf, 0); !errors.Is(err, blockdev.ErrGone) || len(failures) != 1 {
		t.Errorf("%v, %v", err, failures)
	}
	if m.ops[blockdev.OpRead].errors.Load() != 1 {
		t.Error("the failure is not counted")
	}
}

func BenchmarkMeter(b *testing.B) {
	dev, err := ram.New(ram.Config{SizeBytes: 1 << 20, BlockSize: 512})
	if err != nil {
		b.Fatal(err)
	}
	defer dev.Close()
	buf := make([]byte, 4096)
	r := &blockdev.Request{Op: blockdev.OpRead, Length: 4096, Data: [][]byte{buf}, Done: func(*blockdev.Request) {}}
	batch := []*blockdev.Request{r}
	for name, d := range map[string]blockdev.Device{"bare": dev, "metered": newMeter(dev, func(error) {})} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d.Submit(batch)
			}
		})
	}
}

// retire is the first half of a delete.
func retire(name string) *catalogpb.Command {
	return &catalogpb.Command{Version: catalog.CommandVersion, Kind: &catalogpb.Command_RetireVolume{
		RetireVolume: &catalogpb.RetireVolume{Name: name}}}
}

// TestAFailingDisk: the disk refuses writes from some moment on. Its volumes say
// so, others go on, and after a restart on a good disk what was acknowledged is
// there.
func TestAFailingDisk(t *testing.T) {
	rules := faulty.NewRules(1)
	cfg := testConfig(t.TempDir())
	cfg.wrapDisk = func(d disk.Disk) disk.Disk { return faulty.New(d, rules) }
	d, err := Start(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	mustCtl(t, d, "pool", "create", "mem", "--media", "ram")
	mustCtl(t, d, "volume", "create", "v", "--size", "1GiB")
	mustCtl(t, d, "volume", "create", "m", "--size", "1GiB", "--pool", "mem")
	data := bytes.Repeat([]byte("acknowledged...."), 256)
	if err := blockdev.WriteAt(volumeDevice(t, d, "v"), data, 0); err != nil {
		t.Fatal(err)
	}
	rule, err := faulty.Parse("write err=EIO")
	if err != nil {
		t.Fatal(err)
	}
	rules.Add(rule)
	if err := blockdev.WriteAt(volumeDevice(t, d, "v"), data, 4096); !errors.Is(err, blockdev.ErrIO) {
		t.Fatalf("write to a failing disk: %v", err)
	}
	if err := blockdev.WriteAt(volumeDevice(t, d, "m"), data, 0); err != nil {
		t.Fatalf("another volume: %v", err)
	}
	got := make([]byte, len(data))
	if err := blockdev.ReadAt(volumeDevice(t, d, "v"), got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read from a disk that can't be written: %v", err)
	}
	if v := mustJSON[map[string]any](t, d, "volume", "show", "v"); v["state"] != "failed" || !strings.Contains(v["reason"].(string), "disk0") {
		t.Errorf("%v", v)
	}
	if v := mustJSON[map[string]any](t, d, "volume", "show", "m"); v["state"] != "online" {
		t.Errorf("%v", v)
	}
	if v := mustJSON[[]map[string]any](t, d, "disk", "list"); v[0]["state"] != "failed" || v[0]["reason"] == "" {
		t.Errorf("%v", v)
	}
	refused(t, d, "something is broken", "doctor")
	if out := mustCtl(t, d, "events"); !strings.Contains(out, "disk.state") || !strings.Contains(out, "volume.io-error") {
		t.Errorf("%s", out)
	}
	if code, body := get(t, d, "/readyz"); code != 503 || !strings.HasPrefix(body, "degraded") {
		t.Errorf("%d %s", code, body)
	}
	if _, body := get(t, d, "/metrics"); !strings.Contains(body, `blockd_volume_up{volume="v"} 0`) ||
		!strings.Contains(body, `blockd_volume_up{volume="m"} 1`) || !strings.Contains(body, `driver="io_uring"} 0`) && !strings.Contains(body, `driver="pread"} 0`) {
		t.Error("metrics do not show it")
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := d.Stop(ctx); err == nil {
		t.Error("the stop says nothing of the failed disk")
	}

	cfg.wrapDisk = nil
	d = start(t, cfg)
	if err := blockdev.ReadAt(volumeDevice(t, d, "v"), got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("acknowledged data is lost: %v", err)
	}
}

func TestScrubFindsWhatTheDiskGotWrong(t *testing.T) {
	rules := faulty.NewRules(1)
	cfg := testConfig(t.TempDir())
	cfg.wrapDisk = func(d disk.Disk) disk.Disk { return faulty.New(d, rules) }
	d := start(t, cfg)
	mustCtl(t, d, "volume", "create", "v", "--size", "1GiB")
	if err := blockdev.WriteAt(volumeDevice(t, d, "v"), bytes.Repeat([]byte("x"), 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	d.scrubOnce(t.Context(), d.disks[0])
	if s := d.disks[0].scrub.get(); s.rounds != 1 || s.errors != 0 || s.bytes < 1<<20 {
		t.Fatalf("%+v", s)
	}
	rule, err := faulty.Parse("read flip")
	if err != nil {
		t.Fatal(err)
	}
	rules.Add(rule)
	d.scrubOnce(t.Context(), d.disks[0])
	rules.Clear()
	if s := d.disks[0].scrub.get(); s.errors == 0 || !strings.Contains(s.lastError, "volume v at byte") {
		t.Fatalf("%+v", s)
	}
	refused(t, d, "something is broken", "doctor")
}

func TestReservationsComeBack(t *testing.T) {
	cfg := testConfig(t.TempDir())
	d := start(t, cfg)
	mustCtl(t, d, "volume", "create", "v", "--size", "1GiB")
	id := reservation.VolumeID(d.catalog.State().Volume("v").ID)
	host := reservation.Identity{Protocol: reservation.ProtocolISCSI, Port: 1, Name: "iqn.1993-08.org.debian:x"}
	for _, c := range []*reservation.Command{
		{Op: reservation.OpRegister, From: host, NewKey: 7, Persist: reservation.PersistOn},
		{Op: reservation.OpReserve, From: host, Key: 7, Type: reservation.TypeWriteExclusive},
	} {
		if _, err := d.reservations.Apply(t.Context(), id, c); err != nil {
			t.Fatal(err)
		}
	}
	stop(t, d)
	d = start(t, cfg)
	v, err := d.reservations.Volume(id)
	if err != nil || !v.State().Holds(host) {
		t.Fatalf("%v: %+v", err, v)
	}
	mustCtl(t, d, "volume", "delete", "v", "--yes")
	if v, err = d.reservations.Volume(id); err != nil || len(v.State().Registrants) != 0 {
		t.Errorf("a deleted volume keeps its reservations: %v", err)
	}
}

func TestWithoutTheRoleTarget(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Roles = []string{"meta", "store"}
	d := start(t, cfg)
	mustCtl(t, d, "volume", "create", "v", "--size", "1GiB")
	if nodes := mustJSON[[]map[string]any](t, d, "node", "list"); len(nodes[0]["iscsi_portals"].([]any)) != 0 {
		t.Errorf("%v", nodes)
	}
	if out := mustCtl(t, d, "doctor"); !strings.Contains(out, "has not the role target") {
		t.Errorf("%s", out)
	}
	stop(t, d)
	cfg.Roles = []string{"meta", "target"} // and no disk
	d = start(t, cfg)
	if v := mustJSON[map[string]any](t, d, "volume", "show", "v"); v["state"] != "failed" || !strings.Contains(v["reason"].(string), "role store") {
		t.Errorf("%v", v)
	}
}

func TestFollowedEventsEndWithTheNode(t *testing.T) {
	d := start(t, testConfig(t.TempDir()))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	stream, err := blockdv1connect.NewEventServiceClient(client, "http://"+d.APIAddress()).WatchEvents(t.Context(), connect.NewRequest(&blockdv1.WatchEventsRequest{Follow: true}))
	if err != nil {
		t.Fatal(err)
	}
	next := func(kind string) {
		for stream.Receive() {
			if stream.Msg().GetEvent().GetKind() == kind {
				return
			}
		}
		t.Fatalf("waiting for %s: %v", kind, stream.Err())
	}
	next("node.ready")
	mustCtl(t, d, "volume", "create", "v", "--size", "1GiB")
	next("volume.create")
	stop(t, d)
	for stream.Receive() {
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
}

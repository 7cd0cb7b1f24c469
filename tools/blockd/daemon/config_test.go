package daemon

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFileThenVariables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blockd.toml")
	text := `
data = "/srv/blockd"
iscsi = ["10.0.0.1:3260", "[fd00::1]:3260"]
api = "127.0.0.1:1"
disk_size = "32GiB"
arena_size = 67108864
scrub_interval = "24h"
resync_latency = "1.5x"
rebuild_after = "1h"
discovery_auth = true
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := NewConfig()
	if err := c.LoadFile(path); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"BLOCKD_API": "127.0.0.1:2", "BLOCKD_DISKS": "/dev/sdb", "BLOCKD_LOG_LEVEL": "debug"}
	if err := c.LoadEnv(func(k string) (string, bool) { v, ok := env[k]; return v, ok }); err != nil {
		t.Fatal(err)
	}
	want := NewConfig()
	want.Data, want.ISCSI, want.API = "/srv/blockd", []string{"10.0.0.1:3260", "[fd00::1]:3260"}, "127.0.0.1:2"
	want.DiskSize, want.ArenaSize, want.ScrubInterval = 32<<30, 64<<20, 24*time.Hour
	want.ResyncLatency, want.RebuildAfter = 1.5, time.Hour
	want.DiscoveryAuth = true
	want.Disks, want.LogLevel = []string{"/dev/sdb"}, "debug"
	if !reflect.DeepEqual(c, want) {
		t.Fatalf("%+v\nwant %+v", c, want)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}

	// What is printed is a file that gives the same configuration.
	var b bytes.Buffer
	if err := c.Print(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	again := NewConfig()
	if err := again.LoadFile(path); err != nil || !reflect.DeepEqual(again, c) {
		t.Fatalf("%v: %+v from\n%s", err, again, b.String())
	}
}

func TestBadFilesAreRefusedWithTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"api = \"127.0.0.1:1\"\nisci = \"x\"\n": `line 2: there is no setting "isci"`,
		"api = \n":                              "line 1",
		"api = 3.5":                             "api: want a string",
		"data = [\"a\"]":                        "data: want one value",
		"iscsi = [1]":                           "list of strings",
		"disk_size = \"10GB\"":                  "10GiB",
		"scrub_interval = \"soon\"":             "scrub_interval",
	} {
		path := filepath.Join(t.TempDir(), "f.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := NewConfig()
		if err := c.LoadFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	c := NewConfig()
	if err := c.LoadFile("/nowhere/blockd.toml"); err == nil {
		t.Error("a missing file is taken")
	}
}

func TestValidateNamesTheSetting(t *testing.T) {
	for want, change := range map[string]func(*Config){
		`roles: "boss"`:        func(c *Config) { c.Roles = []string{"meta", "boss"} },
		"roles: meta":          func(c *Config) { c.Roles = []string{"target"} },
		"iscsi: give":          func(c *Config) { c.ISCSI = nil },
		"HOST:PORT":            func(c *Config) { c.API = "7480" },
		"port \"http\"":        func(c *Config) { c.API = "127.0.0.1:http" },
		"media: \"tape\"":      func(c *Config) { c.Media = "tape" },
		"disks: 65":            func(c *Config) { c.Disks = make([]string, disksMax+1) },
		"disks: one is given":  func(c *Config) { c.Disks = []string{"a", "b", "a"} },
		"disk_size":            func(c *Config) { c.DiskSize = 4097 },
		"disk_driver: \"aio\"": func(c *Config) { c.DiskDriver = "aio" },
		"arena_size":           func(c *Config) { c.ArenaSize = 1 },
		"scrub_rate":           func(c *Config) { c.ScrubRate = 10 },
		"scrub_interval":       func(c *Config) { c.ScrubInterval = time.Second },
		"resync_latency: 1x":   func(c *Config) { c.ResyncLatency = 1 },
		"resync_latency: NaNx": func(c *Config) { c.ResyncLatency = math.NaN() },
		"rebuild_after: 10ms":  func(c *Config) { c.RebuildAfter = 10 * time.Millisecond },
		"log_level: \"loud\"":  func(c *Config) { c.LogLevel = "loud" },
		"data: the directory":  func(c *Config) { c.Data = "" },
	} {
		c := NewConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	c := NewConfig()
	if err := c.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
}

func TestEverySettingIsInTheFile(t *testing.T) {
	have := map[string]bool{}
	ft := reflect.TypeFor[configFile]()
	for i := range ft.NumField() {
		have[ft.Field(i).Tag.Get("toml")] = true
	}
	for _, s := range Settings() {
		if !have[s.Key()] {
			t.Errorf("%s can't be set in a file", s.Key())
		}
		delete(have, s.Key())
	}
	if len(have) > 0 {
		t.Errorf("no settings: %v", have)
	}
}

package daemon

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"go.uber.org/zap/zapcore"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/store"
	"blockd.dev/internal/adaptive"
	"blockd.dev/internal/clock"
	"blockd.dev/internal/units"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/director"
	replicated "blockd.dev/replication/volume"
)

// Config is how blockd runs. NewConfig has the defaults; each field can be set
// by flag, BLOCKD_ variable and TOML file under the name in settings.
type Config struct {
	Dev           bool              // create and map vol0, and print how to attach it
	Data          string            // directory of catalog, reservations and disk files
	Roles         []string          // meta, store, target
	ISCSI         []string          // portal addresses, host:port
	NVMe          []string          // NVMe/TCP port addresses, host:port; empty: no NVMe
	Discovery     []string          // addresses that only the NVMe discovery controller answers on
	DiscoveryAuth bool              // NVMe hosts with a key must prove it for discovery too
	Wire          string            // address of the network between nodes; empty: the API's, port wirePort
	WireMode      string            // auto, udp, or one of AF_XDP's: see docs/NETWORK.md
	Poll          string            // how the network between nodes is waited for: adaptive, busy or interrupt
	API           string            // address of control API, metrics and status page
	Name          string            // of the node; empty: the machine's
	Labels        map[string]string // of the node when it joins a cluster: host, rack, zone and others
	Join          string            // token of the cluster to join; ignored once the node belongs to one
	Media         catalog.Media     // of the pool called default
	Disks         []string          // block devices or files, a store on each; empty means DATA/disk0
	DiskSize      int64             // bytes of DATA/disk0 when it is made; 0: see diskSizeDefault
	DiskDriver    string            // io_uring or pread; empty for the best
	ArenaSize     int64             // bytes of I/O buffers
	ScrubRate     int64             // bytes per second; 0 switches scrubbing off
	ScrubInterval time.Duration     // from the end of one scrub to the start of the next
	ResyncLatency float64           // what hosts' 99th percentile may be while copies are brought back, times what it is without
	RebuildAfter  time.Duration     // for how long a node or a disk may be away before other disks get its copies
	LogLevel      string            // debug, info, warn or error

	wrapDisk  func(disk.Disk) disk.Disk // tests only: goes between disk and store
	hostClock clock.Clock               // tests only: see scsi.Deps.Clock
	boot      store.Boot                // tests only: of the machine; zero: what the kernel says
	patience  time.Duration             // tests only: for how long another node may be silent, and a request wait; 0: as each part has it
}

// NewConfig returns the defaults.
func NewConfig() Config {
	return Config{
		Data:          "./data",
		Roles:         []string{"meta", "store", "target"},
		ISCSI:         []string{"127.0.0.1:3260"},
		NVMe:          []string{"127.0.0.1:4420"},
		Discovery:     []string{"127.0.0.1:8009"},
		WireMode:      "auto",
		Poll:          "adaptive",
		API:           "127.0.0.1:7480",
		Media:         catalog.MediaDisk,
		ArenaSize:     256 << 20,
		ScrubRate:     32 << 20,
		ScrubInterval: 7 * 24 * time.Hour,
		ResyncLatency: replicated.DefaultPaceFactor,
		RebuildAfter:  director.RebuildAfter,
		LogLevel:      "info",
	}
}

// Setting is one thing that can be configured.
type Setting struct {
	// Name is the flag (--disk-size), with '_' for '-' the key in the file
	// (disk_size), and in capitals the variable (BLOCKD_DISK_SIZE).
	Name  string
	Usage string
	Get   func(*Config) string
	Set   func(*Config, string) error
	list  bool
}

// List reports whether the flag may be given several times: the values are joined by commas.
func (s *Setting) List() bool { return s.list }

// Key is the name in the configuration file.
func (s *Setting) Key() string { return strings.ReplaceAll(s.Name, "-", "_") }

// Variable is the name in the environment.
func (s *Setting) Variable() string { return "BLOCKD_" + strings.ToUpper(s.Key()) }

func splitList(v string) []string {
	var out []string
	for _, e := range strings.Split(v, ",") {
		if e = strings.TrimSpace(e); e != "" {
			out = append(out, e)
		}
	}
	return out
}

func textSetting(name, usage string, at func(*Config) *string) Setting {
	return Setting{Name: name, Usage: usage, Get: func(c *Config) string { return *at(c) },
		Set: func(c *Config, v string) error { *at(c) = v; return nil }}
}

func listSetting(name, usage string, at func(*Config) *[]string) Setting {
	return Setting{Name: name, Usage: usage, Get: func(c *Config) string { return strings.Join(*at(c), ",") },
		Set: func(c *Config, v string) error { *at(c) = splitList(v); return nil }, list: true}
}

func sizeSetting(name, usage string, at func(*Config) *int64) Setting {
	return Setting{Name: name, Usage: usage, Get: func(c *Config) string { return units.FormatBytes(*at(c)) },
		Set: func(c *Config, v string) (err error) { *at(c), err = units.ParseBytes(v); return err }}
}

// Settings lists what can be configured, in the order of help and printing.
func Settings() []Setting {
	return []Setting{
		textSetting("data", "directory for catalog, reservations and disk files", func(c *Config) *string { return &c.Data }),
		listSetting("roles", "what this node does: meta, store, target", func(c *Config) *[]string { return &c.Roles }),
		listSetting("iscsi", "addresses of the iSCSI portals", func(c *Config) *[]string { return &c.ISCSI }),
		listSetting("nvme", "addresses of the NVMe/TCP ports; empty: none", func(c *Config) *[]string { return &c.NVMe }),
		listSetting("discovery", "addresses of the NVMe discovery controller; the NVMe/TCP ports answer for it too", func(c *Config) *[]string { return &c.Discovery }),
		{Name: "discovery-auth", Usage: "whether NVMe hosts that have a key must prove it to the discovery controller too: true or false",
			Get: func(c *Config) string { return strconv.FormatBool(c.DiscoveryAuth) },
			Set: func(c *Config, v string) (err error) { c.DiscoveryAuth, err = strconv.ParseBool(v); return err }},
		textSetting("wire", fmt.Sprintf("address of the network between nodes, for data; empty: the host of api, port %d", wirePort), func(c *Config) *string { return &c.Wire }),
		textSetting("wire-mode", "how packets between nodes travel: auto, xdp-zerocopy, xdp-copy, xdp-generic or udp", func(c *Config) *string { return &c.WireMode }),
		textSetting("poll", "how the network between nodes is waited for: adaptive, busy or interrupt", func(c *Config) *string { return &c.Poll }),
		textSetting("api", "address of control API, metrics and status page", func(c *Config) *string { return &c.API }),
		textSetting("name", "name of this node in its cluster; empty: the machine's", func(c *Config) *string { return &c.Name }),
		{Name: "label", Usage: "labels of this node when it makes or joins a cluster, such as rack=r1,zone=z1", list: true,
			Get: func(c *Config) string { return formatLabels(c.Labels) },
			Set: func(c *Config, v string) (err error) { c.Labels, err = parseLabels(v); return err }},
		textSetting("join", "token of the cluster to join (blockctl node token); ignored once this node belongs to one", func(c *Config) *string { return &c.Join }),
		{Name: "media", Usage: "where the default pool keeps data: disk or ram (gone at the end)",
			Get: func(c *Config) string { return string(c.Media) },
			Set: func(c *Config, v string) error { c.Media = catalog.Media(v); return nil }},
		listSetting("disks", "block devices or files for extents, each a disk of its own; empty: DATA/disk0, made at the first start", func(c *Config) *[]string { return &c.Disks }),
		sizeSetting("disk-size", "size of DATA/disk0 when it is made; 0: 16GiB, or a quarter of the free space if that is less", func(c *Config) *int64 { return &c.DiskSize }),
		textSetting("disk-driver", "io_uring or pread; empty: the best that the kernel allows", func(c *Config) *string { return &c.DiskDriver }),
		sizeSetting("arena-size", "memory for I/O buffers", func(c *Config) *int64 { return &c.ArenaSize }),
		sizeSetting("scrub-rate", "bytes per second that the scrub reads; 0: no scrub", func(c *Config) *int64 { return &c.ScrubRate }),
		{Name: "scrub-interval", Usage: "time between two scrubs, such as 168h",
			Get: func(c *Config) string { return c.ScrubInterval.String() },
			Set: func(c *Config, v string) (err error) { c.ScrubInterval, err = time.ParseDuration(v); return err }},
		{Name: "resync-latency", Usage: "what hosts may wait by the 99th percentile while copies are brought back, times what they wait without, such as 2x",
			Get: func(c *Config) string { return strconv.FormatFloat(c.ResyncLatency, 'f', -1, 64) + "x" },
			Set: func(c *Config, v string) (err error) {
				c.ResyncLatency, err = strconv.ParseFloat(strings.TrimSuffix(v, "x"), 64)
				return err
			}},
		{Name: "rebuild-after", Usage: "for how long a node or a disk may be away before other disks get its copies, such as 10m; the same on all nodes",
			Get: func(c *Config) string { return c.RebuildAfter.String() },
			Set: func(c *Config, v string) (err error) { c.RebuildAfter, err = time.ParseDuration(v); return err }},
		textSetting("log-level", "debug, info, warn or error", func(c *Config) *string { return &c.LogLevel }),
	}
}

// LoadFile applies a TOML file. A key that is not a setting is refused with
// its line.
func (c *Config) LoadFile(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	var f configFile
	d := toml.NewDecoder(strings.NewReader(string(b))).DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) && len(strict.Errors) > 0 {
			row, _ := strict.Errors[0].Position()
			return fmt.Errorf("configuration: %s line %d: there is no setting %q; `blockd config` prints those there are", path, row, strings.Join(strict.Errors[0].Key(), "."))
		}
		var de *toml.DecodeError
		if errors.As(err, &de) {
			row, col := de.Position()
			return fmt.Errorf("configuration: %s line %d, column %d: %w", path, row, col, err)
		}
		return fmt.Errorf("configuration: %s: %w", path, err)
	}
	for _, s := range Settings() {
		v, err := f.value(s.Key(), s.list)
		if err == nil && v != nil {
			err = s.Set(c, *v)
		}
		if err != nil {
			return fmt.Errorf("configuration: %s: %s: %w", path, s.Key(), err)
		}
	}
	return nil
}

// configFile has a field per setting, so that the decoder knows which keys
// there are; the values take the way that flags and variables take.
type configFile struct {
	Data          any `toml:"data"`
	Roles         any `toml:"roles"`
	ISCSI         any `toml:"iscsi"`
	NVMe          any `toml:"nvme"`
	Discovery     any `toml:"discovery"`
	DiscoveryAuth any `toml:"discovery_auth"`
	Wire          any `toml:"wire"`
	WireMode      any `toml:"wire_mode"`
	Poll          any `toml:"poll"`
	API           any `toml:"api"`
	Name          any `toml:"name"`
	Label         any `toml:"label"`
	Join          any `toml:"join"`
	Media         any `toml:"media"`
	Disks         any `toml:"disks"`
	DiskSize      any `toml:"disk_size"`
	DiskDriver    any `toml:"disk_driver"`
	ArenaSize     any `toml:"arena_size"`
	ScrubRate     any `toml:"scrub_rate"`
	ScrubInterval any `toml:"scrub_interval"`
	ResyncLatency any `toml:"resync_latency"`
	RebuildAfter  any `toml:"rebuild_after"`
	LogLevel      any `toml:"log_level"`
}

func (f *configFile) value(key string, list bool) (*string, error) {
	v := map[string]any{
		"data": f.Data, "roles": f.Roles, "iscsi": f.ISCSI, "nvme": f.NVMe, "discovery": f.Discovery, "discovery_auth": f.DiscoveryAuth, "wire": f.Wire, "wire_mode": f.WireMode, "poll": f.Poll, "api": f.API, "name": f.Name, "label": f.Label, "join": f.Join, "media": f.Media, "disks": f.Disks,
		"disk_size": f.DiskSize, "disk_driver": f.DiskDriver, "arena_size": f.ArenaSize, "scrub_rate": f.ScrubRate,
		"scrub_interval": f.ScrubInterval, "resync_latency": f.ResyncLatency, "rebuild_after": f.RebuildAfter, "log_level": f.LogLevel,
	}[key]
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return &v, nil
	case bool:
		text := strconv.FormatBool(v)
		return &text, nil
	case int64:
		text := strconv.FormatInt(v, 10)
		return &text, nil
	case []any:
		if !list {
			return nil, errors.New("want one value, not a list")
		}
		var parts []string
		for _, e := range v {
			text, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("want a list of strings, and it holds %v", e)
			}
			parts = append(parts, text)
		}
		text := strings.Join(parts, ",")
		return &text, nil
	}
	return nil, fmt.Errorf("want a string, and it is %v", v)
}

// LoadEnv applies BLOCKD_ variables from lookup (os.LookupEnv).
func (c *Config) LoadEnv(lookup func(string) (string, bool)) error {
	for _, s := range Settings() {
		if v, ok := lookup(s.Variable()); ok {
			if err := s.Set(c, v); err != nil {
				return fmt.Errorf("configuration: %s: %w", s.Variable(), err)
			}
		}
	}
	return nil
}

// Print writes the settings as a file that LoadFile takes.
func (c *Config) Print(w io.Writer) error {
	for _, s := range Settings() {
		v := strconv.Quote(s.Get(c))
		if s.list {
			var parts []string
			for _, e := range splitList(s.Get(c)) {
				parts = append(parts, strconv.Quote(e))
			}
			v = "[" + strings.Join(parts, ", ") + "]"
		}
		if _, err := fmt.Fprintf(w, "%-14s = %-32s # %s\n", s.Key(), v, s.Usage); err != nil {
			return err
		}
	}
	return nil
}

// has reports whether the node plays a role.
func (c *Config) has(role string) bool { return slices.Contains(c.Roles, role) }

// Validate reports the first setting that can't be, and what it should be.
func (c *Config) Validate() error {
	if err := c.validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}

func (c *Config) validate() error {
	for _, r := range c.Roles {
		if !slices.Contains([]string{"meta", "store", "target"}, r) {
			return fmt.Errorf("roles: %q is none of meta, store, target", r)
		}
	}
	for _, a := range slices.Concat(c.ISCSI, c.NVMe, c.Discovery, []string{c.API}) {
		if err := checkAddress(a); err != nil {
			return err
		}
	}
	if c.Wire != "" {
		if err := checkAddress(c.Wire); err != nil {
			return fmt.Errorf("wire: %w", err)
		}
	}
	if _, err := adaptive.ParseMode(c.Poll); err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	switch {
	case c.Data == "":
		return errors.New("data: the directory is missing")
	case !slices.Contains(wireModes, c.WireMode):
		return fmt.Errorf("wire_mode: %q is none of %s", c.WireMode, strings.Join(wireModes, ", "))
	case !c.has("meta"):
		return errors.New("roles: meta is missing: every node has a copy of the catalog")
	case len(c.NVMe) == 0 && len(c.Discovery) > 0:
		return errors.New("discovery: it tells of NVMe/TCP ports, and there are none: set nvme, or leave discovery empty")
	case c.has("target") && len(c.ISCSI) == 0:
		return errors.New("iscsi: give at least one address, or leave target out of roles")
	case c.Media != catalog.MediaDisk && c.Media != catalog.MediaRAM:
		return fmt.Errorf("media: %q is neither disk nor ram", c.Media)
	case len(c.Disks) > disksMax:
		return fmt.Errorf("disks: %d are given; a node drives at most %d", len(c.Disks), disksMax)
	case len(slices.Compact(slices.Sorted(slices.Values(c.Disks)))) < len(c.Disks):
		return errors.New("disks: one is given twice")
	case c.DiskSize != 0 && (c.DiskSize < diskSizeMin || c.DiskSize%4096 != 0):
		return fmt.Errorf("disk_size: %d bytes: want a multiple of 4096 and at least %s", c.DiskSize, units.FormatBytes(diskSizeMin))
	case !slices.Contains([]string{"", "io_uring", "pread"}, c.DiskDriver):
		return fmt.Errorf("disk_driver: %q is neither io_uring nor pread", c.DiskDriver)
	case c.ArenaSize < arenaSizeMin:
		return fmt.Errorf("arena_size: %s: want at least %s", units.FormatBytes(c.ArenaSize), units.FormatBytes(arenaSizeMin))
	case c.ScrubRate != 0 && c.ScrubRate < 1<<20:
		return fmt.Errorf("scrub_rate: %d bytes per second: want at least 1MiB, or 0 for none", c.ScrubRate)
	case c.ScrubInterval < time.Minute:
		return fmt.Errorf("scrub_interval: %v: want at least 1m", c.ScrubInterval)
	case !(c.ResyncLatency >= resyncLatencyMin && c.ResyncLatency <= resyncLatencyMax): // nor is it NaN
		return fmt.Errorf("resync_latency: %gx: want from %gx to %gx", c.ResyncLatency, resyncLatencyMin, float64(resyncLatencyMax))
	case c.RebuildAfter < time.Second:
		return fmt.Errorf("rebuild_after: %v: want at least 1s, and several times what a restart takes", c.RebuildAfter)
	}
	if _, err := zapcore.ParseLevel(c.LogLevel); err != nil || !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		return fmt.Errorf("log_level: %q is none of debug, info, warn, error", c.LogLevel)
	}
	return nil
}

// parseLabels reads KEY=VALUE,KEY=VALUE.
func parseLabels(text string) (map[string]string, error) {
	var labels map[string]string
	for _, e := range splitList(text) {
		k, v, ok := strings.Cut(e, "=")
		if !ok || k == "" || v == "" {
			return nil, fmt.Errorf("%q: want KEY=VALUE, such as rack=r1", e)
		}
		if labels == nil {
			labels = map[string]string{}
		}
		labels[k] = v
	}
	return labels, nil
}

func formatLabels(labels map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	return strings.Join(out, ",")
}

func checkAddress(a string) error {
	_, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("address %q: want HOST:PORT, with IPv6 addresses in brackets", a)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return fmt.Errorf("address %q: port %q is not a number below 65536", a, port)
	}
	return nil
}

const (
	// diskSizeMin holds superblocks, a log and some extents.
	diskSizeMin = 256 << 20
	// disksMax is more than a machine has slots for.
	disksMax = 64
	// diskSizeDefault is for trying out; who keeps data names a disk.
	diskSizeDefault = 16 << 30
	// arenaSizeMin serves a few hosts with small transfers.
	arenaSizeMin = 32 << 20
	// With less than resyncLatencyMin what happens without resync as well would slow it for ever;
	// resyncLatencyMax is no limit any more.
	resyncLatencyMin, resyncLatencyMax = 1.2, 100
)

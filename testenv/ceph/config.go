package ceph

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"blockd.dev/internal/units"
)

// Packages are those of Debian that have all that is needed.
const Packages = "ceph-mon ceph-osd ceph-common fio"

// Config says what to build. The zero value of each field means its default,
// except for Dir.
type Config struct {
	// Dir is where all of it is kept, on the file system to measure. It must be
	// missing or empty. Required.
	Dir string
	// OSDs is also the number of copies of each object; writes need one fewer. Default 3.
	OSDs int
	// OSDSize is the size of each OSD's file, in bytes, which is reserved. Default 4 GiB.
	OSDSize int64
	// ReadyTimeout bounds the wait for the OSDs. Default 60 s.
	ReadyTimeout time.Duration
}

func (c Config) withDefaults() (Config, error) {
	c.OSDs = cmp.Or(c.OSDs, 3)
	c.OSDSize = cmp.Or(c.OSDSize, 4<<30)
	c.ReadyTimeout = cmp.Or(c.ReadyTimeout, time.Minute)
	var err error
	switch {
	case c.Dir == "":
		err = errors.New("ceph: Dir is missing; give an empty directory")
	case c.OSDs < 2 || c.OSDs > 16:
		err = fmt.Errorf("ceph: %d OSDs: want 2 to 16", c.OSDs)
	case c.OSDSize < 1<<30:
		err = fmt.Errorf("ceph: OSDs of %s: want at least 1GiB", units.FormatBytes(c.OSDSize))
	default:
		c.Dir, err = filepath.Abs(c.Dir)
	}
	if err == nil && strings.ContainsAny(c.Dir, " \t\n;#$\"") {
		err = fmt.Errorf("ceph: %q can't be written into ceph.conf; give a directory without blanks and signs", c.Dir)
	}
	return c, err
}

// Missing says what of Ceph and fio is not installed; it is nil when Up and Run
// have all that they need.
func Missing(ctx context.Context) error {
	for _, name := range []string{"ceph-mon", "ceph-osd", "monmaptool", "ceph", "rbd", "fio"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("Ceph is not installed (there is no %s): apt-get install --no-install-recommends %s", name, Packages) //nolint:staticcheck // a name begins so
		}
	}
	out, err := exec.CommandContext(ctx, "fio", "--enghelp").Output()
	if err != nil {
		return fmt.Errorf("fio --enghelp: %w", err)
	}
	if !bytes.Contains(out, []byte("rbd")) {
		return errors.New("fio was built without its rbd engine; install Debian's package fio")
	}
	return nil
}

// Version is what the installed Ceph calls itself.
func Version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "ceph-osd", "--version").Output()
	fields := strings.Fields(string(out)) // ceph version 16.2.15 (...) pacific (stable)
	if err != nil || len(fields) < 3 {
		return "", fmt.Errorf("ceph-osd --version printed %q: %w", out, err)
	}
	return fields[2], nil
}

// conf is the cluster's ceph.conf.
var conf = template.Must(template.New("ceph.conf").Parse(`[global]
fsid = {{.FSID}}
mon host = v2:{{.Monitor}}
public addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
run dir = {{.Dir}}
admin socket = {{.Dir}}/$name.sock
log file = {{.Dir}}/$name.log
log to stderr = false
crash dir = {{.Dir}}
osd pool default size = {{.OSDs}}
osd pool default min size = {{.MinSize}}
osd pool default pg autoscale mode = off
# All OSDs are on this host.
osd crush chooseleaf type = 0
# How full the machine's file system is concerns nobody here.
mon data avail crit = 1

[mon]
mon data = {{.Dir}}/mon

[osd]
osd data = {{.Dir}}/osd$id
osd objectstore = bluestore
bluestore block size = {{.OSDSize}}
bluestore block preallocate file = true

[client]
rbd cache = false
`))

// writeConf writes ceph.conf, and returns its path.
func (c *Cluster) writeConf() (string, error) {
	var b bytes.Buffer
	err := conf.Execute(&b, struct {
		Config
		FSID, Monitor string
		MinSize       int
	}{c.config, c.fsid, c.monitor, c.config.OSDs - 1})
	path := filepath.Join(c.config.Dir, "ceph.conf")
	return path, errors.Join(err, os.WriteFile(path, b.Bytes(), 0o600))
}

// freeAddress is one of the loopback where nobody listens now.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

package structure

import (
	"go/build"
	"os/exec"
	"strings"
	"testing"
)

// arrow forbids imports. From, Except and Never are folders of this module
// (they cover what is below them), or, in Never, import paths of other code.
type arrow struct {
	from   string   // "" is the whole module
	except []string // packages below from that may
	never  []string
	why    string
}

// arrows is the shape of the tree:
//
//	tools -> {target, replication, raftmeta} -> {blockdev, afxdp} -> bpf
//	everyone -> internal
//	testenv -> everything
//
// It is checked on direct imports, which suffices: a forbidden path would
// have a forbidden first step. Test files may go further down than their
// package, never up.
var arrows = []arrow{
	{"", []string{"tools", "testenv"}, []string{"tools"},
		"programs do the wiring; what two of them share belongs in a package that is not a program"},
	{"tools", []string{"tools/testenv", "tools/blockbench"}, []string{"testenv", "bpf/fault"},
		"the daemon and its CLI must not carry test code"},
	{"", []string{"testenv", "tools"}, []string{"testenv"},
		"testenv may know everything, so nothing may know testenv"},
	{"target", nil, []string{"replication", "raftmeta", "afxdp", "bpf"},
		"target knows only blockdev.Device and cannot tell what is behind it; pass what it needs as an interface"},
	{"target", nil, []string{"blockdev/store", "blockdev/localvol", "blockdev/disk", "blockdev/uring"},
		"target serves any blockdev.Device; which one is the daemon's choice"},
	{"target/scsi", nil, []string{"target/iscsi"},
		"the command set does not know its transport; the transport calls it"},
	{"target/reservation", nil, []string{"target/iscsi", "target/scsi", "target/nvme", "target/nvmetcp"},
		"both protocols share one reservation table, so it speaks neither"},
	{"target/access", nil, []string{"blockdev", "target/iscsi", "target/scsi", "target/nvme", "target/nvmetcp"},
		"both protocols translate one access state, so it speaks neither"},
	{"target/auth", nil, []string{"target/iscsi", "target/scsi", "target/nvme", "target/nvmetcp"},
		"both protocols share the secrets and the algorithms"},
	{"target/iscsi/pdu", nil, []string{"net", "target/scsi", "blockdev", "time"},
		"a codec turns bytes into values and back; it holds no socket, clock or device"},
	{"target/iscsi", nil, []string{"target/nvme", "target/nvmetcp"},
		"the two frontends meet only in what both use"},
	{"target/sockio", nil, []string{"blockdev", "target/iscsi", "target/scsi"},
		"it moves bytes and knows no protocol"},
	{"target/pool", nil, []string{"blockdev", "target/iscsi", "target/scsi", "target/nvme", "target/nvmetcp"},
		"it keeps structs and knows nothing of what is in them"},
	{"replication", nil, []string{"target", "raftmeta"},
		"a volume is served by target and placed by raftmeta; both look down on it"},
	{"replication/wire", []string{"replication/wire/endpoint", "replication/wire/secure"}, []string{"net", "crypto/tls"},
		"the connection is a state machine: its owner has the sockets, and secure the handshake"},
	{"replication/replica", nil, []string{"net", "internal/clock", "replication/volume", "replication/wire", "replication/sim", "blockdev"},
		"a state machine that knows no time: its store, its network and its owner are injected"},
	{"replication/volume", nil, []string{"net", "replication/wire", "replication/sim", "blockdev"},
		"a state machine: time, network and Meta are injected"},
	{"tools", nil, []string{"replication/sim"},
		"the simulation is for tests"},
	{"replication/wire/packet", nil, []string{"replication/wire/recovery", "internal/clock"},
		"a codec turns bytes into values and back; it decides nothing and knows no time of day"},
	{"raftmeta", nil, []string{"target", "blockdev/store", "blockdev/localvol", "blockdev/disk", "blockdev/uring"},
		"the catalog decides where things are; it touches no data"},
	{"raftmeta/group", nil, []string{"raftmeta/catalog", "raftmeta/api"},
		"the group replicates any state machine; which one is for who opens it"},
	{"raftmeta/pki", nil, []string{"raftmeta/group", "raftmeta/catalog", "raftmeta/api"},
		"certificates, tokens and keys are values that the others use"},
	{"raftmeta/lease", nil, []string{"raftmeta/group", "raftmeta/catalog", "raftmeta/api", "net"},
		"who may serve is decided by values and readings that are passed in"},
	{"raftmeta/extmap", nil, []string{"raftmeta/group", "raftmeta/catalog", "raftmeta/api", "net", "time", "internal/clock"},
		"the map is a deterministic value: it knows no time and no network"},
	{"raftmeta/placement", nil, []string{"raftmeta/group", "raftmeta/catalog", "raftmeta/api", "net", "time", "internal/clock"},
		"a plan follows from the map and the disks alone"},
	{"raftmeta/membership", nil, []string{"raftmeta/group", "raftmeta/catalog", "raftmeta/api", "net"},
		"who is alive is decided from heartbeats and readings that are passed in"},
	{"blockdev", nil, []string{"target", "replication", "raftmeta", "afxdp"},
		"storage is below everything that serves or places it"},
	{"blockdev/store", nil, []string{"blockdev/uring"},
		"the store writes to a disk.Disk; which driver is behind it is chosen by blockdev/disk"},
	{"blockdev/store", nil, []string{"blockdev/localvol"},
		"a local volume is built of the store's extents, not the other way"},
	{"afxdp", nil, []string{"target", "replication", "raftmeta", "blockdev/store", "blockdev/localvol", "blockdev/disk"},
		"afxdp knows nothing of storage"},
	{"afxdp/queue", nil, []string{"afxdp/socket", "afxdp/nic", "afxdp/neigh", "bpf"},
		"who has which frame is decided without a system call, so that it can be tested against a simulated kernel"},
	{"afxdp/packet", nil, []string{"net", "time", "afxdp/socket", "afxdp/nic", "afxdp/neigh", "bpf"},
		"a codec turns bytes into values and back"},
	{"bpf", nil, []string{"target", "replication", "raftmeta", "blockdev", "afxdp"},
		"the programs and their loader are the bottom"},
	{"internal", nil, []string{"target", "replication", "raftmeta", "blockdev", "afxdp", "bpf"},
		"internal is vocabulary that everyone may use, so it uses no one"},
}

// stdlibOnly lists packages that nothing but the standard library and
// internal may be imported by.
var stdlibOnly = map[string]string{
	"blockdev":            "whoever implements a Device should need nothing else",
	"internal/invariants": "assertions are used at the very bottom",
	"internal/adaptive":   "it decides and owns nothing to poll or sleep on",
	"target/iscsi/pdu":    "a codec needs only bytes",
}

// TestDependencyArrows checks every import of the tree against arrows.
func TestDependencyArrows(t *testing.T) {
	for _, f := range readTree(t) {
		for _, imported := range f.imports() {
			for i := range arrows {
				if arrows[i].forbids(f, imported) {
					t.Errorf("%s imports %s: %s", f.path, imported, arrows[i].why)
				}
			}
			if why, ok := stdlibOnly[f.dir]; ok && !f.isTest() && !isStdlib(imported) && !strings.HasPrefix(imported, module+"/internal/") {
				t.Errorf("%s imports %s, but only the standard library is allowed there: %s", f.path, imported, why)
			}
		}
	}
}

func (a *arrow) forbids(f *sourceFile, imported string) bool {
	if a.from != "" && !within(f.dir, a.from) {
		return false
	}
	for _, e := range a.except {
		if within(f.dir, e) {
			return false
		}
	}
	local, isLocal := strings.CutPrefix(imported, module+"/")
	for _, n := range a.never {
		switch {
		case isLocal && within(local, n):
			// Tests may use what is below them, such as a RAM device or a
			// simulated disk; up is up for tests too.
			if f.isTest() && within(n, "blockdev") {
				continue
			}
			return true
		case !isLocal && imported == n && isStdlib(n):
			return !f.isTest()
		}
	}
	return false
}

func isStdlib(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".") && first != "C"
}

// TestArrowsCatchAWrongImport proves that the test above can fail.
func TestArrowsCatchAWrongImport(t *testing.T) {
	cases := []struct {
		file, imported string
		forbidden      bool
	}{
		{"target/scsi/x.go", module + "/blockdev/store", true},
		{"target/scsi/x.go", module + "/blockdev/arena", false},
		{"target/scsi/x_test.go", module + "/blockdev/store", false},
		{"target/scsi/x_test.go", module + "/target/iscsi", true},
		{"target/iscsi/pdu/x.go", "net", true},
		{"target/iscsi/pdu/x_test.go", "net", false},
		{"target/iscsi/x.go", "net", false},
		{"blockdev/ram/x.go", module + "/tools/blockd/daemon", true},
		{"tools/blockd/main.go", module + "/tools/blockd/daemon", false},
		{"tools/blockd/main.go", module + "/testenv/vm", true},
		{"tools/testenv/main.go", module + "/testenv/vm", false},
		{"blockdev/storefront/x.go", module + "/blockdev/uring", false},
	}
	for _, c := range cases {
		f := &sourceFile{path: c.file, dir: c.file[:strings.LastIndex(c.file, "/")]}
		forbidden := false
		for i := range arrows {
			forbidden = forbidden || arrows[i].forbids(f, c.imported)
		}
		if forbidden != c.forbidden {
			t.Errorf("%s importing %s: forbidden = %v, want %v", c.file, c.imported, forbidden, c.forbidden)
		}
	}
}

// TestNoCgo checks that no package that the programs are linked from needs a
// C compiler: the binaries must stay static and build on a bare machine.
func TestNoCgo(t *testing.T) {
	for _, f := range readTree(t) {
		for _, imported := range f.imports() {
			if imported == "C" {
				t.Errorf("%s imports \"C\"; use golang.org/x/sys/unix and raw system calls", f.path)
			}
		}
	}
	cmd := exec.Command("go", "list", "-e", "-deps", "-f", "{{if and (not .Standard) .CgoFiles}}{{.ImportPath}}{{end}}", "./tools/...")
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	if s := strings.TrimSpace(string(out)); s != "" {
		t.Errorf("linked into the programs, but needs cgo:\n%s", s)
	}
	if build.Default.Compiler != "gc" {
		t.Errorf("built with %s; the programs are built with gc", build.Default.Compiler)
	}
}

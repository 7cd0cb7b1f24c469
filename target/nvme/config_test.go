package nvme

import (
	"context"
	"errors"
	"strings"
	"testing"

	"blockd.dev/blockdev/ram"
	"blockd.dev/target/reservation"
)

// Validate names what is wrong, and a refused configuration changes nothing.
func TestConfigIsChecked(t *testing.T) {
	b := newBed(t)
	port := Port{ID: 1, Family: IPv4, Addr: "127.0.0.1", Service: "4420"}
	for want, change := range map[string]func(*Config){
		"is no NQN":               func(c *Config) { c.NQN = "iqn.x" },
		"control character":       func(c *Config) { c.NQN = "nqn.x\n" },
		"cannot change":           func(c *Config) { c.NQN += "x" },
		"serial number":           func(c *Config) { c.Serial = strings.Repeat("x", 21) },
		"model":                   func(c *Config) { c.Model = "\x7f" },
		"firmware revision":       func(c *Config) { c.Firmware = "123456789" },
		"configured twice":        func(c *Config) { c.Namespaces = append(c.Namespaces, c.Namespaces[0]) },
		"no device":               func(c *Config) { c.Namespaces = []NamespaceConfig{{ID: bedVolume}} },
		"which is not configured": func(c *Config) { c.AnyView = View{1: {9}} },
		"NSID 0 of":               func(c *Config) { c.AnyView = View{0: bedVolume} },
		"NSID 16385 of host":      func(c *Config) { c.Views = map[string]View{"host": {NSIDMax + 1: bedVolume}} },
		"ANA group 0":             func(c *Config) { c.ANAGroups = []ANAGroup{{}} },
		"unknown state 0x5":       func(c *Config) { c.ANAGroups = []ANAGroup{{ID: 1, Ports: map[uint16]ANAState{1: 5}}} },
		"MaxIOQueues is -1":       func(c *Config) { c.MaxIOQueues = -1 },
		"MaxQueueEntries":         func(c *Config) { c.MaxQueueEntries = 65536 },
		"controller ids 5 to 4":   func(c *Config) { c.ControllerIDMin, c.ControllerIDMax = 5, 4 },
		"port 1: address \"\"":    func(c *Config) { p := port; p.Addr = ""; c.Ports = []Port{p} },
		"family 7":                func(c *Config) { p := port; p.Family = 7; c.Referrals = []Port{p} },
	} {
		cfg := b.cfg
		change(&cfg)
		if err := b.sub.Configure(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
	b.host.want(Success, rw(OpRead, 0, 1, 0), nil, bedBlock)
	if _, err := NewSubsystem(b.cfg, Deps{}); err == nil {
		t.Error("a subsystem without an arena was made")
	}
}

// noTables is a backend that can't read its tables.
type noTables struct{ reservation.Memory }

var errNoTable = errors.New("table is damaged")

func (*noTables) Volume(reservation.VolumeID) (*reservation.Volume, error) { return nil, errNoTable }

// A volume whose reservations can't be read is not served: hosts may be fenced
// from it.
func TestDamagedReservationsAreNotServed(t *testing.T) {
	b := newBed(t)
	_, err := NewSubsystem(b.cfg, Deps{Arena: b.arena, Reservations: &noTables{}})
	if !errors.Is(err, errNoTable) {
		t.Errorf("got %v", err)
	}
}

// noApply is a backend that can't reach the other nodes.
type noApply struct{ reservation.Memory }

func (*noApply) Apply(context.Context, reservation.VolumeID, *reservation.Command) (reservation.Result, error) {
	return reservation.Result{}, errors.New("no quorum")
}

func TestReservationBackendFailureMayPass(t *testing.T) {
	b := newBed(t, func(_ *Config, d *Deps) { d.Reservations = &noApply{} })
	b.host.want(CommandInterrupted, register(0, 0), keys(0, 1), 0)
}

// A volume of 4096-byte blocks counts in them everywhere.
func TestBlocksOf4096(t *testing.T) {
	b := newBed(t, func(c *Config, _ *Deps) {
		d, err := ram.New(ram.Config{SizeBytes: 4 << 20, BlockSize: 4096})
		if err != nil {
			t.Fatal(err)
		}
		c.Namespaces[0].Device = d
	})
	h := b.host
	p := h.identify(cnsNamespace, 1)
	if p[130] != 12 || le.Uint64(p) != 1024 {
		t.Errorf("LBADS %d, NSZE %d", p[130], le.Uint64(p))
	}
	h.want(Success, rw(OpWrite, 1023, 1, 0), fill(4096, 3), 0)
	h.want(LBAOutOfRange|DNR, rw(OpWrite, 1023, 2, 0), fill(8192, 3), 0)
	h.want(Success, rw(OpCompare, 1023, 1, 0), fill(4096, 3), 0)
	h.want(Success, rw(OpRead, 0, 256, 0), nil, MaxTransferBytes)
	h.want(InvalidField|DNR, rw(OpRead, 0, 257, 0), nil, MaxTransferBytes+4096)
	x := b.start(h.io, fuse(rw(OpCompare, 0, fusedMaxBlocks, 0), fuseFirst), make([]byte, fusedMaxBlocks*4096), 0)
	y := b.start(h.io, fuse(rw(OpWrite, 0, fusedMaxBlocks, 0), fuseSecond), fill(fusedMaxBlocks*4096, 1), 0)
	if s1, s2 := x.wait().status, y.wait().status; s1 != Success || s2 != Success {
		t.Errorf("fused pair of ACWU: %v, %v", s1, s2)
	}
}

// The values that a host sets read back, for the features that only keep one.
func TestFeatureValuesAreKept(t *testing.T) {
	b := newBed(t, func(c *Config, d *Deps) {
		c.Namespaces[0].WriteCache = true
		d.Protect = (&protectStore{}).set
	})
	h := b.host
	for _, c := range []struct {
		id        uint8
		set, get  uint32 // Dword 11
		def, want uint64
	}{
		{featArbitration, 3, 0, 0, 3},
		{featPower, 0, 0, 0, 0},
		{featTemperature, 300, 0, 0xffff, 300},
		{featTemperature, 1<<20 | 200, 1 << 20, 0, 200},
		{featWriteAtomicity, 1, 0, 0, 1},
		{featWriteCache, 0, 0, 1, 0},
		{featCommandSet, 0, 0, 0, 0},
		{featReservationMask, 0xff, 0, 0, reservationMaskBits},
		{featWriteProtect, 1, 0, 0, 1},
	} {
		if r := h.wantAdmin(Success, sqe(OpGetFeatures, 1, uint32(c.id), c.get), nil, 0); r.result != c.def {
			t.Errorf("feature %#x is %#x at first, want %#x", c.id, r.result, c.def)
		}
		nsid := uint32(0)
		if featureTable[c.id].namespace {
			nsid = 1
		}
		h.wantAdmin(Success, sqe(OpSetFeatures, nsid, uint32(c.id), c.set), nil, 0)
		if r := h.wantAdmin(Success, sqe(OpGetFeatures, 1, uint32(c.id), c.get), nil, 0); r.result != c.want {
			t.Errorf("feature %#x is %#x, want %#x", c.id, r.result, c.want)
		}
		if r := h.wantAdmin(Success, sqe(OpGetFeatures, 1, uint32(c.id)|selectDefault<<8, c.get), nil, 0); r.result != c.def {
			t.Errorf("default of feature %#x is %#x, want %#x", c.id, r.result, c.def)
		}
	}
	h.wantAdmin(InvalidField|DNR, sqe(OpSetFeatures, 0, uint32(featPower), 1), nil, 0)
	h.wantAdmin(InvalidField|DNR, sqe(OpSetFeatures, 0, uint32(featTemperature), 2<<16), nil, 0)
	h.wantAdmin(InvalidField|DNR, sqe(OpGetFeatures, 0, uint32(featTemperature), 2<<20), nil, 0)
}

// Write protection that can't be kept is not claimed.
func TestWriteProtectThatCannotBeKept(t *testing.T) {
	store := &protectStore{fail: errors.New("disk full")}
	b := newBed(t, func(_ *Config, d *Deps) { d.Protect = store.set })
	b.host.wantAdmin(InternalError, sqe(OpSetFeatures, 1, uint32(featWriteProtect), 1), nil, 0)
	b.host.want(Success, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
}

func TestStatusText(t *testing.T) {
	s := InvalidField | DNR
	if s.String() != "SCT 0 SC 02 DNR" || s.Retryable() || s.Code() != InvalidField || CompareFailure.String() != "SCT 2 SC 85" {
		t.Errorf("%v, %v", s, CompareFailure)
	}
}

package daemon

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/target/access"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/tools/blockbench/iscsihost"
)

const testHostNQN = "nqn.2026-01.dev.blockd:host"

// hosts is one host of each protocol, connected to the same volume.
type hosts struct {
	t      *testing.T
	scsi   *iscsihost.Session
	nvme   *nvmehost.Host
	ns     *nvmehost.Namespace
	events chan nvmehost.AsyncEvent
}

// attach makes volume v, maps it to any host and connects both.
func attach(t *testing.T, d *Daemon) *hosts {
	t.Helper()
	if d.catalog.State().Volume("v") == nil {
		mustCtl(t, d, "volume", "create", "v", "--size", "1GiB")
		mustCtl(t, d, "map", "v", "any")
	}
	s := d.catalog.State()
	h := &hosts{t: t, events: make(chan nvmehost.AsyncEvent, 64)}
	var err error
	if h.scsi, err = iscsihost.Dial(t.Context(), iscsihost.Config{Address: d.ISCSIAddresses()[0], Target: s.IQN}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.scsi.Close() }) // the node may be gone before
	h.nvme, err = nvmehost.Dial(nvmehost.Config{Addr: d.nvme.ports[0].Addr().String(), SubNQN: s.NQN, HostNQN: testHostNQN,
		HostID: [16]byte{1}, Event: func(e nvmehost.AsyncEvent) { h.events <- e }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.nvme.Close)
	h.nvme.WatchEvents()
	if h.ns, err = h.nvme.Namespace(1); err != nil {
		t.Fatal(err)
	}
	return h
}

// told fails unless the NVMe host gets an event of that information and log
// page, and the iSCSI host a unit attention with that code.
func (h *hosts) told(info, page uint8, asc uint16) {
	h.t.Helper()
	until(h.t, fmt.Sprintf("an event with information %#x, log page %#x", info, page), func() bool {
		for {
			select {
			case e := <-h.events:
				if e.Type == 2 && e.Info == info && e.Log == page { // a change of group is one of the namespace too
					return true
				}
			default:
				return false
			}
		}
	})
	if r, err := h.scsi.Command(make([]byte, 6), nil, false); err != nil || r.Sense.Key != 6 || r.Sense.ASC != asc {
		h.t.Fatalf("TEST UNIT READY: %+v, %v; want the unit attention %04x", r, err, asc)
	}
}

// try writes a block by each protocol.
func (h *hosts) try() (overSCSI, overNVMe error) {
	p := make([]byte, 512)
	return blockdev.WriteAt(h.scsi, p, 0), blockdev.WriteAt(h.ns, p, 0)
}

func (h *hosts) want(kindSCSI, kindNVMe error) {
	h.t.Helper()
	a, b := h.try()
	if !errors.Is(a, kindSCSI) || !errors.Is(b, kindNVMe) {
		h.t.Fatalf("writes end with %v over iSCSI and %v over NVMe, want %v and %v", a, b, kindSCSI, kindNVMe)
	}
}

// One access state reaches the hosts of both protocols, as ANA change and as
// unit attention, and decides what both may do.
func TestAccessReachesBothProtocols(t *testing.T) {
	d := start(t, testConfig(t.TempDir()))
	h := attach(t, d)
	shown := func() string {
		return mustJSON[map[string]any](t, d, "volume", "show", "v")["access"].(string)
	}
	if s := shown(); s != "optimized" {
		t.Errorf("a node alone shows %s", s)
	}
	h.want(nil, nil)
	for _, c := range []struct {
		state      access.State
		scsi, nvme error
	}{
		{access.NonOptimized, nil, nil},
		{access.Inaccessible, blockdev.ErrFenced, blockdev.ErrFenced},
		{access.Optimized, nil, nil},
	} {
		if err := d.SetAccess("v", c.state); err != nil {
			t.Fatal(err)
		}
		h.told(3, 0x0c, 0x2a06)
		if s := shown(); s != c.state.String() {
			t.Errorf("shown as %s, want %v", s, c.state)
		}
		h.want(c.scsi, c.nvme)
	}
	if err := d.SetAccess("nope", access.Optimized); err == nil {
		t.Error("a volume that does not exist has an access state")
	}
	if err := d.SetAccess("v", access.Transition+1); err == nil {
		t.Error("an unknown state was taken")
	}
}

// Write protection by an administrator and by a host is one thing: every host is
// told and refused, the catalog keeps it over a restart, and the audit log says who.
func TestWriteProtection(t *testing.T) {
	cfg := testConfig(t.TempDir())
	d := start(t, cfg)
	h := attach(t, d)
	shown := func() string {
		return mustJSON[map[string]any](t, d, "volume", "show", "v")["protection"].(string)
	}
	mustCtl(t, d, "volume", "protect", "v")
	h.told(0, 0x04, 0x2a01)
	h.want(blockdev.ErrReadOnly, blockdev.ErrReadOnly)
	if s := shown(); s != "write-protect" {
		t.Errorf("shown as %s", s)
	}
	mustCtl(t, d, "volume", "unprotect", "v")
	h.told(0, 0x04, 0x2a01)
	h.want(nil, nil)

	// By a host: Set Features 84h.
	set := func(v byte) error {
		c := &nvmehost.Call{}
		c.SQE[0], c.SQE[4], c.SQE[40], c.SQE[44] = 0x09, 1, 0x84, v
		return h.nvme.Admin(c)
	}
	if err := set(1); err != nil {
		t.Fatal(err)
	}
	h.told(0, 0x04, 0x2a01)
	h.want(blockdev.ErrReadOnly, blockdev.ErrReadOnly)
	audit := mustJSON[[]map[string]any](t, d, "audit")
	if last := audit[len(audit)-1]; last["action"] != "volume.protect" || last["actor"] != testHostNQN || last["detail"] != "write-protect" {
		t.Errorf("audit: %v", last)
	}
	stop(t, d)
	d = start(t, cfg)
	h = attach(t, d)
	h.want(blockdev.ErrReadOnly, blockdev.ErrReadOnly)
	if err := set(0); err != nil {
		t.Fatal(err)
	}
	h = attach(t, d) // the iSCSI host reads WP when it logs in
	h.want(nil, nil)

	mustCtl(t, d, "volume", "protect", "v", "--until-power-cycle")
	if r, err := h.scsi.Command(make([]byte, 6), nil, false); err != nil || r.Sense.Key != 6 {
		t.Fatalf("TEST UNIT READY: %+v, %v", r, err)
	}
	h.want(blockdev.ErrReadOnly, blockdev.ErrReadOnly)
	refused(t, d, "until blockd starts again", "volume", "unprotect", "v")
	var refusal *nvmehost.StatusError
	if err := set(0); !errors.As(err, &refusal) || refusal.Status&0x7ff != 0x10e {
		t.Errorf("a host ends it: %v", err)
	}
	stop(t, d)
	d = start(t, cfg)
	if s := shown(); s != "none" {
		t.Errorf("after a power cycle: %s", s)
	}

	refused(t, d, "--yes", "volume", "protect", "v", "--permanent")
	mustCtl(t, d, "volume", "protect", "v", "--permanent", "--yes")
	refused(t, d, "for ever", "volume", "unprotect", "v")
	stop(t, d)
	d = start(t, cfg)
	if s := shown(); s != "permanent" {
		t.Errorf("permanent protection is %s after a restart", s)
	}
	if out := fmt.Sprint(mustCtl(t, d, "volume", "show", "v")); !strings.Contains(out, "permanent") {
		t.Errorf("%s", out)
	}
}

// Operators see the NVMe hosts: in the list of sessions, in the metrics, in the
// diagnosis, which gives each advice once.
func TestNVMeIsWatched(t *testing.T) {
	d := start(t, testConfig(t.TempDir()))
	h := attach(t, d)
	h.want(nil, nil)
	list := mustJSON[[]map[string]any](t, d, "session", "list")
	if len(list) != 2 || list[0]["protocol"] != "iscsi" || list[1]["protocol"] != "nvme-tcp" || list[1]["initiator"] != testHostNQN {
		t.Fatalf("%v", list)
	}
	if p := list[1]["parameters"].(map[string]any); list[1]["id"] != fmt.Sprint(h.nvme.CNTLID()) || p["IOQueues"] != "1" || p["ControllerType"] != "I/O" {
		t.Errorf("%v", list[1])
	}
	_, metrics := get(t, d, "/metrics")
	for _, want := range []string{
		`blockd_nvme_controllers{type="nvm"} 1`, `blockd_nvme_io_queues 1`, `blockd_nvme_connections_total 2`,
		`blockd_nvme_connects_total{result="ok"} 2`, `blockd_nvme_connects_total{result="auth-failed"} 0`,
		`blockd_nvme_commands_total{command="Write",set="io"} 1`, `blockd_nvme_bytes_total{direction="write"} 512`,
		`blockd_nvme_keep_alive_timeouts_total 0`, `blockd_nvme_events_total{event="ana"} 0`,
		`blockd_volume_ops_total{op="poison",volume="v"} 0`,
		`blockd_poll_spinning{frontend="iscsi"} 0`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("metrics lack %s", want)
		}
	}
	if !strings.Contains(metrics, `blockd_poll_hits_total{frontend="iscsi"} `) { // how often is a matter of luck
		t.Error("metrics lack the polls that were worth it")
	}
	found := false
	for _, f := range mustJSON[[]map[string]string](t, d, "doctor") {
		found = found || f["subject"] == "nvme" && strings.HasPrefix(f["message"], "1 controllers with 1 I/O queues")
		if f["advice"] != "" && strings.Contains(f["message"], f["advice"]) || strings.Contains(f["message"], "sysctl") {
			t.Errorf("advice is repeated: %v", f)
		}
	}
	if !found {
		t.Error("the diagnosis has no NVMe row")
	}
}

// A block that an NVMe host makes unreadable is so for an iSCSI host too, and
// after a restart, until somebody writes it. It is no fault of the disk.
func TestUncorrectableBlocksAreKept(t *testing.T) {
	cfg := testConfig(t.TempDir())
	d := start(t, cfg)
	h := attach(t, d)
	h.want(nil, nil)
	if !h.ns.Geometry().Poisons {
		t.Fatal("Write Uncorrectable is not offered")
	}
	if err := blockdev.Do(h.ns, &blockdev.Request{Op: blockdev.OpPoison, Offset: 8 * 512, Length: 512}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, dev := range []blockdev.Device{h.scsi, h.ns} {
			p := make([]byte, 512)
			if err := blockdev.ReadAt(dev, p, 8*512); !errors.Is(err, blockdev.ErrMedium) {
				t.Errorf("read: %v", err)
			}
			if err := blockdev.ReadAt(dev, p, 9*512); err != nil {
				t.Errorf("read of the block behind: %v", err)
			}
		}
		if n := d.disks[0].store.Stats().BadBlocks; n != 0 {
			t.Errorf("%d bad blocks", n)
		}
		if out := mustCtl(t, d, "events"); strings.Contains(out, "volume.error") || strings.Contains(out, "volume.io-error") {
			t.Errorf("an event blames the disk:\n%s", out)
		}
		stop(t, d)
		d = start(t, cfg)
		h = attach(t, d)
	}
	if r, err := h.scsi.Command([]byte{0x3f, 0x40, 0, 0, 0, 20, 0, 0, 0, 0}, nil, false); err != nil || r.Err() != nil {
		t.Fatalf("WRITE LONG: %v, %v", err, r.Err())
	}
	p := make([]byte, 512)
	if err := blockdev.ReadAt(h.ns, p, 20*512); !errors.Is(err, blockdev.ErrMedium) {
		t.Errorf("read over NVMe after WRITE LONG: %v", err)
	}
	for _, off := range []int64{8 * 512, 20 * 512} {
		if err := blockdev.WriteAt(h.scsi, p, off); err != nil {
			t.Error(err)
		}
		if err := blockdev.ReadAt(h.ns, p, off); err != nil {
			t.Errorf("read after a write: %v", err)
		}
	}
}

// When the disk fills up, the hosts of both protocols are warned before writes
// fail, and so is the operator.
func TestHostsAreWarnedOfAFullDisk(t *testing.T) {
	d := start(t, testConfig(t.TempDir()))
	h := attach(t, d)
	st := d.disks[0].store.Stats()
	for off := int64(0); d.disks[0].store.Stats().AvailableBytes >= st.CapacityBytes/100*spaceLowPercent; off += 1 << 20 {
		// Zeroes that keep their space take it, and no time.
		r := &blockdev.Request{Op: blockdev.OpWriteZeroes, NoUnmap: true, Offset: off, Length: 1 << 20}
		if err := blockdev.Do(volumeDevice(t, d, "v"), r); err != nil {
			t.Fatal(err)
		}
	}
	low := map[*storage]bool{}
	if d.checkSpace(low); !low[d.disks[0]] {
		t.Fatal("space is not low")
	}
	if r, err := h.scsi.Command(make([]byte, 6), nil, false); err != nil || r.Sense.Key != 6 || r.Sense.ASC != 0x3807 {
		t.Errorf("TEST UNIT READY: %+v, %v", r, err)
	}
	if p, err := h.nvme.LogPage(0x02, 0, 512); err != nil || p[0] != 1 || p[3] >= spaceLowPercent || p[4] != spaceLowPercent {
		t.Errorf("SMART: %x, %v", p[:8], err)
	}
	if out := mustCtl(t, d, "events"); !strings.Contains(out, "disk.space-low") {
		t.Errorf("%s", out)
	}
}

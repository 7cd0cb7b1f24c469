package afxdp

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/netlab"
	"blockd.dev/afxdp/nic"
	"blockd.dev/afxdp/xdplink"
	"blockd.dev/bpf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// able is a machine that lacks nothing.
func able() machine {
	return machine{
		netRaw: true, netAdmin: true, loadPrograms: true, lockMemory: true, lockLimit: 8 << 20, release: [2]int{7, 0}, hugeFree: 10, hugeTotal: 20,
		features: []bpf.Feature{{Name: "programs"}, {Name: "XSKMAP"}, {Name: "links"}, {Name: "multi-buffer"}, {Name: "tc"}},
	}
}

func goodNIC() nic.Info {
	return nic.Info{
		Name: "eth0", Device: "eth0", Up: true, MTU: 9000, DeviceMTU: 9000, Driver: "ice", RXQueues: 4, Spread: []uint32{0, 1, 2, 3, 0, 1},
		XDP: nic.Features{Known: true, Basic: true, Redirect: true, ZeroCopy: true, MultiBuffer: true, SegmentsMax: 8},
	}
}

// TestJudgement: what is missing decides the kind, and is named with its remedy.
func TestJudgement(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*nic.Info, *machine)
		kind   link.Kind
		says   string // why, and what to do
	}{
		"nothing missing":       {func(*nic.Info, *machine) {}, link.XDPZeroCopy, ""},
		"no zero-copy":          {func(i *nic.Info, _ *machine) { i.XDP.ZeroCopy = false }, link.XDPCopy, "ice has no AF_XDP zero-copy; use a NIC"},
		"zero-copy one segment": {func(i *nic.Info, _ *machine) { i.XDP.SegmentsMax = 1 }, link.XDPCopy, "3.75 KiB only, and the MTU is 9000; ip link set eth0 mtu 3818"},
		"one segment is enough": {func(i *nic.Info, _ *machine) { i.XDP.SegmentsMax, i.DeviceMTU = 1, 1500 }, link.XDPZeroCopy, ""},
		"silent driver":         {func(i *nic.Info, _ *machine) { i.XDP = nic.Features{} }, link.XDPCopy, "doesn't say; boot Linux 6.3"},
		"no native":             {func(i *nic.Info, _ *machine) { i.XDP = nic.Features{Known: true} }, link.XDPGeneric, "the driver ice runs no XDP programs"},
		"no redirect":           {func(i *nic.Info, _ *machine) { i.XDP.Redirect = false; i.Driver = "" }, link.XDPGeneric, "the driver of eth0 runs no XDP programs"},
		"down":                  {func(i *nic.Info, _ *machine) { i.Up = false }, link.UDP, "is down; ip link set eth0 up"},
		"taken":                 {func(i *nic.Info, _ *machine) { i.Program = 7 }, link.UDP, "XDP program 7 is attached to eth0; nothing, if it is blockd's own"},
		"privileges":            {func(_ *nic.Info, m *machine) { m.netRaw, m.loadPrograms = false, false }, link.UDP, "lacks CAP_NET_RAW, CAP_BPF; run blockd as root"},
		"old kernel": {func(_ *nic.Info, m *machine) { m.features[1].Err = fmt.Errorf("%w: no XSKMAP", bpf.ErrUnsupported) }, link.UDP,
			"no XSKMAP; boot a newer kernel"},
	} {
		i, m := goodNIC(), able()
		c.change(&i, &m)
		r := judge(i, m)
		if r.Kind != c.kind {
			t.Errorf("%s: %v, want %v", name, r.Kind, c.kind)
		}
		// There is a reason for each kind that is better, in order.
		var better []link.Kind
		for k := link.XDPZeroCopy; k < r.Kind; k++ {
			better = append(better, k)
		}
		if len(r.Refused) != len(better) {
			t.Errorf("%s: refused %+v, want reasons for %v", name, r.Refused, better)
			continue
		}
		for n, f := range r.Refused {
			if f.Kind != better[n] || !inOrder(f.Why+"; "+f.Fix, c.says) {
				t.Errorf("%s: %+v, want %q", name, f, c.says)
			}
		}
	}
}

// inOrder tells whether text has the parts of want, which "; " separates.
func inOrder(text, want string) bool {
	for _, part := range strings.Split(want, "; ") {
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return true
}

// TestFindingsAboutTheMachine: each shortcoming has its row.
func TestFindingsAboutTheMachine(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*machine)
		level  Level
		says   string
	}{
		"all well":     {func(*machine) {}, OK, "it has all that AF_XDP takes"},
		"memory limit": {func(m *machine) { m.lockMemory = false }, Warning, "may lock 8MiB; LimitMEMLOCK=infinity"},
		"enough":       {func(m *machine) { m.lockMemory, m.lockLimit = false, 1<<30 }, OK, "1GiB may be locked"},
		"unlimited":    {func(m *machine) { m.lockMemory, m.lockLimit = false, ^uint64(0) }, OK, "unlimited"},
		"no huge page": {func(m *machine) { m.hugeTotal = 0 }, OK, "none are reserved; vm.nr_hugepages"},
		"huge unknown": {func(m *machine) { m.hugeTotal = -1 }, OK, "can't be read"},
		"not allowed":  {func(m *machine) { m.features[0].Err = bpf.ErrPermission }, OK, "can't be looked at; run as root"},
		"no large":     {func(m *machine) { m.release = [2]int{5, 19} }, OK, "but for frames over; boot Linux 6.6"},
		"short frames": {func(m *machine) { m.features[3].Err = fmt.Errorf("%w: no frags", bpf.ErrUnsupported) }, Warning, "no frags; boot a newer kernel"},
	} {
		m := able()
		c.change(&m)
		if !hasFinding(m.findings(), c.level, c.says) {
			t.Errorf("%s: %+v lack a %s with %q", name, m.findings(), c.level, c.says)
		}
	}
}

func hasFinding(all []Finding, level Level, says string) bool {
	for _, f := range all {
		if f.Level == level && inOrder(f.Message+"; "+f.Advice, says) {
			return true
		}
	}
	return false
}

// TestFindingsAboutAnInterface: mode, MTU and queues.
func TestFindingsAboutAnInterface(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*nic.Info, *machine)
		level  Level
		says   string
	}{
		"good":            {func(*nic.Info, *machine) {}, OK, "xdp-zerocopy, driver ice"},
		"fits":            {func(*nic.Info, *machine) {}, OK, "MTU 9000: a 4 KiB block fits into one packet"},
		"spread":          {func(*nic.Info, *machine) {}, OK, "4 receive queues; peers spread over 4"},
		"narrow spread":   {func(i *nic.Info, _ *machine) { i.Spread = []uint32{2, 2} }, OK, "peers spread over 1 of them"},
		"unknown spread":  {func(i *nic.Info, _ *machine) { i.Spread = nil }, OK, "the driver doesn't say"},
		"one queue":       {func(i *nic.Info, _ *machine) { i.RXQueues = 1 }, OK, "1 receive queue"},
		"short MTU":       {func(i *nic.Info, _ *machine) { i.MTU = 1500 }, OK, "takes 4 packets; 9000 would; ip link set eth0 mtu 9000"},
		"long, but small": {func(_ *nic.Info, m *machine) { m.release = [2]int{6, 5} }, Warning, "3,520 bytes only; boot Linux 6.6"},
		"unknown kernel":  {func(_ *nic.Info, m *machine) { m.release = [2]int{} }, OK, "fits into one packet"},
		"generic":         {func(i *nic.Info, _ *machine) { i.XDP.Basic = false }, Warning, "xdp-generic; not xdp-zerocopy; use a NIC"},
		"guess":           {func(i *nic.Info, _ *machine) { i.XDP = nic.Features{} }, OK, "xdp-copy; (a guess)"},
		"ours":            {func(i *nic.Info, _ *machine) { i.Program = 3 }, OK, "udp; program 3"},
	} {
		i, m := goodNIC(), able()
		c.change(&i, &m)
		if got := interfaceFindings(i, m, 0); !hasFinding(got, c.level, c.says) {
			t.Errorf("%s: %+v lack a %s with %q", name, got, c.level, c.says)
		}
	}
}

// TestExamineAVeth: what is said before is what a link then gets; peers are
// found or missed, and a program on the interface is seen.
func TestExamineAVeth(t *testing.T) {
	lab, err := netlab.New(netlab.Config{MTU: 9000})
	if err != nil {
		t.Fatal(err)
	}
	defer lab.Close()
	absent := netip.MustParseAddr("10.77.0.99")
	if err := lab.A.Do(func() error {
		r, err := Probe("eth0")
		if err != nil {
			return err
		}
		got := Examine(Scope{Interfaces: []string{"eth0", "eth5"}, Peers: []netip.Addr{lab.B.IPv4, absent}, PeerPatience: 500 * time.Millisecond})
		for _, c := range []struct {
			level   Level
			subject string
			says    string
		}{
			{OK, "network eth0", "xdp-copy, driver veth; not xdp-zerocopy"},
			{OK, "network eth0", "MTU 9000"},
			{Error, "network eth5", "eth5"},
			{OK, "network peer 10.77.0.2", "by eth0 to " + lab.B.MAC.String() + ", MTU 9000"},
			{Error, "network peer 10.77.0.99", "10.77.0.99"},
		} {
			var about []Finding
			for _, f := range got {
				if f.Subject == c.subject {
					about = append(about, f)
				}
			}
			if !hasFinding(about, c.level, c.says) {
				t.Errorf("%+v lack a %s with %q", about, c.level, c.says)
			}
		}
		l, err := xdplink.Open(xdplink.Config{Interface: "eth0", Port: 7702, RxBuffers: 16, TxBuffers: 16})
		if err != nil {
			return err
		}
		if l.Kind() != r.Kind {
			t.Errorf("Probe said %v, the link is %v", r.Kind, l.Kind())
		}
		own := Examine(Scope{Interfaces: []string{"eth0"}, Open: map[string]link.Kind{"eth0": l.Kind()}})
		if !hasFinding(own, OK, "xdp-copy, in use, driver veth; not xdp-zerocopy: the driver veth has no") {
			t.Errorf("with a link of one's own open: %+v", own)
		}
		if r, err := Probe("eth0"); err != nil || r.NIC.Program == 0 || r.Kind != link.UDP {
			t.Errorf("with a program attached: %+v, %v", r, err)
		}
		return l.Close()
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := Probe("no-such-if"); err == nil || errors.Unwrap(err) == nil {
		t.Errorf("%v", err)
	}
}

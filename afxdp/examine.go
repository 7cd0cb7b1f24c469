package afxdp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/neigh"
	"blockd.dev/afxdp/nic"
	"blockd.dev/bpf"
	"blockd.dev/internal/units"
)

// Level says how much a Finding matters.
type Level string

// The levels, as blockctl prints them.
const (
	OK      Level = "ok"      // good, or as good as the hardware allows
	Warning Level = "warning" // works, but worse than it could
	Error   Level = "error"   // does not work
)

// Finding is one thing that was looked at.
type Finding struct {
	Level   Level
	Subject string // the part: "network eth0", "network kernel"
	Message string // how it is
	Advice  string // what to do about it; may be "" or, with OK, what could be better still
}

// Scope says what to examine.
type Scope struct {
	// Interfaces are to carry the wire. Default: those that could (nic.Candidates).
	Interfaces []string
	// Open are the interfaces on which this process has links, by what carries these: its
	// own program on them is in nobody's way.
	Open map[string]link.Kind
	// Peers are the other nodes' addresses.
	Peers []netip.Addr
	// PeerPatience is how long to wait for the ways to the peers to be found;
	// default 2 s.
	PeerPatience time.Duration
}

// Examine looks at kernel, limits and memory, at each interface and at the way
// to each peer, in that order.
func Examine(s Scope) []Finding {
	m := lookAtMachine()
	out := m.findings()
	names := s.Interfaces
	if len(names) == 0 {
		var err error
		if names, err = nic.Candidates(); err != nil {
			out = append(out, Finding{Warning, "network", fmt.Sprintf("interfaces can't be listed: %v", err), "name them: --interface"})
		}
		if len(names) == 0 {
			out = append(out, Finding{OK, "network", "there is no interface that could carry the wire between nodes", ""})
		}
	}
	for _, name := range names {
		info, err := nic.Look(name)
		if err != nil {
			out = append(out, Finding{Error, "network " + name, err.Error(), "name an interface of `ip link`"})
			continue
		}
		out = append(out, interfaceFindings(info, m, s.Open[name])...)
	}
	return append(out, peerFindings(s)...)
}

// findings are the rows about the machine.
func (m *machine) findings() []Finding {
	var out []Finding
	add := func(l Level, subject, message, advice string) {
		out = append(out, Finding{l, "network " + subject, message, advice})
	}
	seen := 0
	for _, f := range m.features[:min(featuresNeeded+1, len(m.features))] {
		switch {
		case f.Err == nil:
			seen++
		case errors.Is(f.Err, bpf.ErrPermission):
			add(OK, "kernel", fmt.Sprintf("%s: can't be looked at without privileges", f.Name), "run as root to see it")
		default:
			add(Warning, "kernel", fmt.Sprintf("%v; needed for %s", f.Err, f.For), "boot a newer kernel")
		}
	}
	switch {
	case seen < featuresNeeded+1:
	case m.multiBuffer():
		add(OK, "kernel", "it has all that AF_XDP takes, large frames too", "")
	default:
		add(OK, "kernel", "it has all that AF_XDP takes, but for frames over 3,520 bytes", "boot Linux 6.6 or later")
	}
	const perQueue = 32 << 20 // of a Link with its default buffers and an MTU of 9000
	switch {
	case m.lockMemory || m.lockLimit == ^uint64(0):
		add(OK, "locked memory", "unlimited", "")
	case m.lockLimit < perQueue:
		add(Warning, "locked memory", fmt.Sprintf("this process may lock %s, and each queue of a NIC takes up to %s", units.FormatBytes(int64(m.lockLimit)), units.FormatBytes(perQueue)),
			"LimitMEMLOCK=infinity in blockd's unit (or `ulimit -l unlimited`), or CAP_IPC_LOCK")
	default:
		add(OK, "locked memory", fmt.Sprintf("%s may be locked", units.FormatBytes(int64(m.lockLimit))), "")
	}
	switch {
	case m.hugeTotal < 0:
		add(OK, "huge pages", "2 MiB pages are not what this kernel reserves, or /proc/meminfo can't be read", "")
	case m.hugeTotal == 0:
		add(OK, "huge pages", "none are reserved: packet buffers get transparent ones, if the kernel finds them", "sysctl vm.nr_hugepages=N, with N of 16 per queue and half of --arena-size in MiB")
	default:
		add(OK, "huge pages", fmt.Sprintf("%d of %d reserved pages of 2 MiB are free", m.hugeFree, m.hugeTotal), "")
	}
	return out
}

// interfaceFindings are the rows about one interface; used is the kind of this process's links
// there, 0 if it has opened none.
func interfaceFindings(info nic.Info, m machine, used link.Kind) []Finding {
	if used != 0 {
		info.Program = 0
	}
	r := judge(info, m)
	if used != 0 {
		r.opened(used)
	}
	i := &r.NIC
	var out []Finding
	add := func(l Level, message, advice string) {
		out = append(out, Finding{l, "network " + i.Name, message, advice})
	}
	message := fmt.Sprintf("%s, driver %s", r.Kind, driverName(i))
	switch {
	case used != 0:
		message = fmt.Sprintf("%s, in use, driver %s", r.Kind, driverName(i))
	case !r.Certain && r.Kind != link.UDP:
		message += " (a guess)"
	}
	level, advice := OK, ""
	if len(r.Refused) > 0 {
		// All kinds that were refused for one reason share it.
		first := r.Refused[0]
		message += fmt.Sprintf("; not %s: %s", first.Kind, first.Why)
		advice = first.Fix
		if last := r.Refused[len(r.Refused)-1]; last.Why != first.Why {
			message += fmt.Sprintf("; not %s: %s", last.Kind, last.Why)
			advice += "; " + last.Fix
		}
	}
	if r.Kind == link.UDP || r.Kind == link.XDPGeneric {
		level = Warning
	}
	if r.Kind == link.XDPGeneric {
		advice += "; where a peer on this machine sends by UDP sockets, `ip link set DEV gso_max_segs 1` for its interface, or its datagrams come several in one and are lost"
	}
	if i.Program != 0 {
		level = OK // most likely our own
	}
	add(level, message, advice)
	out = append(out, mtuFinding(i, r.Kind, m))
	add(OK, queuesText(i), "")
	return out
}

// wireOverhead is what the node wire's own header and its AEAD's tag take of a
// datagram, at most, beside a block.
const wireOverhead = 96

// mtuFinding is whether a 4 KiB block fits into one packet.
func mtuFinding(i *nic.Info, k link.Kind, m machine) Finding {
	f := Finding{OK, "network " + i.Name, "", ""}
	const block = 4096
	need := block + wireOverhead + link.OverheadIPv6
	if i.MTU >= need {
		f.Message = fmt.Sprintf("MTU %d: a 4 KiB block fits into one packet", i.MTU)
		if k != link.UDP && !m.multiBuffer() {
			f.Level, f.Message = Warning, fmt.Sprintf("MTU %d, but AF_XDP on this kernel takes frames up to 3,520 bytes only: a 4 KiB block takes 2 packets", i.MTU)
			f.Advice = "boot Linux 6.6 or later"
		}
		return f
	}
	payload := max(i.MTU-link.OverheadIPv6-wireOverhead, 1)
	f.Message = fmt.Sprintf("MTU %d: a 4 KiB block takes %d packets; 9000 would fit it into one", i.MTU, (block+payload-1)/payload)
	f.Advice = fmt.Sprintf("ip link set %s mtu 9000, on every node and switch of the network", i.Name)
	return f
}

func queuesText(i *nic.Info) string {
	used := 0
	for _, u := range i.QueuesOfSpread() {
		if u {
			used++
		}
	}
	switch {
	case i.RXQueues == 1:
		return "1 receive queue"
	case used == 0:
		return fmt.Sprintf("%d receive queues; how peers spread over them the driver doesn't say", i.RXQueues)
	}
	return fmt.Sprintf("%d receive queues; peers spread over %d of them", i.RXQueues, used)
}

// peerFindings are the rows about the ways to the peers.
func peerFindings(s Scope) []Finding {
	if len(s.Peers) == 0 {
		return nil
	}
	patience := s.PeerPatience
	if patience == 0 {
		patience = 2 * time.Second
	}
	changed := make(chan struct{}, 1)
	t, err := neigh.Open(neigh.Config{OnChange: func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		return []Finding{{Warning, "network peers", fmt.Sprintf("the ways to peers can't be looked at: %v", err), ""}}
	}
	defer t.Close()
	var out []Finding
	for _, p := range s.Peers {
		if err := t.Track(p); err != nil {
			out = append(out, Finding{Error, "network peer " + p.String(), err.Error(), "configure the address of the node"})
		}
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for waiting := true; waiting && slices.ContainsFunc(s.Peers, func(p netip.Addr) bool { _, ok := t.Lookup(p); return !ok }); {
		select {
		case <-changed:
		case <-timeout.C:
			waiting = false
		}
	}
	for _, p := range t.Status() {
		f := Finding{OK, "network peer " + p.Peer.String(), "", ""}
		if p.Err != nil {
			f.Level, f.Message = Error, p.Err.Error()
			f.Advice = "see `ip route get " + p.Peer.String() + "` and `ip neigh`; the node may be off, or the cable out"
		} else {
			f.Message = fmt.Sprintf("by %s to %v, MTU %d", p.Hop.Interface, net.HardwareAddr(p.Hop.Dst[:]), p.Hop.MTU)
		}
		out = append(out, f)
	}
	return out
}

package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"blockd.dev/afxdp"
	"blockd.dev/afxdp/link"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

// diagnoseNetwork says how well the machine is set up for the wire between
// nodes, and how that goes. It asks kernel and drivers, which takes some milliseconds, so it
// is for the doctor and not for readiness.
func (d *Daemon) diagnoseNetwork() []*blockdv1.Finding {
	var out []*blockdv1.Finding
	add := func(lv, subject, advice, format string, args ...any) {
		out = append(out, &blockdv1.Finding{Level: lv, Subject: subject, Message: fmt.Sprintf(format, args...), Advice: advice})
	}
	var scope afxdp.Scope
	if s := d.shared.Load(); s != nil {
		scope.Open = s.network.open()
		d.diagnoseWire(s.network, add)
	}
	for _, f := range afxdp.Examine(scope) {
		add(string(f.Level), f.Subject, f.Advice, "%s", f.Message)
	}
	return out
}

// diagnoseWire says in which mode the wire runs, and which nodes it reaches.
func (d *Daemon) diagnoseWire(n *network, add func(lv, subject, advice, format string, args ...any)) {
	const subject = "network between nodes"
	stats := n.endpoint.Stats()
	switch {
	case len(stats.Links) == 0:
		add(string(levelError), subject, "see `blockctl events` for the reason, and restart blockd", "nothing passes at %v: its links have failed", n.local)
	case n.reason != "":
		add(string(levelWarning), subject, "see the rows of the network for what is in the way, and restart blockd when it is gone; set wire_mode to udp if that is what you want",
			"at %v, %s", n.local, n.reason)
	default:
		add("ok", subject, "", "at %v, in mode %v", n.local, n.kind)
	}
	var reached []string
	for _, p := range stats.Peers {
		if name := d.nodeNamed(p.Node); p.Up {
			reached = append(reached, fmt.Sprintf("%s in %v", name, p.Wire.SmoothedRTT.Round(time.Microsecond)))
		} else {
			add(string(levelWarning), subject, fmt.Sprintf("see whether blockd runs there (`blockctl node list`), and whether UDP port %d passes both ways (`blockctl doctor network --peer ADDRESS`)", n.local.Port()),
				"node %s is not connected: %v", name, cmp.Or(p.Err, errConnecting))
		}
	}
	slices.Sort(reached)
	if len(reached) > 0 {
		add("ok", subject, "", "connected, round trips: %s", strings.Join(reached, ", "))
	}
}

var errConnecting = errors.New("the first attempt is under way")

// open is the interface that the network has links on by AF_XDP, if it has.
func (n *network) open() map[string]link.Kind {
	if n.device == nil {
		return nil
	}
	return map[string]link.Kind{n.device.Interface(): n.kind}
}

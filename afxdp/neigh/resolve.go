package neigh

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// view is what the kernel says, at one time, about the tracked peers.
type view struct {
	links  map[int]linkState
	routes map[netip.Addr]routeState // by peer
	neighs map[neighKey]neighState
}

type linkState struct {
	name   string
	mac    MAC
	hasMAC bool
	mtu    int
	up     bool // and has a carrier
	tag    Tag  // of a VLAN; zero for other interfaces
	parent int  // of a VLAN, the interface below
}

type routeState struct {
	err     error // there is no route
	local   bool  // to this machine
	link    int
	nextHop netip.Addr
	source  netip.Addr
	mtu     int // 0 when the route doesn't say
}

type neighKey struct {
	link int
	addr netip.Addr
}

// neighState is a neighbour by the states of RFC 4861 §7.3.2, as far as they
// make a difference here.
type neighState struct {
	condition condition
	mac       MAC
}

type condition uint8

const (
	absent  condition = iota // the kernel has no entry, or one that nobody uses
	asking                   // the first answer is outstanding
	fresh                    // confirmed, being checked, or set by hand: nothing to do
	stale                    // usable, but due for a check
	failing                  // no answer came
)

// graceTime is how long the last known address of a neighbour is used while the
// kernel asks for it anew. Three multicast solicitations, one second
// apart, are what the kernel gives an unknown neighbour before it gives up.
const graceTime = 4 * time.Second

// peer is what is known about one tracked address.
type peer struct {
	hop    Hop
	ok     bool
	why    error     // when not ok
	unsure time.Time // since when hop rests on an entry that the kernel lost; zero when it doesn't
}

// Why a peer can't be reached; each is wrapped with what it is about.
var (
	errUnseen     = errors.New("the kernel was not asked yet")
	errLocal      = errors.New("the address is this machine's own")
	errDown       = errors.New("the interface is down or has no carrier; bring it up, check the cable")
	errNoEthernet = errors.New("the interface has no Ethernet addresses; AF_XDP can't be used on it")
	errTags       = fmt.Errorf("more than %d VLANs on top of each other", TagsMax)
	errAsking     = errors.New("the neighbour is being asked for its address")
	errNoAnswer   = errors.New("the neighbour does not answer (ARP or neighbour discovery); is it up, on this network, and its firewall open?")
)

// resolve works out the way to dst from v. before is what was known until now.
// touch names the entry that the kernel should check or ask for; its addr is
// invalid when there is nothing to do.
func resolve(v *view, dst netip.Addr, before peer, now time.Time) (after peer, touch neighKey) {
	fail := func(err error) (peer, neighKey) { return peer{why: err}, touch }
	route, ok := v.routes[dst]
	switch {
	case !ok: // the kernel couldn't be asked
		if before.why == nil && !before.ok {
			return fail(errUnseen)
		}
		return before, touch
	case route.err != nil:
		return fail(fmt.Errorf("no route to %v: %w", dst, route.err))
	case route.local:
		return fail(fmt.Errorf("%v: %w", dst, errLocal))
	}
	hop, err := v.device(route.link)
	if err != nil {
		return fail(fmt.Errorf("%v: %w", dst, err))
	}
	hop.Source, hop.NextHop = route.source, route.nextHop
	if route.mtu > 0 {
		hop.MTU = min(hop.MTU, route.mtu)
	}

	key := neighKey{route.link, route.nextHop}
	n := v.neighs[key]
	switch n.condition {
	case fresh, stale:
		if n.condition == stale {
			touch = key
		}
		if n.mac[0]&1 != 0 || n.mac == (MAC{}) {
			return fail(fmt.Errorf("%v by %v on %s: %x is no station's address", dst, hop.NextHop, hop.Interface, n.mac))
		}
		hop.Dst = n.mac
		return peer{hop: hop, ok: true}, touch
	case failing:
		touch = key
		return fail(fmt.Errorf("%v by %v on %s: %w", dst, hop.NextHop, hop.Interface, errNoAnswer))
	case absent:
		touch = key
	case asking:
	}
	// Nothing is known any more, or yet: go on with what was known of the same
	// neighbour, for a while.
	if before.ok && before.hop.NextHop == hop.NextHop && before.hop.Interface == hop.Interface {
		since := before.unsure
		if since.IsZero() {
			since = now
		}
		if now.Sub(since) < graceTime {
			hop.Dst = before.hop.Dst
			return peer{hop: hop, ok: true, unsure: since}, touch
		}
	}
	return fail(fmt.Errorf("%v by %v on %s: %w", dst, hop.NextHop, hop.Interface, errAsking))
}

// device fills in what the interface and those below it say.
func (v *view) device(index int) (Hop, error) {
	var hop Hop
	l, ok := v.links[index]
	if !ok {
		return hop, fmt.Errorf("interface %d has gone", index)
	}
	hop.Interface, hop.MTU, hop.Src = l.name, l.mtu, l.mac
	var inner []Tag
	for {
		switch {
		case !l.up:
			return hop, fmt.Errorf("%s: %w", l.name, errDown)
		case !l.hasMAC:
			return hop, fmt.Errorf("%s: %w", l.name, errNoEthernet)
		case l.tag == Tag{}:
			hop.Device, hop.DeviceName = index, l.name
			for i, t := range inner {
				hop.Tags[len(inner)-1-i] = t
			}
			return hop, nil
		case len(inner) == TagsMax:
			return hop, fmt.Errorf("%s: %w", hop.Interface, errTags)
		}
		inner = append(inner, l.tag)
		index = l.parent
		if l, ok = v.links[index]; !ok {
			return hop, fmt.Errorf("%s: the interface below it is in another network namespace, or has gone", hop.Interface)
		}
	}
}

package udplink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/alarm"
	"blockd.dev/afxdp/doze"
	"blockd.dev/afxdp/link"
)

// Offload says whether the kernel may be handed several datagrams as one.
type Offload uint8

// The ways of Offload.
const (
	OffloadAuto Offload = iota // where the kernel can
	// OffloadOff never hands over several as one: to measure, to rule it out, and
	// for peers on the same machine that use AF_XDP in generic mode: a virtual
	// device passes several datagrams to them uncut, and they take them for a
	// broken one.
	OffloadOff
)

const (
	// DatagramMaxDefault is a jumbo frame's payload, in bytes.
	DatagramMaxDefault = 9000 - link.OverheadIPv4
	// SlotsDefault is the default of Config.Slots.
	SlotsDefault = 256

	socketBufferBytes = 4 << 20
	slotsMax          = 4096
	datagramLimit     = 65000
)

// Config says what to open. Only Local is required.
type Config struct {
	// Local is the address that peers send to; it must be one of the host's.
	// Port 0 is for a port that the kernel picks.
	Local netip.AddrPort
	// DatagramMax bounds MaxDatagram, in bytes, whatever the interface can do;
	// default DatagramMaxDefault, at most 65000.
	DatagramMax int
	// Slots is how many datagrams may wait to be sent, default SlotsDefault,
	// and half of it how many received ones the caller may hold. 4 to 4096.
	Slots int
	// Offload is about UDP_SEGMENT and UDP_GRO.
	Offload Offload
	// BusyPoll makes the kernel itself poll the device's queue for so long in
	// receiving calls (SO_BUSY_POLL), on NICs that can. Default off; whole
	// microseconds.
	BusyPoll time.Duration
}

// Validate reports what is wrong with c.
func (c *Config) Validate() error {
	switch {
	case !c.Local.Addr().IsValid() || c.Local.Addr().IsUnspecified() || c.Local.Addr().IsMulticast():
		return fmt.Errorf("udplink: Local is %v: give one address of this host, since it is what peers send to", c.Local)
	case c.DatagramMax != 0 && (c.DatagramMax < 1200 || c.DatagramMax > datagramLimit):
		return fmt.Errorf("udplink: DatagramMax is %d bytes: give 1200 to %d", c.DatagramMax, datagramLimit)
	case c.Slots != 0 && (c.Slots < 4 || c.Slots > slotsMax):
		return fmt.Errorf("udplink: Slots is %d: give 4 to %d", c.Slots, slotsMax)
	case c.BusyPoll < 0 || c.BusyPoll > time.Second:
		return fmt.Errorf("udplink: BusyPoll is %v: give 0 to 1s", c.BusyPoll)
	}
	return nil
}

// Open opens one socket.
func Open(cfg Config) (*Link, error) {
	links, err := OpenQueues(cfg, 1)
	if err != nil {
		return nil, err
	}
	return links[0], nil
}

// OpenQueues opens several sockets on one address. The kernel spreads what
// arrives over them by a hash of both addresses and ports, so that one peer
// always comes to the same one.
func OpenQueues(cfg Config, queues int) (links []*Link, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if queues < 1 {
		return nil, fmt.Errorf("udplink: %d queues: give at least 1", queues)
	}
	if cfg.DatagramMax == 0 {
		cfg.DatagramMax = DatagramMaxDefault
	}
	if cfg.Slots == 0 {
		cfg.Slots = SlotsDefault
	}
	ifname, err := interfaceOf(cfg.Local.Addr())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, l := range links {
				err = errors.Join(err, l.Close())
			}
			links = nil
		}
	}()
	for range queues {
		l, err := open(cfg, ifname, queues > 1)
		if err != nil {
			return links, fmt.Errorf("udplink: UDP socket on %v: %w", cfg.Local, err)
		}
		links = append(links, l)
		cfg.Local = l.local // the port that the kernel picked
	}
	return links, nil
}

// interfaceOf finds the interface that has the address.
func interfaceOf(addr netip.Addr) (string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("udplink: list of interfaces: %w", err)
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has gone meanwhile
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			found, _ := netip.AddrFromSlice(n.IP)
			found = found.Unmap()
			// 127.0.0.0/8 is all of loopback's, though only one address is listed.
			loopback := addr.Is4() && addr.IsLoopback() && found.IsLoopback()
			zoned := addr.Zone() == "" || addr.Zone() == i.Name
			if zoned && (found == addr.WithZone("") || loopback) {
				return i.Name, nil
			}
		}
	}
	return "", fmt.Errorf("udplink: no interface of this host has the address %v; `ip addr` lists what there is", addr)
}

func open(cfg Config, ifname string, share bool) (l *Link, err error) {
	l = &Link{
		ifname:      ifname,
		zone:        cfg.Local.Addr().Zone(),
		datagramCap: cfg.DatagramMax,
		overhead:    link.OverheadIPv4,
		socket:      -1,
		wakeFD:      -1,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
			l = nil
		}
	}()
	family := unix.AF_INET
	if cfg.Local.Addr().Is6() {
		family, l.overhead = unix.AF_INET6, link.OverheadIPv6
	}
	if l.socket, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return l, os.NewSyscallError("socket", err)
	}
	if err := l.setOptions(family, cfg, share); err != nil {
		return l, err
	}
	sa, err := l.sockaddr(cfg.Local)
	if err != nil {
		return l, err
	}
	if err := unix.Bind(l.socket, sa); err != nil {
		return l, os.NewSyscallError("bind", err)
	}
	if l.local, err = l.boundTo(); err != nil {
		return l, err
	}
	if l.wakeFD, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return l, os.NewSyscallError("eventfd", err)
	}
	if l.alarm, err = alarm.Open(); err != nil {
		return l, err
	}
	if l.doze, err = doze.Open(l.socket, l.wakeFD, l.alarm.FD()); err != nil {
		return l, err
	}
	for _, fd := range []int{l.socket, l.wakeFD, l.alarm.FD()} {
		l.pollFDs = append(l.pollFDs, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	if err := l.readMTU(); err != nil {
		return l, err
	}
	if err := l.tx.init(cfg.Slots, cfg.DatagramMax); err != nil {
		return l, err
	}
	return l, l.rx.init(cfg.Slots, cfg.DatagramMax, l.gro)
}

// option is one socket option with what happens when the kernel refuses it.
type option struct {
	name         string
	level, id, v int
	required     bool
}

func (l *Link) setOptions(family int, cfg Config, share bool) error {
	options := []option{
		// Without CAP_NET_ADMIN the system's limit holds, net.core.rmem_max.
		{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, socketBufferBytes, false},
		{"SO_SNDBUF", unix.SOL_SOCKET, unix.SO_SNDBUF, socketBufferBytes, false},
		{"SO_RCVBUFFORCE", unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBufferBytes, false},
		{"SO_SNDBUFFORCE", unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBufferBytes, false},
	}
	// FREEBIND, since an IPv6 address of an interface that has just come up can't
	// be bound to otherwise; that the address is one of ours was looked up.
	if family == unix.AF_INET {
		options = append(options,
			option{"IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND, 1, true},
			option{"IP_MTU_DISCOVER", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, true})
	} else {
		options = append(options,
			option{"IPV6_FREEBIND", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1, true},
			option{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1, true},
			option{"IPV6_MTU_DISCOVER", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE, true})
	}
	if share {
		options = append(options, option{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, true})
	}
	if us := int(cfg.BusyPoll / time.Microsecond); us > 0 {
		options = append(options,
			option{"SO_BUSY_POLL", unix.SOL_SOCKET, unix.SO_BUSY_POLL, us, true},
			option{"SO_PREFER_BUSY_POLL", unix.SOL_SOCKET, unix.SO_PREFER_BUSY_POLL, 1, false})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(l.socket, o.level, o.id, o.v); err != nil && o.required {
			return os.NewSyscallError("setsockopt "+o.name, err)
		}
	}
	if cfg.Offload == OffloadAuto {
		_, err := unix.GetsockoptInt(l.socket, unix.SOL_UDP, unix.UDP_SEGMENT)
		l.tx.gso = err == nil
		l.gro = unix.SetsockoptInt(l.socket, unix.SOL_UDP, unix.UDP_GRO, 1) == nil
	}
	return nil
}

func (l *Link) sockaddr(a netip.AddrPort) (unix.Sockaddr, error) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if a.Addr().IsLinkLocalUnicast() {
		i, err := net.InterfaceByName(l.ifname)
		if err != nil {
			return nil, err
		}
		l.scope = uint32(i.Index)
		sa.ZoneId = l.scope
	}
	return sa, nil
}

func (l *Link) boundTo() (netip.AddrPort, error) {
	sa, err := unix.Getsockname(l.socket)
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).WithZone(l.zone), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("bound to %T", sa)
}

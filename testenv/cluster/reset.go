package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Reset ends every TCP connection between the places of a and those of b, as a firewall does that has
// forgotten them, and tells how many there were. The sockets at the places of a fail at once, with all that they
// had not delivered; the others are told, and may still read what arrived before. New
// connections are possible at once.
func (c *Cluster) Reset(a, b []string) (count int, err error) {
	err = c.update(func(s *state) error {
		far := map[netip.Addr]string{}
		for _, name := range b {
			p, err := s.find(name)
			if err != nil {
				return err
			}
			far[p.IPv4], far[p.IPv6] = name, name
		}
		for _, name := range a {
			p, err := s.find(name)
			if err != nil {
				return err
			}
			err = inNamespace(p.Namespace, func() error {
				n, err := resetTo(func(at netip.Addr) bool { to, ok := far[at]; return ok && to != name })
				count += n
				return err
			})
			if err != nil {
				return fmt.Errorf("cluster: connections of %s: %w", name, err)
			}
		}
		return nil
	})
	return count, err
}

// resetTo ends the connections of the namespace it runs in whose other end is wanted.
func resetTo(wanted func(netip.Addr) bool) (count int, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // what was opened meanwhile may be missing
			return count, err
		}
		for _, s := range sockets {
			to, _ := netip.AddrFromSlice(s.ID.Destination)
			if s.State != netlink.TCP_ESTABLISHED || !wanted(to.Unmap()) {
				continue
			}
			req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
			req.AddData(destroy(s.ID, family))
			switch _, err := req.Execute(unix.NETLINK_INET_DIAG, 0); {
			case errors.Is(err, unix.ENOENT): // it has ended by itself
			case errors.Is(err, unix.EOPNOTSUPP):
				return count, fmt.Errorf("this kernel resets no connections: %w; use one with CONFIG_INET_DIAG_DESTROY", err)
			case err != nil:
				return count, err
			default:
				count++
			}
		}
	}
	return count, nil
}

// destroyRequest is struct inet_diag_req_v2, see linux/inet_diag.h.
type destroyRequest []byte

// Len implements nl.NetlinkRequestData.
func (r destroyRequest) Len() int { return len(r) }

// Serialize implements nl.NetlinkRequestData.
func (r destroyRequest) Serialize() []byte { return r }

func destroy(id netlink.SocketID, family uint8) destroyRequest {
	b := []byte{family, unix.IPPROTO_TCP, 0, 0, 0xff, 0xff, 0xff, 0xff} // any state
	b = binary.BigEndian.AppendUint16(b, id.SourcePort)
	b = binary.BigEndian.AppendUint16(b, id.DestinationPort)
	for _, ip := range []net.IP{id.Source, id.Destination} {
		var field [16]byte
		if family == unix.AF_INET {
			ip = ip.To4()
		}
		copy(field[:], ip)
		b = append(b, field[:]...)
	}
	for _, word := range []uint32{id.Interface, id.Cookie[0], id.Cookie[1]} {
		b = binary.NativeEndian.AppendUint32(b, word)
	}
	return b
}

package nvme

import (
	"encoding/binary"
	"slices"
)

// Sizes of the Discovery log page, header and entry, in bytes.
const discoveryRecord = 1024

// Kinds of discovery log page entries (SUBTYPE).
const (
	subtypeReferral = 1 // another discovery subsystem
	subtypeNVM      = 2
	subtypeCurrent  = 3 // this discovery subsystem
)

// discoveryEFLAGS of an entry for this discovery subsystem: it returns the same
// through every port, and hosts may keep the connection.
const discoveryEFLAGS = 1<<0 | 1<<1

// visible reports whether the host sees the NVM subsystem in the log page.
func (s *snapshot) visible(hostNQN string) bool { return s.allowed(hostNQN) }

func portsDiffer(a, b *snapshot) bool {
	return !slices.Equal(a.Ports, b.Ports) || !slices.Equal(a.DiscoveryPorts, b.DiscoveryPorts) ||
		!slices.Equal(a.Referrals, b.Referrals)
}

// discoveryDiffers reports whether any host's log page may differ.
func discoveryDiffers(a, b *snapshot) bool {
	if portsDiffer(a, b) || (len(a.AnyView) > 0) != (len(b.AnyView) > 0) {
		return true
	}
	for _, m := range []*snapshot{a, b} {
		for h := range m.Views {
			if a.visible(h) != b.visible(h) {
				return true
			}
		}
		for h := range m.hosts {
			if a.visible(h) != b.visible(h) {
				return true
			}
		}
	}
	return false
}

// discoveryPage is the Discovery log page that a host sees (NVMe Base 2.0
// §5.16.1.23).
func (s *snapshot) discoveryPage(hostNQN string) []byte {
	p := make([]byte, discoveryRecord)
	records := uint64(0)
	add := func(port *Port, subtype uint8, nqn string, flags uint16) {
		b := make([]byte, discoveryRecord)
		b[0], b[1], b[2] = trTypeTCP, uint8(port.Family), subtype
		// TREQ: nothing about a secure channel. With "not required" nvme-cli 2.3
		// has the kernel use TLS, and connect-all fails. SQ flow control can be
		// disabled (bit 2).
		b[3] = 1 << 2
		binary.LittleEndian.PutUint16(b[4:], port.ID)
		binary.LittleEndian.PutUint16(b[6:], 0xffff) // dynamic controllers
		binary.LittleEndian.PutUint16(b[8:], adminQueueEntries)
		binary.LittleEndian.PutUint16(b[10:], flags)
		pad(b[32:64], port.Service)
		copy(b[256:512], nqn)
		pad(b[512:768], port.Addr)
		p = append(p, b...)
		records++
	}
	for i := range s.DiscoveryPorts {
		add(&s.DiscoveryPorts[i], subtypeCurrent, DiscoveryNQN, discoveryEFLAGS)
	}
	if s.visible(hostNQN) {
		for i := range s.Ports {
			add(&s.Ports[i], subtypeNVM, s.NQN, 0)
		}
	}
	for i := range s.Referrals {
		add(&s.Referrals[i], subtypeReferral, DiscoveryNQN, 0)
	}
	binary.LittleEndian.PutUint64(p, s.generation)
	binary.LittleEndian.PutUint64(p[8:], records)
	return p
}

// adminQueueEntries is ASQSZ: what an admin queue may have.
const adminQueueEntries = 32

// pad writes s and fills with spaces, as ASCII fields have it.
func pad(b []byte, s string) {
	n := copy(b, s)
	for i := n; i < len(b); i++ {
		b[i] = ' '
	}
}

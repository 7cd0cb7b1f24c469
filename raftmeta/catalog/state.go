package catalog

import (
	"cmp"
	"slices"

	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/idmap"
	"blockd.dev/raftmeta/lease"
)

// State is the catalog at one revision. It is immutable: nobody changes a
// State or its slices once it was published. Slices are sorted as said.
type State struct {
	Revision  uint64    // counts the commands that changed something
	ClusterID ID        // zero before the first command
	IQN       string    // the iSCSI target's name
	NQN       string    // the NVMe subsystem's name
	Pools     []Pool    // by name
	Volumes   []Volume  // by name
	Hosts     []Host    // by name
	Mappings  []Mapping // by volume, then host
	Disks     []Disk    // in the order of registration
	Nodes     []Node    // by name
	Revoked   []Revoked // oldest first
	Tokens    []Token   // by ID
	Jobs      []Job     // oldest first
	Audits    []Audit   // oldest first, at most AuditMax
	Authority Authority

	version  uint32 // see Version; 0 is 1
	lastNode uint16 // the last numbers that were given
	lastDisk extmap.Disk
	extents  extmap.Map

	leases       lease.Table
	leaseNotes   idmap.Map[leaseNote]   // by volume
	reservations idmap.Map[Reservation] // by volume
	answers      []answer               // oldest first, at most AnswersMax
	importing    []string               // the parts so far of a state that is being taken over

	auditsTail, answersTail *tail
}

func byName[T any](list []T, name string, nameOf func(*T) string) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(e T, n string) int { return cmp.Compare(nameOf(&e), n) })
}

func poolName(p *Pool) string     { return p.Name }
func volumeName(v *Volume) string { return v.Name }
func hostName(h *Host) string     { return h.Name }

// Pool returns the pool called name, or nil.
func (s *State) Pool(name string) *Pool {
	if i, ok := byName(s.Pools, name, poolName); ok {
		return &s.Pools[i]
	}
	return nil
}

// Volume returns the volume called name, or nil.
func (s *State) Volume(name string) *Volume {
	if i, ok := byName(s.Volumes, name, volumeName); ok {
		return &s.Volumes[i]
	}
	return nil
}

// VolumeByID returns the volume with the identifier, or nil.
func (s *State) VolumeByID(id ID) *Volume {
	for i := range s.Volumes {
		if s.Volumes[i].ID == id {
			return &s.Volumes[i]
		}
	}
	return nil
}

// Host returns the host called name, or nil.
func (s *State) Host(name string) *Host {
	if i, ok := byName(s.Hosts, name, hostName); ok {
		return &s.Hosts[i]
	}
	return nil
}

// HostByID returns the host with the identifier, or nil.
func (s *State) HostByID(id ID) *Host {
	for i := range s.Hosts {
		if s.Hosts[i].ID == id {
			return &s.Hosts[i]
		}
	}
	return nil
}

// HostByNQN returns the host with the NVMe name, or nil.
func (s *State) HostByNQN(nqn string) *Host {
	if nqn == "" {
		return nil
	}
	for i := range s.Hosts {
		if s.Hosts[i].NQN == nqn {
			return &s.Hosts[i]
		}
	}
	return nil
}

// HostByIQN returns the host with the iSCSI name, in lower case, or nil.
func (s *State) HostByIQN(iqn string) *Host {
	if iqn == "" {
		return nil
	}
	for i := range s.Hosts {
		if s.Hosts[i].IQN == iqn {
			return &s.Hosts[i]
		}
	}
	return nil
}

// View returns what a host sees: LUN to volume. It is the host's own mappings
// and those to any host. The zero ID asks for what unknown hosts see.
func (s *State) View(host ID) map[uint16]ID {
	view := map[uint16]ID{}
	for _, m := range s.Mappings {
		if m.Host == host || m.Host.IsZero() {
			view[m.LUN] = m.Volume
		}
	}
	return view
}

func compareMappings(a, b Mapping) int {
	return cmp.Or(slices.Compare(a.Volume[:], b.Volume[:]), slices.Compare(a.Host[:], b.Host[:]))
}

// clashes reports whether some host would see two volumes at one LUN, or one
// volume at two, if m were added to the mappings.
func (s *State) clashes(m Mapping) bool {
	return slices.ContainsFunc(s.Mappings, func(e Mapping) bool {
		sameHost := e.Host == m.Host || e.Host.IsZero() || m.Host.IsZero()
		return sameHost && (e.LUN == m.LUN) != (e.Volume == m.Volume)
	})
}

// lunClash reports whether some host would see two volumes at one LUN, or one
// volume at two.
func (s *State) lunClash() bool {
	type place struct {
		host ID
		lun  uint16
	}
	seen := make(map[place]bool, len(s.Mappings))
	anyAt := map[uint16]ID{}
	anyLUN := map[ID]uint16{}
	for _, m := range s.Mappings {
		p := place{m.Host, m.LUN}
		if seen[p] {
			return true
		}
		seen[p] = true
		if m.Host.IsZero() {
			anyAt[m.LUN] = m.Volume
			anyLUN[m.Volume] = m.LUN
		}
	}
	for _, m := range s.Mappings {
		if m.Host.IsZero() {
			continue
		}
		if other, taken := anyAt[m.LUN]; taken && other != m.Volume {
			return true
		}
		if lun, mapped := anyLUN[m.Volume]; mapped && lun != m.LUN {
			return true
		}
	}
	return false
}

package catalog

import (
	"cmp"
	"slices"
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
	Audits    []Audit   // oldest first, at most AuditMax

	answers   []answer // oldest first, at most AnswersMax
	importing []string // the parts so far of a state that is being taken over
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

// Check returns the number of the first broken invariant of the package
// comment, or 0.
func (s *State) Check() int {
	ids := map[ID]bool{}
	fresh := func(id ID) bool {
		ok := !id.IsZero() && !ids[id]
		ids[id] = true
		return ok
	}
	for i := range s.Pools {
		p := &s.Pools[i]
		if !fresh(p.ID) || checkName("pool", p.Name) != nil || i > 0 && s.Pools[i-1].Name >= p.Name {
			return 1
		}
	}
	for i := range s.Disks {
		if !fresh(s.Disks[i].ID) {
			return 1
		}
	}
	luns := map[uint16]bool{}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if !fresh(v.ID) || checkName("volume", v.Name) != nil || i > 0 && s.Volumes[i-1].Name >= v.Name {
			return 1
		}
		if luns[v.LUN] || v.LUN > LUNMax || s.Pool(v.Pool) == nil {
			return 2
		}
		luns[v.LUN] = true
		if checkSize(v.SizeBytes) != nil {
			return 5
		}
	}
	names := map[string]bool{}
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if !fresh(h.ID) || checkName("host", h.Name) != nil || h.Name == AnyHost || i > 0 && s.Hosts[i-1].Name >= h.Name {
			return 1
		}
		for _, n := range []string{h.IQN, h.NQN} {
			if n != "" && names[n] {
				return 1
			}
			names[n] = true
		}
	}
	for i, m := range s.Mappings {
		v := s.VolumeByID(m.Volume)
		if v == nil || v.Retired || !m.Host.IsZero() && s.HostByID(m.Host) == nil ||
			i > 0 && compareMappings(s.Mappings[i-1], m) >= 0 {
			return 3
		}
	}
	if s.lunClash() {
		return 4
	}
	return 0
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

package catalog

import "blockd.dev/raftmeta/extmap"

// Check returns the number of the first broken invariant of the package
// comment, or 0.
func (s *State) Check() int {
	c := checker{State: s, ids: map[ID]string{}}
	for _, check := range []func() int{c.pools, c.nodes, c.disks, c.volumes, c.hosts, c.mappings, c.perVolume, c.lists, c.numbers, c.extentMap} {
		if n := check(); n != 0 {
			return n
		}
	}
	return 0
}

type checker struct {
	*State
	ids map[ID]string // what has the identifier
}

// fresh reports whether nothing has the identifier yet, and takes it.
func (c *checker) fresh(id ID, what string) bool {
	_, taken := c.ids[id]
	c.ids[id] = what
	return !taken && !id.IsZero()
}

// isOr reports whether id is that of one of the kinds, or zero.
func (c *checker) isOrZero(id ID, kinds ...string) bool {
	for _, k := range kinds {
		if c.ids[id] == k {
			return true
		}
	}
	return id.IsZero()
}

func (c *checker) pools() int {
	for i := range c.Pools {
		p := &c.Pools[i]
		if !c.fresh(p.ID, "pool") || checkName("pool", p.Name) != nil || i > 0 && c.Pools[i-1].Name >= p.Name {
			return 1
		}
		if p.MinInSync < p.needed() || int(p.MinInSync) > p.Spread() {
			return 12
		}
	}
	return 0
}

func (c *checker) nodes() int {
	for i := range c.Nodes {
		n := &c.Nodes[i]
		if !c.fresh(n.ID, "node") || checkName("node", n.Name) != nil || i > 0 && c.Nodes[i-1].Name >= n.Name {
			return 1
		}
	}
	return 0
}

func (c *checker) disks() int {
	for i := range c.Disks {
		if !c.fresh(c.Disks[i].ID, "disk") {
			return 1
		}
		if !c.isOrZero(c.Disks[i].Node, "node") {
			return 6
		}
	}
	return 0
}

func (c *checker) volumes() int {
	luns := map[uint16]bool{}
	for i := range c.Volumes {
		v := &c.Volumes[i]
		if !c.fresh(v.ID, "volume") || checkName("volume", v.Name) != nil || i > 0 && c.Volumes[i-1].Name >= v.Name {
			return 1
		}
		if luns[v.LUN] || v.LUN > LUNMax || c.Pool(v.Pool) == nil {
			return 2
		}
		luns[v.LUN] = true
		if checkSize(v.SizeBytes) != nil {
			return 5
		}
		if !c.isOrZero(v.Home, "node", "disk") {
			return 6
		}
	}
	return 0
}

func (c *checker) hosts() int {
	names := map[string]bool{}
	for i := range c.Hosts {
		h := &c.Hosts[i]
		if !c.fresh(h.ID, "host") || checkName("host", h.Name) != nil || h.Name == AnyHost || i > 0 && c.Hosts[i-1].Name >= h.Name {
			return 1
		}
		for _, n := range []string{h.IQN, h.NQN} {
			if n != "" && names[n] {
				return 1
			}
			names[n] = true
		}
	}
	return 0
}

func (c *checker) mappings() int {
	retired := map[ID]bool{}
	for i := range c.Volumes {
		retired[c.Volumes[i].ID] = c.Volumes[i].Retired
	}
	for i, m := range c.Mappings {
		if c.ids[m.Volume] != "volume" || retired[m.Volume] || !c.isOrZero(m.Host, "host") ||
			i > 0 && compareMappings(c.Mappings[i-1], m) >= 0 {
			return 3
		}
	}
	if c.lunClash() {
		return 4
	}
	return 0
}

func (c *checker) perVolume() int {
	for id, e := range c.leases.All() {
		_, ok := ParseID(e.Owner)
		if _, noted := c.leaseNotes.Get(id); !noted || c.ids[id] != "volume" || (e.Owner != "") != ok {
			return 7
		}
	}
	if c.leases.Len() != c.leaseNotes.Len() {
		return 7
	}
	for _, n := range c.leaseNotes.All() {
		if !c.isOrZero(n.moveTo, "node") {
			return 7
		}
	}
	for id, r := range c.reservations.All() {
		if c.ids[id] != "volume" || r.Volume != ID(id) || r.Generation == 0 {
			return 7
		}
	}
	return 0
}

func (c *checker) lists() int {
	live := map[[2]string]bool{}
	for i := range c.Jobs {
		j := &c.Jobs[i]
		what := [2]string{j.Kind, j.Subject}
		if !c.fresh(j.ID, "job") || !j.Ended() && live[what] {
			return 8
		}
		live[what] = live[what] || !j.Ended()
	}
	for i := range c.Tokens {
		if i > 0 && tokenID(&c.Tokens[i-1]) >= tokenID(&c.Tokens[i]) {
			return 8
		}
	}
	if len(c.Pools) > PoolsMax || len(c.Nodes) > NodesMax || len(c.Disks) > DisksMax || len(c.Hosts) > HostsMax || len(c.Jobs) > JobsMax ||
		len(c.Tokens) > TokensMax || len(c.Revoked) > RevokedMax || len(c.Audits) > AuditMax || len(c.answers) > AnswersMax {
		return 9
	}
	return 0
}

func (c *checker) numbers() int {
	if c.version < 2 && (c.lastNode > 0 || c.lastDisk > 0) {
		return 10
	}
	seen := map[uint16]bool{}
	for i := range c.Nodes {
		n := c.Nodes[i].Number
		if n > c.lastNode || c.version >= 2 && (n == 0 || seen[n]) {
			return 10
		}
		seen[n] = true
	}
	last := extmap.Disk(0)
	for i := range c.Disks {
		n := c.Disks[i].Number
		if n > c.lastDisk || c.version >= 2 && n <= last {
			return 10
		}
		last = n
	}
	return 0
}

func (c *checker) extentMap() int {
	left := 0
	for range c.extents.Volumes() {
		left++
	}
	for i := range c.Volumes {
		v := &c.Volumes[i]
		p := c.Pool(v.Pool)
		if p.Spread() <= 1 || v.Retired {
			continue
		}
		left--
		m := c.extents.Volume(v.ID)
		if m == nil || !v.Home.IsZero() || m.Policy() != p.layout() || m.Layout().Extents() != p.layout().ExtentsFor(v.SizeBytes) {
			return 11
		}
		for _, d := range m.Disks() {
			if c.DiskByNumber(d) == nil {
				return 11
			}
		}
	}
	if left != 0 {
		return 11
	}
	return 0
}

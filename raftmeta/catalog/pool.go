package catalog

import (
	"cmp"
	"fmt"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// Bounds of a pool's policy.
const (
	ReplicasMax = 5
	ECDiskMax   = 12 // data and parity
)

// Policy says in words how a pool keeps data.
func (p *Pool) Policy() string {
	if p.ECData > 0 {
		return fmt.Sprintf("ec %d+%d across %ss", p.ECData, p.ECParity, p.Domain)
	}
	return fmt.Sprintf("replicas %d across %ss", p.Replicas, p.Domain)
}

// Spread is how many disks in distinct failure domains each extent is on.
func (p *Pool) Spread() int {
	if p.ECData > 0 {
		return int(p.ECData + p.ECParity)
	}
	return int(p.Replicas)
}

// needed is how many disks it takes to read an extent.
func (p *Pool) needed() uint32 { return max(1, p.ECData) }

// minInSync is MinInSync when nobody says otherwise: a majority of the copies,
// and two of two, so that a write that was acknowledged survives the loss of a disk.
func (p *Pool) minInSync() uint32 {
	switch {
	case p.ECData > 0:
		return p.ECData + 1
	case p.Replicas <= 1:
		return 1
	}
	return max(2, p.Replicas/2+1)
}

// poolFrom checks the policy of a new pool, against the nodes that there are.
func (f *fold) poolFrom(c *catalogpb.CreatePool) (Pool, error) {
	p := Pool{Name: c.GetName(), Replicas: c.GetReplicas(), ECData: c.GetEcData(), ECParity: c.GetEcParity(),
		Domain: c.GetDomain(), Media: Media(c.GetMedia()), Created: f.now}
	if p.Domain == "" {
		p.Domain = "host"
	}
	ec := p.ECData != 0 || p.ECParity != 0
	switch {
	case p.Media != MediaDisk && p.Media != MediaRAM:
		return p, refuse(ErrInvalid, "media %q: want disk or ram", c.GetMedia())
	case p.Domain != "host" && p.Domain != "rack" && p.Domain != "zone":
		return p, refuse(ErrInvalid, "failure domain %q: want host, rack or zone", c.GetDomain())
	case ec && p.Replicas != 0:
		return p, refuse(ErrInvalid, "a pool has replicas or erasure coding, not both: give --replicas or --ec")
	case ec && (p.ECData < 2 || p.ECParity < 1 || p.ECData > ECDiskMax || p.ECParity > p.ECData || p.ECData+p.ECParity > ECDiskMax):
		return p, refuse(ErrInvalid, "erasure coding %d+%d: want 2 or more data and 1 or more parity, no more parity than data, %d in all at most", p.ECData, p.ECParity, ECDiskMax)
	case !ec && (p.Replicas < 1 || p.Replicas > ReplicasMax):
		return p, refuse(ErrInvalid, "%d replicas: want 1 to %d; on a single node use --replicas 1", p.Replicas, ReplicasMax)
	case p.Media == MediaRAM && p.Spread() > 1:
		return p, refuse(ErrInvalid, "a pool in memory keeps one copy: use --replicas 1, or --media disk")
	}
	p.MinInSync = cmp.Or(c.GetMinInSync(), p.minInSync())
	if p.MinInSync < p.needed() || int(p.MinInSync) > p.Spread() {
		return p, refuse(ErrInvalid, "at least %d in sync in a pool of %s: want %d to %d", p.MinInSync, p.Policy(), p.needed(), p.Spread())
	}
	if have := f.domains(p.Domain); have < p.Spread() {
		return p, refuse(ErrInvalid, "%s need as many %ss, and this cluster has %s; add nodes or labels (`blockctl node label`), or use --replicas 1",
			p.Policy(), p.Domain, plural(have, p.Domain, p.Domain+"s"))
	}
	return p, nil
}

// domains counts the failure domains that the nodes are in.
func (f *fold) domains(level string) int {
	names := map[string]bool{}
	for i := range f.Nodes {
		names[f.Nodes[i].FailureDomain(level)] = true
	}
	return max(1, len(names))
}

func (f *fold) createPool(c *catalogpb.CreatePool) (ID, error) {
	if err := checkName("pool", c.GetName()); err != nil {
		return ID{}, err
	}
	id, err := f.newID(c.GetId())
	if err != nil {
		return ID{}, err
	}
	i, found := byName(f.Pools, c.GetName(), poolName)
	switch {
	case found:
		return ID{}, refuse(ErrExists, "pool %q exists already; choose another name", c.GetName())
	case len(f.Pools) >= PoolsMax:
		return ID{}, refuse(ErrConflict, "there are %d pools, the most there can be", PoolsMax)
	}
	p, err := f.poolFrom(c)
	if err != nil {
		return ID{}, err
	}
	p.ID = id
	f.Pools = inserted(f.Pools, i, p)
	f.did("pool.create", p.Name, "media %s, %s", p.Media, p.Policy())
	return id, nil
}

func poolTo(e *Pool) *catalogpb.Pool {
	p := &catalogpb.Pool{Id: e.ID[:], Name: e.Name, Replicas: e.Replicas, EcData: e.ECData, EcParity: e.ECParity,
		Media: string(e.Media), CreatedUnixNano: e.Created.UnixNano()}
	if e.Domain != "host" {
		p.Domain = e.Domain
	}
	if e.MinInSync != e.minInSync() {
		p.MinInSync = e.MinInSync
	}
	return p
}

func (l *loader) pool(e *catalogpb.Pool) Pool {
	p := Pool{ID: l.id(e.GetId(), false), Name: e.GetName(), Replicas: e.GetReplicas(), ECData: e.GetEcData(), ECParity: e.GetEcParity(),
		Media: Media(e.GetMedia()), Domain: e.GetDomain(), Created: decodeTime(e.GetCreatedUnixNano())}
	if p.Domain == "" {
		p.Domain = "host"
	}
	p.MinInSync = cmp.Or(e.GetMinInSync(), p.minInSync())
	return p
}

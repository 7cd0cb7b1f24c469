package catalog

import (
	"errors"
	"slices"
	"strings"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
)

// Replica is a disk that keeps a volume of several copies, or some of its
// extents.
type Replica struct {
	Disk       extmap.Disk
	DiskID     ID
	Node       ID
	Sync       extmap.SyncState
	Generation uint64
	Proof      uint64 // see extmap.Sync
}

// Map returns where the extents of the volumes are that are kept on several
// disks, but for those that are retired.
func (s *State) Map() extmap.Map { return s.extents }

// Replicas returns the disks that have, or are to have, an extent of a volume,
// by their numbers; none for a volume that lives on one disk, and for one that
// is retired.
func (s *State) Replicas(volume ID) []Replica {
	v := s.extents.Volume(volume)
	if v == nil {
		return nil
	}
	out := make([]Replica, 0, len(v.Disks()))
	for _, number := range v.Disks() {
		d, sync := s.DiskByNumber(number), v.Sync(number)
		out = append(out, Replica{number, d.ID, d.Node, sync.State, sync.Generation, sync.Proof})
	}
	return out
}

// Allocated reports whether a volume is in the map and all its extents have disks.
func (s *State) Allocated(volume ID) bool {
	v := s.extents.Volume(volume)
	return v != nil && v.Allocated() == v.Layout().Extents()
}

// ReplicasOn counts the volumes of several copies that a node keeps a copy of.
func (s *State) ReplicasOn(node ID) int {
	return s.volumesWith(func(d *Disk) bool { return d.Node == node })
}

// volumesWith counts the volumes of the map that are on a disk which is one of those.
func (s *State) volumesWith(isOne func(*Disk) bool) int {
	n := 0
	for _, v := range s.extents.Volumes() {
		if slices.ContainsFunc(v.Disks(), func(number extmap.Disk) bool { return isOne(s.DiskByNumber(number)) }) {
			n++
		}
	}
	return n
}

// layout is how the extents of a pool's volumes are kept.
func (p *Pool) layout() extmap.Policy {
	return extmap.Policy{Replicas: uint8(p.Replicas), Data: uint8(p.ECData), Parity: uint8(p.ECParity)}
}

// topology tells, by the number of a disk, its failure domain, and whether it
// takes anything new.
type topology []struct {
	domain uint32 // 0 when there is no such disk
	takes  bool
}

// Domain implements extmap.Topology.
func (t topology) Domain(d extmap.Disk) (domain uint32, ok bool) {
	if int(d) >= len(t) {
		return 0, false
	}
	return t[d].domain, t[d].takes
}

// topology returns where the disks are, and the names of the failure domains with disks
// that take new extents: those that are active, of nodes that are.
func (s *State) topology(level string) (t topology, domains []string) {
	t = make(topology, int(s.lastDisk)+1)
	var all []string
	for i := range s.Disks {
		d := &s.Disks[i]
		n := s.NodeByID(d.Node)
		if n == nil {
			continue
		}
		name := n.FailureDomain(level)
		k := slices.Index(all, name)
		if k < 0 {
			k, all = len(all), append(all, name)
		}
		t[d.Number].domain, t[d.Number].takes = uint32(k+1), n.State == NodeActive && d.State == DiskActive
		if t[d.Number].takes && !slices.Contains(domains, name) {
			domains = append(domains, name)
		}
	}
	return t, domains
}

// spread puts a new volume into the map. Its extents get their disks later,
// from the Raft leader.
func (f *fold) spread(p *Pool, id ID, c *catalogpb.CreateVolume) error {
	_, domains := f.topology(p.Domain)
	slices.Sort(domains)
	switch {
	case p.ECData > 0:
		return refuse(ErrConflict, "pool %q keeps data as %s, and this version of blockd can't write that yet; use a pool with --replicas", p.Name, p.Policy())
	case len(c.GetHome()) > 0:
		return refuse(ErrInvalid, "a volume of pool %q is kept on %d disks, which are chosen by the cluster; leave the disk out", p.Name, p.Spread())
	case len(domains) < p.Spread():
		return refuse(ErrConflict, "a volume of pool %q needs active disks on %d different %ss, and %s: add nodes or disks, or make the ones there are active (`blockctl node list`, `blockctl disk list`)",
			p.Name, p.Spread(), p.Domain, haveDomains(domains))
	}
	m, err := f.extents.Create(id, p.layout(), p.layout().ExtentsFor(c.GetSizeBytes()))
	if err != nil {
		return refuse(ErrInvalid, "volume %q of %d bytes in pool %q: %v", c.GetName(), c.GetSizeBytes(), p.Name, err)
	}
	f.extents = m
	return nil
}

func haveDomains(names []string) string {
	switch len(names) {
	case 0:
		return "none has one"
	case 1:
		return "only " + names[0] + " has one"
	}
	return "only " + strings.Join(names, ", ") + " have one"
}

// growSpread gives a volume the extents for its new size, if it is in the map.
func (f *fold) growSpread(v *Volume) error {
	have := f.extents.Volume(v.ID)
	if have == nil {
		return nil
	}
	m, err := f.extents.Grow(v.ID, have.Policy().ExtentsFor(v.SizeBytes))
	if err != nil {
		return refuse(ErrConflict, "volume %q can't have %d bytes: %v", v.Name, v.SizeBytes, err)
	}
	f.extents = m
	return nil
}

// dropSpread takes a volume out of the map, if it is there.
func (f *fold) dropSpread(volume ID) {
	if m, err := f.extents.Delete(volume); err == nil {
		f.extents = m
	}
}

// allocateExtents is not in the audit log: which disks they are is the Raft
// leader's choice, and they are many.
func (f *fold) allocateExtents(c *catalogpb.AllocateExtents) error {
	v, err := f.inMap(c.GetVolume())
	if err != nil {
		return err
	}
	sets := make([]extmap.Disk, len(c.GetSets()))
	for i, d := range c.GetSets() {
		if d == 0 || d > numberMax {
			return refuse(ErrInvalid, "disk number %d: want 1 to %d", d, numberMax)
		}
		sets[i] = extmap.Disk(d)
	}
	topo, _ := f.topology(f.Pool(v.Pool).Domain)
	m, err := f.extents.Allocate(v.ID, c.GetFirst(), sets, topo)
	if err != nil {
		return refuse(ErrConflict, "extents of volume %q: %v", v.Name, err)
	}
	f.extents = m
	f.quietly("volume.allocate", v.Name, "from extent %d on, %d disks", c.GetFirst(), len(sets))
	return nil
}

var replicaChanges = map[catalogpb.ReplicaChange]extmap.Change{
	catalogpb.ReplicaChange_REPLICA_CHANGE_OUT:        extmap.MarkOut,
	catalogpb.ReplicaChange_REPLICA_CHANGE_REBUILDING: extmap.MarkRebuilding,
	catalogpb.ReplicaChange_REPLICA_CHANGE_IN:         extmap.MarkIn,
	catalogpb.ReplicaChange_REPLICA_CHANGE_KEEP:       extmap.Keep,
}

// markReplica changes whether a disk is in sync. The owner of the volume asks for it,
// and it counts only while that is the owner and nothing else has changed in
// between (docs/REPLICATION.md, I10). It is not in the audit log: the loss of a
// node with thousands of volumes would leave nothing else in it.
func (f *fold) markReplica(c *catalogpb.MarkReplica) error {
	v, err := f.inMap(c.GetVolume())
	if err != nil {
		return err
	}
	change, ok := replicaChanges[c.GetChange()]
	l := f.leases.Get(v.ID)
	switch {
	case !ok || c.GetDisk() > numberMax:
		return refuse(ErrInvalid, "change %d of disk %d: not one that this blockd knows", c.GetChange(), c.GetDisk())
	case c.GetProof() != 0 && change != extmap.MarkIn:
		return refuse(ErrInvalid, "disk %d is to be %s with a proof, which is for disks that come in sync only", c.GetDisk(), change)
	case l.Owner != "" && l.Epoch <= v.EndedIn():
		return refuse(ErrConflict, "a disk of volume %q has taken the place of another in epoch %d, so its owner begins anew before anything else changes", v.Name, v.EndedIn())
	case l.Owner == "" || l.Epoch != c.GetEpoch():
		return refuse(ErrConflict, "the owner of volume %q in epoch %d asked, and it is at epoch %d with owner %q: another node has it, or nobody", v.Name, c.GetEpoch(), l.Epoch, l.Owner)
	}
	disk := extmap.Disk(c.GetDisk())
	m, err := f.extents.Mark(v.ID, disk, c.GetGeneration(), change)
	if err == nil {
		m, err = m.Prove(v.ID, disk, c.GetProof())
	}
	if err != nil {
		return refuse(ErrConflict, "volume %q: %v", v.Name, err)
	}
	f.extents = m
	f.quietly("volume.replica", v.Name, "disk %d is %s, generation %d", disk, m.Volume(v.ID).Sync(disk).State, m.Volume(v.ID).Sync(disk).Generation)
	return nil
}

// replaceReplica is the Raft leader's choice, as allocateExtents is, and not in the
// audit log either. The owner of the present epoch took over other disks, so it
// marks nothing any more: what it says of them may be true of the old ones only.
func (f *fold) replaceReplica(c *catalogpb.ReplaceReplica) error {
	v, err := f.inMap(c.GetVolume())
	if err != nil {
		return err
	}
	if c.GetFrom() > numberMax || c.GetTo() > numberMax {
		return refuse(ErrInvalid, "disk numbers %d and %d: want 1 to %d", c.GetFrom(), c.GetTo(), numberMax)
	}
	from, to, p := extmap.Disk(c.GetFrom()), extmap.Disk(c.GetTo()), f.Pool(v.Pool)
	topo, _ := f.topology(p.Domain)
	m, err := f.extents.Replace(v.ID, from, to, c.GetGeneration(), int(p.MinInSync), topo)
	if err != nil {
		return refuse(ErrConflict, "volume %q: %v", v.Name, err)
	}
	f.extents = m
	f.endOwner(v, func(v *Volume, epoch uint64) { v.ReplacedIn = epoch })
	f.quietly("volume.replace", v.Name, "disk %d takes the place of disk %d", to, from)
	return nil
}

// inMap finds a volume of several copies for a command.
func (f *fold) inMap(id []byte) (*Volume, error) {
	want, _ := idFrom(id)
	v := f.VolumeByID(want)
	switch {
	case v == nil:
		return nil, refuse(ErrNotFound, "no volume with id %s", want)
	case f.extents.Volume(want) == nil:
		return nil, refuse(ErrConflict, "volume %q is being deleted, or lives on one disk", v.Name)
	}
	return v, nil
}

// readMap reads the extent map, which begins in a part of a snapshot and goes on in
// those that next returns.
func (l *loader) readMap(first *catalogpb.Snapshot, next func() (*catalogpb.Snapshot, error)) error {
	r := &mapReader{chunks: first.GetExtentMap(), next: func() ([][]byte, error) {
		p, err := next()
		if p != nil {
			l.add(p)
		}
		return p.GetExtentMap(), err
	}}
	m, err := extmap.Read(r)
	l.s.extents, l.mapped = m, true
	l.bad = l.bad || slices.ContainsFunc(r.chunks, func(c []byte) bool { return len(c) > 0 })
	return err
}

// mapReader makes one stream of the parts of an extent map.
type mapReader struct {
	chunks [][]byte
	next   func() ([][]byte, error) // none when there are no more
}

// Read implements io.Reader.
func (r *mapReader) Read(b []byte) (int, error) {
	for len(r.chunks) == 0 || len(r.chunks[0]) == 0 {
		if len(r.chunks) > 0 {
			r.chunks = r.chunks[1:]
			continue
		}
		chunks, err := r.next()
		if err == nil && len(chunks) == 0 {
			err = errMapCut
		}
		if err != nil {
			return 0, err
		}
		r.chunks = chunks
	}
	n := copy(b, r.chunks[0])
	r.chunks[0] = r.chunks[0][n:]
	return n, nil
}

var (
	errMapCut  = errors.New("the extent map is not whole")
	errStopped = errors.New("nobody wants the rest")
)

// mapPart is how much of the map one part of a snapshot has, in bytes, about.
const mapPart = 256 << 10

// mapParts yields the extent map in parts; nothing when it is empty.
func (s *State) mapParts(yield func(*catalogpb.Snapshot) bool) {
	for range s.extents.Volumes() {
		w := &mapWriter{yield: yield}
		if _, err := s.extents.WriteTo(w); err == nil {
			w.flush()
		}
		return
	}
}

type mapWriter struct {
	yield func(*catalogpb.Snapshot) bool
	buf   []byte
}

// Write implements io.Writer.
func (w *mapWriter) Write(b []byte) (int, error) {
	w.buf = append(w.buf, b...)
	if len(w.buf) >= mapPart && !w.flush() {
		return 0, errStopped
	}
	return len(b), nil
}

func (w *mapWriter) flush() bool {
	p := &catalogpb.Snapshot{ExtentMap: [][]byte{w.buf}}
	w.buf = nil
	return w.yield(p)
}

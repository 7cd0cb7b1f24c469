package catalog

import (
	"cmp"
	"slices"
	"time"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
)

// DiskState says how far a disk takes part.
type DiskState string

// The states of disks. One that is removed is gone from the list.
const (
	DiskActive   DiskState = "active"
	DiskDraining DiskState = "draining" // gets nothing new; what it has is being moved away
	DiskDrained  DiskState = "drained"  // has nothing any more
	DiskFailed   DiskState = "failed"   // gets nothing new; what it has may be lost
)

func (s DiskState) valid() bool {
	return s == DiskActive || s == DiskDraining || s == DiskDrained || s == DiskFailed
}

// Disk is a store that volumes have data on. Its ID is the store's UUID.
type Disk struct {
	ID ID
	// Number is what the extent map calls it; no other disk ever has it. 0
	// in a State of version 1.
	Number        extmap.Disk
	Node          ID // zero before nodes were known
	Path          string
	CapacityBytes int64 // 0 when it is not known
	State         DiskState
	Reason        string // for the state
	Created       time.Time
}

// DiskByID returns the disk with the identifier, or nil.
func (s *State) DiskByID(id ID) *Disk {
	if id.IsZero() {
		return nil
	}
	for i := range s.Disks {
		if s.Disks[i].ID == id {
			return &s.Disks[i]
		}
	}
	return nil
}

// DiskByNumber returns the disk with the number, or nil.
func (s *State) DiskByNumber(number extmap.Disk) *Disk {
	if i, ok := search(s.Disks, number, func(d *Disk) extmap.Disk { return d.Number }); ok && number != 0 {
		return &s.Disks[i]
	}
	return nil
}

// NodeOfVolume returns the node that alone holds the volume's data, or nil when
// that is not known, or several do.
func (s *State) NodeOfVolume(v *Volume) *Node {
	if d := s.DiskByID(v.Home); d != nil {
		return s.NodeByID(d.Node)
	}
	return s.NodeByID(v.Home)
}

// volumesOn counts the volumes that live on a disk.
func (s *State) volumesOn(disk ID) int {
	n := 0
	for i := range s.Volumes {
		if s.Volumes[i].Home == disk {
			n++
		}
	}
	return n
}

// copiesOn counts the volumes of several copies that have one on a disk.
func (s *State) copiesOn(disk ID) int {
	return s.volumesWith(func(d *Disk) bool { return d.ID == disk })
}

func (f *fold) registerDisk(c *catalogpb.RegisterDisk) (ID, error) {
	id, ok := idFrom(c.GetId())
	node, _ := idFrom(c.GetNode())
	switch {
	case !ok:
		return ID{}, refuse(ErrInvalid, "identifier of %d bytes: want 16, not all zero", len(c.GetId()))
	case len(c.GetNode()) > 0 && f.NodeByID(node) == nil:
		return ID{}, refuse(ErrNotFound, "no node %s; see `blockctl node list`", node)
	case len(c.GetPath()) > pathMax || c.GetCapacityBytes() < 0:
		return ID{}, refuse(ErrInvalid, "a disk with a path of %d bytes and %d bytes of capacity: a path has at most %d bytes", len(c.GetPath()), c.GetCapacityBytes(), pathMax)
	}
	i := slices.IndexFunc(f.Disks, func(d Disk) bool { return d.ID == id })
	switch {
	case i >= 0:
		return id, f.updateDisk(i, node, c)
	case f.identified(id):
		return ID{}, refuse(ErrConflict, "identifier %s is in use", id)
	case len(f.Disks) >= DisksMax:
		return ID{}, refuse(ErrConflict, "there are %d disks, the most there can be", DisksMax)
	}
	if !node.IsZero() {
		f.settle(id)
	}
	number, err := f.nextDisk()
	if err != nil {
		return ID{}, err
	}
	f.Disks = inserted(f.Disks, len(f.Disks), Disk{ID: id, Number: number, Node: node, Path: c.GetPath(), CapacityBytes: c.GetCapacityBytes(), State: DiskActive, Created: f.now})
	f.did("disk.register", c.GetPath(), "id %s", id)
	return id, nil
}

// updateDisk takes over what has changed of a disk. It may be told once which node it is on; to another it doesn't go:
// then its data would be served twice.
func (f *fold) updateDisk(i int, node ID, c *catalogpb.RegisterDisk) error {
	d := f.Disks[i]
	switch {
	case node.IsZero():
		return refuse(ErrConflict, "disk %s is registered already", d.ID)
	case !d.Node.IsZero() && d.Node != node:
		return refuse(ErrConflict, "disk %s is registered at another node, %s; remove it there first", d.ID, d.Node)
	}
	f.settle(d.ID)
	d.Node, d.Path, d.CapacityBytes = node, c.GetPath(), c.GetCapacityBytes()
	f.Disks = replaced(f.Disks, i, d)
	f.did("disk.set", d.Path, "id %s, node %s, %d bytes", d.ID, node, d.CapacityBytes)
	return nil
}

// settle puts the volumes that were made before disks were known to be on
// nodes on the first one that is: there was no other.
func (f *fold) settle(disk ID) {
	if slices.ContainsFunc(f.Disks, func(d Disk) bool { return !d.Node.IsZero() }) {
		return
	}
	f.Volumes = slices.Clone(f.Volumes)
	for i := range f.Volumes {
		if p := f.Pool(f.Volumes[i].Pool); f.Volumes[i].Home.IsZero() && p.Media == MediaDisk && p.Spread() == 1 {
			f.Volumes[i].Home = disk
		}
	}
}

func (f *fold) namedDisk(id []byte) (int, error) {
	want, _ := idFrom(id)
	i := slices.IndexFunc(f.Disks, func(d Disk) bool { return d.ID == want })
	if i < 0 {
		return 0, refuse(ErrNotFound, "no disk %s; see `blockctl disk list`", want)
	}
	return i, nil
}

func (f *fold) setDiskState(c *catalogpb.SetDiskState) error {
	i, err := f.namedDisk(c.GetId())
	if err != nil {
		return err
	}
	d, to := f.Disks[i], DiskState(c.GetState())
	if !to.valid() || len(c.GetReason()) > reasonMax {
		return refuse(ErrInvalid, "state %q of a disk: want active, draining, drained or failed, and a reason of at most %d bytes", c.GetState(), reasonMax)
	}
	if n := f.volumesOn(d.ID); to == DiskDrained && n > 0 {
		return refuse(ErrConflict, "disk %s is not drained: it still has %s", d.ID, plural(n, "volume", "volumes"))
	}
	if n := f.copiesOn(d.ID); to == DiskDrained && n > 0 {
		return refuse(ErrConflict, "disk %s is not drained: it still has a copy of %s", d.ID, plural(n, "volume", "volumes"))
	}
	from := d.State
	d.State, d.Reason = to, c.GetReason()
	f.Disks = replaced(f.Disks, i, d)
	f.did("disk.state", d.ID.String(), "%s to %s; %s", from, to, cmp.Or(d.Reason, "no reason given"))
	return nil
}

func (f *fold) removeDisk(c *catalogpb.RemoveDisk) error {
	i, err := f.namedDisk(c.GetId())
	if err != nil {
		return err
	}
	d := f.Disks[i]
	switch n := f.volumesOn(d.ID); {
	case n > 0:
		return refuse(ErrConflict, "disk %s still has %s, and nothing else has their data; delete them first", d.ID, plural(n, "volume", "volumes"))
	case f.copiesOn(d.ID) > 0:
		return refuse(ErrConflict, "disk %s has a copy of %s, which other disks must have first: `blockctl disk drain` moves them there; `blockctl explain VOLUME` says what one waits for", d.ID, plural(f.copiesOn(d.ID), "volume", "volumes"))
	case d.State != DiskDrained && !c.GetForce():
		return refuse(ErrConflict, "disk %s is %s, not drained, though it has no volumes; only by force is it removed like this", d.ID, d.State)
	}
	f.Disks = without(f.Disks, i)
	f.did("disk.remove", d.ID.String(), "path %s", d.Path)
	return nil
}

// chooseHome finds where a new volume lives. home is what was asked for; zero
// means the active disk with the least of volumes' sizes on it, the lowest
// identifier among equals, or the node likewise in a pool in memory. Without any node
// there is one place only, and its ID is not known yet.
func (f *fold) chooseHome(p *Pool, asked []byte) (ID, error) {
	home, _ := idFrom(asked)
	if len(asked) > 0 {
		if err := f.checkHome(p, home); err != nil {
			return ID{}, err
		}
		return home, nil
	}
	used := map[ID]int64{}
	for i := range f.Volumes {
		used[f.Volumes[i].Home] += f.Volumes[i].SizeBytes
	}
	best, found := ID{}, false
	consider := func(id ID) {
		if f.checkHome(p, id) == nil && (!found || cmp.Or(cmp.Compare(used[id], used[best]), compareIDs(id, best)) < 0) {
			best, found = id, true
		}
	}
	for i := range f.Disks {
		consider(f.Disks[i].ID)
	}
	for i := range f.Nodes {
		consider(f.Nodes[i].ID)
	}
	if !found && len(f.Nodes) > 0 && p.Media == MediaRAM {
		return ID{}, refuse(ErrConflict, "no active node can hold a volume of pool %q; see `blockctl node list`", p.Name)
	}
	if !found && len(f.Nodes) > 0 && slices.ContainsFunc(f.Disks, func(d Disk) bool { return !d.Node.IsZero() }) {
		return ID{}, refuse(ErrConflict, "no active disk of an active node can hold a volume of pool %q; see `blockctl disk list`", p.Name)
	}
	return best, nil
}

// checkHome refuses a place where no new volume of the pool can live.
func (f *fold) checkHome(p *Pool, home ID) error {
	n, d := f.NodeByID(home), f.DiskByID(home)
	if d != nil {
		n = f.NodeByID(d.Node)
	}
	switch {
	case p.Media == MediaDisk && d == nil:
		return refuse(ErrNotFound, "no disk %s; see `blockctl disk list`", home)
	case d != nil && (p.Media == MediaRAM || d.State != DiskActive):
		return refuse(ErrConflict, "disk %s is %s, and the volume is of media %s", home, d.State, p.Media)
	case n == nil:
		return refuse(ErrNotFound, "no node for %s; see `blockctl node list`", home)
	case n.State != NodeActive:
		return refuse(ErrConflict, "node %q is %s", n.Name, n.State)
	}
	return nil
}

func diskTo(e *Disk) *catalogpb.Disk {
	d := &catalogpb.Disk{Id: e.ID[:], Number: uint32(e.Number), Path: e.Path, CreatedUnixNano: e.Created.UnixNano(), Node: idTo(e.Node),
		CapacityBytes: e.CapacityBytes, Reason: e.Reason}
	if e.State != DiskActive {
		d.State = string(e.State)
	}
	return d
}

func (l *loader) disk(e *catalogpb.Disk) Disk {
	d := Disk{ID: l.id(e.GetId(), false), Number: extmap.Disk(l.number(e.GetNumber())), Node: l.id(e.GetNode(), true), Path: e.GetPath(), CapacityBytes: e.GetCapacityBytes(),
		State: cmp.Or(DiskState(e.GetState()), DiskActive), Reason: e.GetReason(), Created: decodeTime(e.GetCreatedUnixNano())}
	l.bad = l.bad || !d.State.valid()
	return d
}

package catalog

import (
	"cmp"
	"time"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// Lease says which node may serve a volume. Its epoch only grows, and grows
// with every grant to another owner, so that stores can tell an old owner.
// How long it lasts is no part of the state: the leader and the owner count
// that by their own clocks.
type Lease struct {
	Volume      ID
	Owner       ID // a node; zero for nobody
	Epoch       uint64
	Incarnation uint64 // of the owner's process
	MoveTo      ID     // the node that should have it next; zero for any
	Since       time.Time
}

// Lease returns the lease of a volume; ok is false when it never had one.
func (s *State) Lease(volume ID) (l Lease, ok bool) { return s.leases.get(volume) }

// Leases returns the leases of all volumes that ever had one, by volume.
func (s *State) Leases() []Lease { return s.leases.values() }

// grantLease gives a lease to a node, if nobody else was given it in between.
// The same owner gets the same lease again. Leases are not in the audit log: the loss of a
// node with thousands of volumes would leave nothing else in it.
func (f *fold) grantLease(c *catalogpb.GrantLease) (ID, error) {
	id, _ := idFrom(c.GetVolume())
	v := f.VolumeByID(id)
	node, _ := idFrom(c.GetNode())
	n := f.NodeByID(node)
	switch {
	case v == nil:
		return ID{}, refuse(ErrNotFound, "no volume with id %s", id)
	case n == nil:
		return ID{}, refuse(ErrNotFound, "no node with id %s", node)
	}
	l, _ := f.leases.get(id)
	if l.Owner == node && l.Incarnation == c.GetIncarnation() {
		f.quietly("lease.grant", v.Name, "node %s has it, epoch %d", n.Name, l.Epoch)
		return id, nil
	}
	if l.Epoch != c.GetExpectEpoch() {
		return ID{}, refuse(ErrConflict, "the lease of volume %q has epoch %d, not %d: somebody else was given it", v.Name, l.Epoch, c.GetExpectEpoch())
	}
	next := Lease{Volume: id, Owner: node, Epoch: l.Epoch + 1, Incarnation: c.GetIncarnation(), MoveTo: l.MoveTo, Since: f.now}
	if next.MoveTo == node {
		next.MoveTo = ID{}
	}
	f.leases = f.leases.put(id, next)
	f.quietly("lease.grant", v.Name, "to node %s, epoch %d", n.Name, next.Epoch)
	return id, nil
}

// releaseLease is an owner's word that it does not serve the volume any more.
func (f *fold) releaseLease(c *catalogpb.ReleaseLease) error {
	id, _ := idFrom(c.GetVolume())
	node, _ := idFrom(c.GetNode())
	l, ok := f.leases.get(id)
	switch {
	case !ok:
		return refuse(ErrNotFound, "volume %s has no lease", id)
	case l.Owner.IsZero() && l.Epoch == c.GetEpoch():
		f.quietly("lease.release", id.String(), "it is free, epoch %d", l.Epoch)
		return nil
	case l.Owner != node || l.Epoch != c.GetEpoch():
		return refuse(ErrConflict, "the lease of volume %s is not node %s's with epoch %d: it has epoch %d", id, node, c.GetEpoch(), l.Epoch)
	}
	l.Owner, l.Incarnation, l.Since = ID{}, 0, f.now
	f.leases = f.leases.put(id, l)
	f.quietly("lease.release", id.String(), "by node %s, epoch %d", node, l.Epoch)
	return nil
}

// moveLease says who should have a lease next: the owner gives it back, and
// it is granted to that node.
func (f *fold) moveLease(c *catalogpb.MoveLease) error {
	i, err := f.liveVolume(c.GetVolume())
	if err != nil {
		return err
	}
	v := &f.Volumes[i]
	l, ok := f.leases.get(v.ID)
	if !ok {
		return refuse(ErrConflict, "volume %q has no lease yet", v.Name)
	}
	l.MoveTo = ID{}
	if c.GetNode() != "" {
		j, err := f.namedNode(c.GetNode())
		if err != nil {
			return err
		}
		n := &f.Nodes[j]
		home := f.NodeOfVolume(v)
		switch {
		case n.State != NodeActive:
			return refuse(ErrConflict, "node %q is %s", n.Name, n.State)
		case home != nil && home.ID != n.ID:
			return refuse(ErrConflict, "volume %q lives on node %q alone, so no other node can serve it; that takes the replicated data path, which this version does not have", v.Name, home.Name)
		}
		if l.Owner != n.ID {
			l.MoveTo = n.ID
		}
	}
	f.leases = f.leases.put(v.ID, l)
	f.did("lease.move", v.Name, "to node %s", cmp.Or(c.GetNode(), "any"))
	return nil
}

func leaseTo(e *Lease) *catalogpb.Lease {
	return &catalogpb.Lease{Volume: e.Volume[:], Owner: idTo(e.Owner), Epoch: e.Epoch, Incarnation: e.Incarnation,
		MoveTo: idTo(e.MoveTo), SinceUnixNano: e.Since.UnixNano()}
}

func (l *loader) lease(e *catalogpb.Lease) Lease {
	return Lease{Volume: l.id(e.GetVolume(), false), Owner: l.id(e.GetOwner(), true), Epoch: e.GetEpoch(),
		Incarnation: e.GetIncarnation(), MoveTo: l.id(e.GetMoveTo(), true), Since: decodeTime(e.GetSinceUnixNano())}
}

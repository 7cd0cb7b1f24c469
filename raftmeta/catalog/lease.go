package catalog

import (
	"bytes"
	"cmp"
	"errors"
	"time"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/lease"
)

// Lease says which node may serve a volume. Its epoch only grows, and grows
// with every grant, so that stores can tell an old owner. How long it lasts is no
// part of the state: the leader and the owner count that, see package lease.
type Lease struct {
	Volume      ID
	Owner       ID // a node, perhaps one that was removed; zero for nobody
	Epoch       uint64
	Incarnation uint64    // of the owner's process
	MoveTo      ID        // the node that should have it next; zero for any
	Since       time.Time // when it became the owner's, or nobody's
}

// leaseNote is what the catalog knows of a lease besides lease.Table.
type leaseNote struct {
	moveTo ID
	since  time.Time
}

// Lease returns the lease of a volume; ok is false when it never had one.
func (s *State) Lease(volume ID) (l Lease, ok bool) {
	e := s.leases.Get(volume)
	if e.Epoch == 0 {
		return Lease{}, false
	}
	note, _ := s.leaseNotes.Get(volume)
	return Lease{volume, nodeOfOwner(e.Owner), e.Epoch, e.Incarnation, note.moveTo, note.since}, true
}

// Leases returns the leases of all volumes that ever had one, by volume.
func (s *State) Leases() []Lease {
	out := make([]Lease, 0, s.leases.Len())
	for v := range s.leases.All() {
		l, _ := s.Lease(v)
		out = append(out, l)
	}
	return out
}

// LeaseTable returns the leases as lease.Leader and lease.Holder take them.
// Nodes have their IDs in hexadecimal there.
func (s *State) LeaseTable() lease.Table { return s.leases }

// nodeOfOwner is the inverse of ID.String, for owners that the state machine
// has let in.
func nodeOfOwner(owner string) ID {
	id, _ := ParseID(owner)
	return id
}

// leaseRefusal gives an error of lease.Table its kind.
func leaseRefusal(err error) error {
	if errors.Is(err, lease.ErrNode) {
		return refuse(ErrInvalid, "%v", err)
	}
	return refuse(ErrConflict, "%v", err)
}

// setLease puts the changed table in place, and notes since when.
func (f *fold) setLease(t lease.Table, volume ID) {
	f.leases = t
	note, _ := f.leaseNotes.Get(volume)
	note.since = f.now
	if e := t.Get(volume); note.moveTo == nodeOfOwner(e.Owner) {
		note.moveTo = ID{}
	}
	f.leaseNotes = f.leaseNotes.With(volume, note)
}

// grantLease gives a lease to a node, if nobody else was given it in between.
// The same grant again is the same lease. Leases are not in the audit log: the loss of a
// node with thousands of volumes would leave nothing else in it.
func (f *fold) grantLease(c *catalogpb.GrantLease) (ID, error) {
	id, _ := idFrom(c.GetVolume())
	node, _ := idFrom(c.GetNode())
	v, n := f.VolumeByID(id), f.NodeByID(node)
	switch {
	case v == nil:
		return ID{}, refuse(ErrNotFound, "no volume with id %s", id)
	case n == nil:
		return ID{}, refuse(ErrNotFound, "no node with id %s", node)
	}
	have := f.leases.Get(id)
	if have.Owner == node.String() && have.Incarnation == c.GetIncarnation() && have.Epoch == c.GetExpectEpoch()+1 {
		f.quietly("lease.grant", v.Name, "node %s has it, epoch %d", n.Name, have.Epoch)
		return id, nil
	}
	table, e, err := f.leases.Grant(id, c.GetExpectEpoch(), node.String(), c.GetIncarnation())
	if err != nil {
		return ID{}, leaseRefusal(err)
	}
	f.setLease(table, id)
	f.quietly("lease.grant", v.Name, "to node %s, epoch %d", n.Name, e.Epoch)
	return id, nil
}

// releaseLease is an owner's word that it does not serve the volume any more.
// Another node may get the lease at once.
func (f *fold) releaseLease(c *catalogpb.ReleaseLease) error {
	id, _ := idFrom(c.GetVolume())
	node, _ := idFrom(c.GetNode())
	to, _ := idFrom(c.GetToNode())
	v := f.VolumeByID(id)
	switch {
	case v == nil:
		return refuse(ErrNotFound, "no volume with id %s", id)
	case !to.IsZero() && f.NodeByID(to) == nil:
		return refuse(ErrNotFound, "no node with id %s", to)
	}
	table, err := f.leases.Release(id, c.GetEpoch(), node.String(), c.GetIncarnation())
	if err == nil && !to.IsZero() {
		table, _, err = table.Grant(id, c.GetEpoch(), to.String(), c.GetToIncarnation())
	}
	if err != nil {
		return leaseRefusal(err)
	}
	f.setLease(table, id)
	f.quietly("lease.release", v.Name, "by node %s, epoch %d", node, c.GetEpoch())
	return nil
}

// forgetMoves takes back that a node, which is being removed, should have
// leases. What it owns stays its own until it is granted to another: only the
// leader knows when the node can't count on it any more.
func (f *fold) forgetMoves(node ID) {
	for id, note := range f.leaseNotes.All() {
		if note.moveTo == node {
			note.moveTo = ID{}
			f.leaseNotes = f.leaseNotes.With(id, note)
		}
	}
}

// forgetLease drops what is known of the lease of a volume whose data is gone:
// nobody can serve it any more.
func (f *fold) forgetLease(volume ID) {
	if l, ok := f.Lease(volume); ok {
		table := f.leases
		if !l.Owner.IsZero() {
			table, _ = table.Release(volume, l.Epoch, l.Owner.String(), l.Incarnation)
		}
		table, err := table.Forget(volume)
		if err != nil {
			panic("catalog: " + err.Error()) // it has no owner now
		}
		f.leases = table
	}
	f.leaseNotes = f.leaseNotes.Without(volume)
}

// moveLease says who should have a lease next: the owner gives it back, and
// it is granted to that node.
func (f *fold) moveLease(c *catalogpb.MoveLease) error {
	i, err := f.liveVolume(c.GetVolume())
	if err != nil {
		return err
	}
	v := &f.Volumes[i]
	l, ok := f.Lease(v.ID)
	if !ok {
		return refuse(ErrConflict, "volume %q has no lease yet", v.Name)
	}
	note := leaseNote{since: l.Since}
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
			return refuse(ErrConflict, "volume %q lives on node %q alone, so no other node can serve it; %s", v.Name, home.Name, f.whatMoves())
		}
		if l.Owner != n.ID {
			note.moveTo = n.ID
		}
	}
	f.leaseNotes = f.leaseNotes.With(v.ID, note)
	f.did("lease.move", v.Name, "to node %s", cmp.Or(c.GetNode(), "any"))
	return nil
}

// whatMoves says which volumes can be served by another node.
func (f *fold) whatMoves() string {
	if f.version < 2 {
		return "that takes the replicated data path, which this version does not have"
	}
	return "that takes a volume of a pool with several copies"
}

// leaseTableParts is the encoding of the lease table, in parts.
func (s *State) leaseTableParts() []string {
	if s.leases.Len() == 0 {
		return nil
	}
	var b bytes.Buffer
	_, _ = s.leases.WriteTo(&b) // a Buffer has no errors
	var parts []string
	for chunk := b.Next(256 << 10); len(chunk) > 0; chunk = b.Next(256 << 10) {
		parts = append(parts, string(chunk))
	}
	return parts
}

// finishLeases reads the lease table when all its parts are there.
func (l *loader) finishLeases() {
	if l.leaseTable.Len() == 0 {
		return
	}
	t, err := lease.ReadTable(&l.leaseTable)
	l.bad = l.bad || err != nil || l.leaseTable.Len() > 0
	for _, e := range t.All() {
		_, ok := ParseID(e.Owner)
		l.bad = l.bad || e.Owner != "" && !ok
	}
	l.s.leases = t
}

func leaseTo(e *Lease) *catalogpb.Lease {
	return &catalogpb.Lease{Volume: e.Volume[:], MoveTo: idTo(e.MoveTo), SinceUnixNano: e.Since.UnixNano()}
}

func (l *loader) leaseNote(e *catalogpb.Lease) {
	id := l.id(e.GetVolume(), false)
	_, twice := l.s.leaseNotes.Get(id)
	l.bad = l.bad || twice
	l.s.leaseNotes = l.s.leaseNotes.With(id, leaseNote{l.id(e.GetMoveTo(), true), decodeTime(e.GetSinceUnixNano())})
}

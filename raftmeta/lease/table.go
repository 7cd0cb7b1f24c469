package lease

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"

	"blockd.dev/raftmeta/idmap"
	"blockd.dev/raftmeta/sethash"
)

// VolumeID identifies a volume for ever.
type VolumeID = idmap.ID

// NodeMax is the longest name of a node in bytes.
const NodeMax = 255

// Entry is who owns a volume.
type Entry struct {
	// Owner is the identifier of a node; empty while nobody owns the volume.
	Owner string
	// Incarnation is the start of the owner's process that the volume was
	// granted to, 1 or more; 0 without an owner.
	Incarnation uint64
	// Epoch counts the grants of this volume. It never goes back.
	Epoch uint64
}

// The reasons why a change is refused. They come wrapped in what was asked.
var (
	// ErrEpoch: the change was decided on an entry that has changed since.
	ErrEpoch = errors.New("the lease has changed meanwhile; look at it again")
	// ErrNotOwner: who gives a volume back does not own it.
	ErrNotOwner = errors.New("another node or another start of the node owns the volume")
	// ErrOwned: the volume has an owner.
	ErrOwned = errors.New("the volume has an owner, which must give it back first")
	// ErrNode: the name of the node or its incarnation is not one.
	ErrNode = errors.New("a node is named by 1 to 255 bytes, and its incarnation is not 0")
)

// Table is the replicated part of all leases: an immutable value. The zero
// Table is empty. Its methods are deterministic, so equal commands in equal
// order give equal Tables everywhere.
type Table struct {
	m   idmap.Map[Entry]
	sum sethash.Sum
}

// Get returns the entry of a volume; the zero Entry for one that never had an owner.
func (t Table) Get(v VolumeID) Entry {
	e, _ := t.m.Get(v)
	return e
}

// Len returns the number of entries.
func (t Table) Len() int { return t.m.Len() }

// All yields the entries in the order of volumes.
func (t Table) All() iter.Seq2[VolumeID, Entry] { return t.m.All() }

// Hash is equal for equal Tables. It costs the same however many entries there are.
func (t Table) Hash() [32]byte { return t.sum.Bytes() }

// Grant makes a node the owner of v, in a new epoch, which is the present one
// plus one. The epoch that the decision was based on must be the present one
// (ErrEpoch); 0 for a volume that never had an owner. That no other node can
// still hold the lease is for Leader.Propose to say; a Table can't know.
func (t Table) Grant(v VolumeID, basedOn uint64, owner string, incarnation uint64) (Table, Entry, error) {
	if owner == "" || len(owner) > NodeMax || incarnation == 0 {
		return t, Entry{}, fmt.Errorf("lease: grant volume %x to %q, incarnation %d: %w", v, owner, incarnation, ErrNode)
	}
	old := t.Get(v)
	if old.Epoch != basedOn {
		return t, old, fmt.Errorf("lease: grant volume %x to %s: decided at epoch %d, now it is %d: %w", v, owner, basedOn, old.Epoch, ErrEpoch)
	}
	e := Entry{owner, incarnation, old.Epoch + 1}
	return t.with(v, e), e, nil
}

// Release ends the lease of an owner which has given it back. The epoch stays.
// Errors: ErrEpoch, ErrNotOwner.
func (t Table) Release(v VolumeID, epoch uint64, owner string, incarnation uint64) (Table, error) {
	if err := t.owns(v, epoch, owner, incarnation); err != nil {
		return t, fmt.Errorf("lease: release volume %x: %w", v, err)
	}
	return t.with(v, Entry{Epoch: epoch}), nil
}

// Transfer is Release and Grant in one: what the owner has given back goes to
// another node, or another incarnation. Errors: ErrEpoch, ErrNotOwner, ErrNode.
func (t Table) Transfer(v VolumeID, epoch uint64, owner string, incarnation uint64, to string, toIncarnation uint64) (Table, Entry, error) {
	released, err := t.Release(v, epoch, owner, incarnation)
	if err != nil {
		return t, t.Get(v), err
	}
	granted, e, err := released.Grant(v, epoch, to, toIncarnation)
	if err != nil {
		return t, t.Get(v), err
	}
	return granted, e, nil
}

// Forget drops the entry of a volume that was deleted and whose identifier
// will never be used again. ErrOwned while it has an owner.
func (t Table) Forget(v VolumeID) (Table, error) {
	e, ok := t.m.Get(v)
	if !ok {
		return t, nil
	}
	if e.Owner != "" {
		return t, fmt.Errorf("lease: forget volume %x of %s: %w", v, e.Owner, ErrOwned)
	}
	return Table{t.m.Without(v), t.sum.Sub(hash(v, e))}, nil
}

func (t Table) owns(v VolumeID, epoch uint64, owner string, incarnation uint64) error {
	e := t.Get(v)
	switch {
	case owner == "" || e.Owner != owner || e.Incarnation != incarnation:
		return fmt.Errorf("%s, incarnation %d, asked, the owner is %q, incarnation %d: %w", owner, incarnation, e.Owner, e.Incarnation, ErrNotOwner)
	case e.Epoch != epoch:
		return fmt.Errorf("asked at epoch %d, now it is %d: %w", epoch, e.Epoch, ErrEpoch)
	}
	return nil
}

func (t Table) with(v VolumeID, e Entry) Table {
	sum := t.sum
	if old, ok := t.m.Get(v); ok {
		sum = sum.Sub(hash(v, old))
	}
	return Table{t.m.With(v, e), sum.Add(hash(v, e))}
}

func hash(v VolumeID, e Entry) [32]byte { return sha256.Sum256(appendEntry(nil, v, e)) }

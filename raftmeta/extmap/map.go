package extmap

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"blockd.dev/raftmeta/idmap"
	"blockd.dev/raftmeta/sethash"
)

// VolumeID identifies a volume for ever.
type VolumeID = idmap.ID

// Disk is the number of a disk in its cluster, 1 or more, never given to
// another one. 0 is none.
type Disk uint16

// The reasons why a change is refused; they come wrapped in words.
var (
	ErrNoVolume  = errors.New("there is no such volume in the map")
	ErrExists    = errors.New("the volume is in the map already")
	ErrExtent    = errors.New("the extent is beyond the volume, or not in the state for this")
	ErrDisks     = errors.New("the disks can't be a replica set")
	ErrNotInSync = errors.New("the disk is not in sync for this volume")
	ErrLastCopy  = errors.New("an extent would have too few disks in sync to be read")

	ErrGeneration = errors.New("the state of the disk has changed meanwhile; look at it again")
	ErrChange     = errors.New("the state of the disk does not allow it")
)

// Topology tells which disks share a fate, at the level that a pool's policy
// asks for. It comes from the state, so it is the same on all nodes.
type Topology interface {
	// Domain returns the failure domain of a disk; ok is false for a disk
	// that nothing may be placed on, which may have a domain all the same.
	Domain(d Disk) (domain uint32, ok bool)
}

// Map is the extent map at one revision: an immutable value. The zero Map is empty.
type Map struct {
	volumes idmap.Map[*Volume]
	used    []uint32 // by disk: how many extents have it in their set or as a target
	sum     sethash.Sum
}

// Volume is one volume of a Map, immutable.
type Volume struct {
	id        VolumeID
	policy    Policy
	layout    Layout
	syncs     []Sync   // by disk, those that have a generation or a proof; others are in sync
	disks     []Disk   // that have, or are to have, an extent of it; ascending
	uses      []uint32 // of disks: how many extents, made from the pages
	root      []*node  // nil where nothing was ever allocated
	allocated uint32
	sum       sethash.Sum
}

const (
	pageExtents = 256
	nodePages   = 256
)

// node has the words of its pages side by side, and their moves apart, of which there
// are few: so many random lookups find all but the extent itself in the processor's caches.
type node struct {
	moves *[nodePages][]Move // nil while none of the pages has one
	words [nodePages][]Disk
}

// page is 256 extents; the zero page has never had a disk. What its slices
// point at is shared by many Maps and never changed.
type page struct {
	words []Disk
	moves []Move // by extent
}

func (n *node) page(i uint32) page {
	p := page{words: n.words[i]}
	if n.moves != nil {
		p.moves = n.moves[i]
	}
	return p
}

// with returns n with other pages, by their numbers within it.
func (n *node) with(pages map[uint32]*page) *node {
	out := &node{}
	var moves [nodePages][]Move
	if n != nil {
		out.words = n.words
		if n.moves != nil {
			moves = *n.moves
		}
	}
	for i, p := range pages {
		out.words[i], moves[i] = p.words, p.moves
	}
	if slices.ContainsFunc(moves[:], func(m []Move) bool { return len(m) > 0 }) {
		out.moves = &moves
	}
	return out
}

// genWords is how many words of an entry hold its generation.
const genWords = 2

// Move is an extent on its way: while it lasts, writes go to the set and to
// To; when it ends, To takes the place of From.
type Move struct {
	Extent   uint32
	From, To Disk
}

// Extent is what the map says of one extent.
type Extent struct {
	// Disks is the replica set, in order. It belongs to the map: do not change it.
	Disks      []Disk
	Generation uint32
	// From and To are set while the extent is moved.
	From, To Disk
}

// Volume returns a volume of the map, or nil.
func (m Map) Volume(id VolumeID) *Volume {
	v, _ := m.volumes.Get(id)
	return v
}

// Volumes yields all volumes in the order of identifiers.
func (m Map) Volumes() iter.Seq2[VolumeID, *Volume] { return m.volumes.All() }

// Hash is equal for equal Maps; it is kept up to date with each change, so it
// costs nothing to ask.
func (m Map) Hash() [32]byte { return m.sum.Bytes() }

// Used returns how many extents a disk keeps, those that move to it included.
func (m Map) Used(d Disk) uint32 {
	if int(d) >= len(m.used) {
		return 0
	}
	return m.used[d]
}

// Policy returns how the volume is kept.
func (v *Volume) Policy() Policy { return v.policy }

// Layout returns how its addresses lie on extents.
func (v *Volume) Layout() Layout { return v.layout }

// Allocated returns how many of its extents have disks.
func (v *Volume) Allocated() uint32 { return v.allocated }

// Disks returns the disks that have, or are to have, an extent of the volume, by
// number. It belongs to the map: do not change it.
func (v *Volume) Disks() []Disk { return v.disks }

// Uses returns how many extents of the volume a disk has, or is to have.
func (v *Volume) Uses(d Disk) uint32 {
	if i, ok := slices.BinarySearch(v.disks, d); ok {
		return v.uses[i]
	}
	return 0
}

// stride is how many words an extent takes.
func (v *Volume) stride() int { return genWords + v.policy.Width() }

// page returns a page, or nil when it is the zero page or beyond the volume.
func (v *Volume) page(number uint32) *page {
	i := number / nodePages
	if int(i) >= len(v.root) || v.root[i] == nil {
		return nil
	}
	if p := v.root[i].page(number % nodePages); p.words != nil {
		return &p
	}
	return nil
}

// Extent looks one extent up; ok is false while it is not allocated or beyond
// the volume. It does not allocate.
func (v *Volume) Extent(index uint32) (e Extent, ok bool) {
	number := index / pageExtents
	i, k := number/nodePages, number%nodePages
	if int(i) >= len(v.root) || v.root[i] == nil {
		return Extent{}, false
	}
	n := v.root[i]
	w := n.words[k]
	stride := len(w) / pageExtents
	at := int(index%pageExtents) * stride
	if stride == 0 {
		return Extent{}, false
	}
	w = w[at : at+stride : at+stride]
	e = Extent{Disks: w[genWords:], Generation: uint32(w[0]) | uint32(w[1])<<16}
	if n.moves != nil {
		e.From, e.To = n.move(k, index)
	}
	return e, w[genWords] != 0
}

// move returns the ends of the extent's move, if it has one.
func (n *node) move(page, extent uint32) (from, to Disk) {
	if i, moving := findMove(n.moves[page], extent); moving {
		return n.moves[page][i].From, n.moves[page][i].To
	}
	return 0, 0
}

// Moves yields the moves of a volume that have begun, in the order of extents.
// It looks only where there are some: the director asks each second.
func (v *Volume) Moves() iter.Seq[Move] {
	return func(yield func(Move) bool) {
		for _, n := range v.root {
			if n == nil || n.moves == nil {
				continue
			}
			for _, moves := range n.moves {
				for _, move := range moves {
					if !yield(move) {
						return
					}
				}
			}
		}
	}
}

// pages yields the pages that exist, with their numbers.
func (v *Volume) pages() iter.Seq2[uint32, page] {
	return func(yield func(uint32, page) bool) {
		for i, n := range v.root {
			if n == nil {
				continue
			}
			for j := range uint32(nodePages) {
				if p := n.page(j); p.words != nil && !yield(uint32(i)*nodePages+j, p) {
					return
				}
			}
		}
	}
}

// Ref names an extent of the map.
type Ref struct {
	Volume VolumeID
	Extent uint32
}

// OnDisk appends to dst the extents whose set has d, from the place `from` on,
// which is inclusive, until dst is full to its capacity. more is false when
// there are no others; otherwise next is where to go on, perhaps in a later Map.
//
// There is no index by disk. The words of a petabyte are 160 MiB, and looking
// through them takes well under a second (BenchmarkPebibyte), once per drain.
func (m Map) OnDisk(d Disk, from Ref, dst []Ref) (_ []Ref, next Ref, more bool) {
	for id, v := range m.volumes.All() {
		if string(id[:]) < string(from.Volume[:]) {
			continue
		}
		stride := v.stride()
		for number, p := range v.pages() {
			if id == from.Volume && (number+1)*pageExtents <= from.Extent {
				continue
			}
			for i := 0; i < len(p.words); i += stride {
				if !slices.Contains(p.words[i+genWords:i+stride], d) {
					continue
				}
				r := Ref{id, number*pageExtents + uint32(i/stride)}
				if id == from.Volume && r.Extent < from.Extent {
					continue
				}
				if len(dst) == cap(dst) {
					return dst, r, true
				}
				dst = append(dst, r)
			}
		}
	}
	return dst, Ref{}, false
}

// get returns a volume or an error in words.
func (m Map) get(id VolumeID) (*Volume, error) {
	v, ok := m.volumes.Get(id)
	if !ok {
		return nil, fmt.Errorf("extmap: volume %x: %w", id, ErrNoVolume)
	}
	return v, nil
}

// replace puts v, whose sum is right, in the place of the volume of its id.
func (m Map) replace(v *Volume) Map {
	if old := m.Volume(v.id); old != nil {
		m.sum = m.sum.Minus(old.sum)
	}
	m.volumes, m.sum = m.volumes.With(v.id, v), m.sum.Plus(v.sum)
	return m
}

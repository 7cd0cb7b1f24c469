package store

import (
	"cmp"
	"encoding/binary"
	"fmt"
)

// What a disk must remember of a replicated volume beside its data, see
// docs/REPLICATION.md: the fenced epoch, the watermark, the tail. A Note says
// how an op changes that, and is durable with it or not at all [I12]: it
// stands in the log record of the op. Invariant 1 holds for notes as for data.

// NoVersion marks a region of which nothing is known: it has taken a write
// while others were missing there. It is above every other version, so that
// only an op with Note.Exact, or without a Note, ends it.
var NoVersion = Version{^uint64(0), ^uint64(0)}

func (v Version) compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Epoch, w.Epoch), cmp.Compare(v.Seq, w.Seq))
}

// TailEntry is one write above the watermark. Off and Len are bytes.
type TailEntry struct {
	Ver      Version
	Off, Len int64
}

// ReplicaState is what a store remembers of a replicated volume.
type ReplicaState struct {
	Fenced uint64 // owners of older epochs are refused
	Stable uint64 // the watermark
	Last   uint64 // highest Seq of any write, copy or watermark
	Tail   []TailEntry
	// Unproven says that the disk may have lost what it had said to be durable: the machine
	// went down, and did not close the store first, since the volume was last vouched for. So is each
	// volume that is new to a store of which that has happened once.
	Unproven bool
}

// Bounds of notes.
const (
	// TailMax bounds a volume's tail. An op that would make it longer ends with
	// ErrBusy and changes nothing; a higher watermark makes room.
	TailMax = 4096
	// VoidMax bounds Note.Void. Whoever has more voids the first ones by ops of
	// their own: a region may lose its version early.
	VoidMax = 512
)

// Note is what an op of a replicated volume changes beside data and versions.
// The caller leaves it as it is until the op is done.
//
// With a Note, an op is atomic also on a full disk; there a write that is
// larger than a log batch (1 MiB, see Options), or than half of a small log, ends
// with ErrNoSpace.
type Note struct {
	Fence  uint64 // becomes the fenced epoch if higher; 0 leaves it
	Stable uint64 // becomes the watermark if higher: entries of the tail up to it are forgotten
	// Tail makes Ver, Off and Len of the op an entry of the tail.
	Tail bool
	// Exact makes the regions touched take Ver as it is. Otherwise they take the
	// higher of Ver and what they have, and one that nothing was ever written
	// near (in its span) has no version after an OpClear either.
	Exact bool
	// Void has the offsets of regions, multiples of ChunkBytes anywhere in the
	// volume, that take NoVersion, whatever else the op does to them.
	Void []int64
	// Forget empties the tail, before the op's own entry.
	Forget bool
	// Vouch ends ReplicaState.Unproven.
	Vouch bool
}

// tailOf is the entry that op adds to the tail; its Len is 0 when it adds none.
func (op *Op) tailOf() (e TailEntry) {
	if op.Note.Tail {
		e = TailEntry{Ver: op.Ver, Off: op.Off, Len: int64(op.Len)}
	}
	return e
}

func (op *Op) validNote() bool {
	switch op.Kind {
	case OpWrite, OpClear, OpZero:
	case OpNote:
		if op.Note.Tail || op.Note.Exact {
			return false
		}
	default:
		return false
	}
	for _, off := range op.Note.Void {
		if off < 0 || off >= maxVolumeBytes || off%ChunkBytes != 0 {
			return false
		}
	}
	return len(op.Note.Void) <= VoidMax
}

// needsPage tells whether an OpClear leaves something to remember in a span that
// nothing was written to.
func (op *Op) needsPage() bool {
	if op.Note.Exact && op.Ver != (Version{}) {
		return true
	}
	for _, off := range op.Note.Void {
		if off/SpanBytes == op.Off/SpanBytes {
			return true
		}
	}
	return false
}

// A note in a log record, behind the record's own payload:
//
//	0 flags u8 (1 fence, 2 stable, 4 tail, 8 forget, 16 vouch)   1 zero u8   2 voids u16
//	then, those that are there, in this order:
//	  fence u64   stable u64   tail { offset u64, length u32 }
//	  voids x u64, each the number of a region in the volume
const (
	noteHeader    = 4
	noteTailBytes = 12

	noteFence  = 1
	noteStable = 2
	noteTail   = 4
	noteForget = 8
	noteVouch  = 16
)

// noteBytes is the size of op's note in the log.
func (op *Op) noteBytes() int {
	n := op.Note
	if n == nil {
		return 0
	}
	size := noteHeader + 8*len(n.Void)
	if n.Fence != 0 {
		size += 8
	}
	if n.Stable != 0 {
		size += 8
	}
	if n.Tail {
		size += noteTailBytes
	}
	return size
}

// putNote encodes op's note at p.
func (op *Op) putNote(p []byte) {
	le, n := binary.LittleEndian, op.Note
	flags, q := byte(0), p[noteHeader:]
	put := func(flag byte, v uint64) {
		flags |= flag
		le.PutUint64(q, v)
		q = q[8:]
	}
	if n.Fence != 0 {
		put(noteFence, n.Fence)
	}
	if n.Stable != 0 {
		put(noteStable, n.Stable)
	}
	if e := op.tailOf(); e.Len != 0 {
		put(noteTail, uint64(e.Off))
		le.PutUint32(q, uint32(e.Len))
		q = q[4:]
	}
	if n.Forget {
		flags |= noteForget
	}
	if op.vouches {
		flags |= noteVouch
	}
	for _, off := range n.Void {
		le.PutUint64(q, uint64(off/ChunkBytes))
		q = q[8:]
	}
	p[0], p[1] = flags, 0
	le.PutUint16(p[2:], uint16(len(n.Void)))
}

// noteRecord is a decoded note. voids aliases the batch.
type noteRecord struct {
	fence, stable uint64
	tail          TailEntry // Len 0: none
	forget, vouch bool
	voids         []byte
}

func (n noteRecord) void(i int) int64 {
	return int64(binary.LittleEndian.Uint64(n.voids[8*i:])) * ChunkBytes
}

// decodeNote decodes all of p. ver is the record's.
func decodeNote(p []byte, ver Version) (n noteRecord, err error) {
	le := binary.LittleEndian
	size := len(p)
	short := func() error { return fmt.Errorf("%w: note of %d bytes does not match its flags", ErrCorrupt, size) }
	if len(p) < noteHeader {
		return n, short()
	}
	flags, voids := p[0], int(le.Uint16(p[2:]))
	if flags&^(noteFence|noteStable|noteTail|noteForget|noteVouch) != 0 || p[1] != 0 {
		return n, fmt.Errorf("%w: note with flags %#x %#x", ErrUnsupported, flags, p[1])
	}
	p = p[noteHeader:]
	for _, f := range []struct {
		flag byte
		to   *uint64
	}{{noteFence, &n.fence}, {noteStable, &n.stable}} {
		if flags&f.flag == 0 {
			continue
		}
		if len(p) < 8 {
			return n, short()
		}
		*f.to, p = le.Uint64(p), p[8:]
	}
	if flags&noteTail != 0 {
		if len(p) < noteTailBytes {
			return n, short()
		}
		n.tail = TailEntry{Ver: ver, Off: int64(le.Uint64(p)), Len: int64(le.Uint32(p[8:]))}
		p = p[noteTailBytes:]
		if !n.tail.valid() {
			return n, fmt.Errorf("%w: note of a write of %d bytes at %d", ErrCorrupt, n.tail.Len, n.tail.Off)
		}
	}
	n.forget, n.vouch = flags&noteForget != 0, flags&noteVouch != 0
	if len(p) != 8*voids || voids > VoidMax {
		return n, short()
	}
	n.voids = p
	for i := range voids {
		if r := le.Uint64(p[8*i:]); r >= uint64(maxVolumeBytes/ChunkBytes) {
			return n, fmt.Errorf("%w: note voids region %d", ErrCorrupt, r)
		}
	}
	return n, nil
}

// valid tells whether e may be the range of an Op.
func (e TailEntry) valid() bool {
	return e.Off >= 0 && e.Off < maxVolumeBytes && e.Len > 0 && e.Off%BlockBytes == 0 && e.Len%BlockBytes == 0 &&
		e.Off%SpanBytes+e.Len <= SpanBytes
}

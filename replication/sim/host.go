package sim

import (
	"encoding/binary"
	"errors"
	"time"

	"blockd.dev/replication/volume"
)

// forever is the end of what may still happen.
const forever = time.Duration(1<<62 - 1)

// record is one op as its host saw it.
type record struct {
	n        int
	kind     volume.OpKind
	off      int64
	blocks   int64
	value    uint64   // written; each op has its own, but clears have zero
	expect   uint64   // CompareWrite, of one block
	got      []uint64 // read
	call     time.Duration
	ret      time.Duration // forever: unknown
	ok       bool
	mismatch bool // it surely did not happen
	refused  bool // for want of space: it happened or not
	next     func()
}

// host has one op at a time.
type host struct {
	w    *world
	last map[int64]uint64 // value last seen, to compare with
}

func valueAt(b []byte, off int64) uint64 { return binary.LittleEndian.Uint64(b[off:]) }

// again is the host's loop.
func (h *host) again() {
	if h.w.calm {
		return
	}
	h.w.after(h.w.between(0, 2*time.Millisecond)+max(0, h.w.quiet-h.w.now), func() {
		r := &record{kind: volume.Read, blocks: 1 + h.w.rng.Int64N(3)}
		switch p := h.w.rng.Float64(); {
		case p < 0.4:
			r.kind = volume.Write
		case p < 0.45:
			r.kind, r.blocks = volume.CompareWrite, 1
		case p < 0.49:
			r.kind, r.blocks = volume.Unmap, 1+h.w.rng.Int64N(8)
		case p < 0.52:
			r.kind, r.blocks = volume.WriteZeroes, 1+h.w.rng.Int64N(8)
		case p < 0.55:
			r.kind, r.blocks = volume.Scrub, 4
		}
		span := h.w.meta.bytes() / blockBytes
		if h.w.chance(0.6) && r.blocks <= 6 {
			span = 6 // a hot place
		}
		if h.w.rare && r.kind != volume.Scrub && h.w.chance(0.8) {
			r.blocks, span = 1, regionBytes/blockBytes // hosts are side by side in it
		}
		r.off = h.w.rng.Int64N(span-r.blocks+1) * blockBytes
		if r.kind == volume.Scrub {
			r.off -= r.off % regionBytes
		}
		r.expect = h.last[r.off]
		h.start(r)
	})
}

// start sends r to a node that owns the volume, or believes so.
func (h *host) start(r *record) {
	w := h.w
	var owners []*node
	for _, n := range w.nodes {
		if n.alive && n.owner != nil && !n.owner.Over() {
			owners = append(owners, n)
		}
	}
	if len(owners) == 0 {
		w.after(3*time.Millisecond, func() {
			if w.calm {
				return
			}
			h.start(r)
		})
		return
	}
	n := owners[w.rng.IntN(len(owners))]
	h.issue(n, r, h.again)
}

func (h *host) issue(n *node, r *record, next func()) {
	w := h.w
	w.ops = append(w.ops, r)
	r.n, r.call, r.ret = len(w.ops), w.now, forever
	if r.kind == volume.Write || r.kind == volume.CompareWrite {
		r.value = uint64(r.n)
	}
	r.next = func() {
		r.next = nil
		for i, v := range r.got {
			h.last[r.off+int64(i)*blockBytes] = v
		}
		if r.ok && r.kind != volume.Read && r.kind != volume.Scrub {
			for i := range r.blocks {
				h.last[r.off+i*blockBytes] = r.value
			}
		}
		next()
	}
	op := &volume.Op{Kind: r.kind, Off: r.off, Tag: r}
	switch r.kind {
	case volume.Unmap, volume.WriteZeroes, volume.Scrub:
		op.Len = r.blocks * blockBytes
	case volume.CompareWrite:
		op.Compare = binary.LittleEndian.AppendUint64(nil, r.expect)
		fallthrough
	case volume.Read, volume.Write:
		op.Data = make([]byte, r.blocks*blockBytes)
		for i := range r.blocks {
			binary.LittleEndian.PutUint64(op.Data[i*blockBytes:], r.value)
		}
	}
	w.after(w.between(20*time.Microsecond, 400*time.Microsecond), func() {
		n.do(func() {
			if n.owner != nil {
				n.owner.Submit(n.clock(), op)
			}
		})
	})
	w.after(config.OpTimeout*5/4, func() { // the host gives up
		if r.next != nil {
			r.next()
		}
	})
}

// answered notes the end, unless the host has given up.
func (r *record) answered(w *world, err error, sent bool, data []byte) {
	if r.next == nil {
		return
	}
	r.refused = errors.Is(err, volume.ErrNoSpace)
	switch {
	case err == nil:
		r.ok, r.ret = true, w.now
		if r.kind == volume.Read {
			for off := int64(0); off < int64(len(data)); off += blockBytes {
				r.got = append(r.got, valueAt(data, off))
			}
		}
	case errors.Is(err, volume.ErrMismatch) || !sent:
		r.mismatch, r.ret = true, w.now
	}
	r.next()
}

package sim

import (
	"slices"
	"time"

	"blockd.dev/replication/replica"
)

// disk is a model of a store: what an op does happens at one instant between
// submission and completion and is durable from then on, unless it lies (lie.go).
type disk struct {
	w        *world
	image    []byte
	versions []replica.Version
	state    replica.State
	held     [mostBlocks]map[uint64]time.Duration // by value: when it last took that durably, or what came after it
	bad      map[int64]bool                       // blocks that can't be read
	slow     time.Duration
	each     time.Duration // what an op takes while others wait
	free     time.Duration // when those are done
	hung     time.Duration // until then changes don't end, though reads do
	hangs    float64       // of them, this part
	present  []bool        // blocks that take space, by the region
	space    int           // regions that it can hold; 0 is any number
	failing  bool          // the next change fails, and so does every one after, until the power is cut
	dead     bool
	pending  map[*diskOp]bool
	order    uint64
	past     []past // what it was before each of the last changes, if disks lie
	down     bool   // its machine is
	lies     bool   // and when that is back it may have lost some of these changes
	lied     bool   // it has done so once
}

type diskOp struct {
	op      *replica.Op
	applied bool
	n       uint64
}

func newDisk(w *world) *disk {
	d := &disk{w: w, image: make([]byte, mostBytes), versions: make([]replica.Version, mostBytes/regionBytes), present: make([]bool, mostBlocks),
		bad: map[int64]bool{}, pending: map[*diskOp]bool{}}
	return d
}

func (d *disk) submit(op *replica.Op, done func()) {
	d.order++
	x := &diskOp{op: op, n: d.order}
	d.pending[x] = true
	took := d.w.between(20*time.Microsecond, 800*time.Microsecond+d.slow)
	if d.each > 0 {
		d.free = max(d.free, d.w.now) + d.each
		took = d.free - d.w.now
	}
	if op.Changes() && d.w.now < d.hung && d.w.chance(d.hangs) {
		took += d.hung - d.w.now
	}
	failed := d.dead
	if op.Changes() && d.failing {
		d.dead, failed = true, true
	}
	d.w.after(time.Duration(d.w.rng.Int64N(int64(took)+1)), func() {
		if d.pending[x] && (!failed || !op.Changes() || d.w.chance(0.5)) {
			d.apply(x)
		}
	})
	d.w.after(took, func() {
		if d.pending[x] {
			delete(d.pending, x)
			if failed && op.Changes() {
				op.Err = replica.Failed
			}
			done()
		}
	})
}

// hang has all changes hang for a while, or some.
func (d *disk) hang(dur time.Duration) {
	d.hung, d.hangs = d.w.now+dur, 1
	if d.w.chance(0.5) {
		d.hangs = 0.2
	}
}

// powerCut ends everything; what was on its way has happened or not.
func (d *disk) powerCut() {
	left := make([]*diskOp, 0, len(d.pending))
	for x := range d.pending {
		left = append(left, x)
	}
	slices.SortFunc(left, func(a, b *diskOp) int { return int(a.n) - int(b.n) })
	for _, x := range left {
		if !x.applied && x.op.Changes() && !d.dead && d.w.chance(0.5) {
			d.apply(x)
		}
	}
	d.pending = map[*diskOp]bool{}
	d.failing, d.dead, d.free = false, false, 0
}

func (d *disk) apply(x *diskOp) {
	x.applied = true
	op := x.op
	op.Err = replica.OK
	if !d.fits(op) {
		op.Err = replica.NoSpace
		return
	}
	if op.Kind == replica.OpRead {
		for b := op.Off; b < op.Off+op.Len; b += blockBytes {
			if d.bad[b] {
				op.Err = replica.Medium
				return
			}
		}
		copy(op.Data, d.image[op.Off:op.Off+op.Len])
	}
	d.keep(op)
	s := &d.state
	for off := op.Off - op.Off%regionBytes; off < op.Off+op.Len; off += regionBytes {
		r := off / regionBytes
		switch {
		case !op.Changes():
			op.Vers = append(op.Vers, d.versions[r])
		case op.Writes() && (op.Copied || op.Ver.Compare(d.versions[r]) > 0):
			d.versions[r] = op.Ver
		}
	}
	if !op.Changes() {
		return
	}
	for _, off := range op.Void {
		d.versions[off/regionBytes] = replica.NoVersion
		if op.Kind == replica.OpFence && d.w.meta.to[off/extentBytes] != d.index() {
			d.w.late[off/regionBytes] = true
		}
	}
	switch op.Kind {
	case replica.OpWrite, replica.OpClear, replica.OpZero:
		if op.Kind == replica.OpWrite {
			copy(d.image[op.Off:], op.Data)
		} else {
			clear(d.image[op.Off : op.Off+op.Len])
		}
		for b := op.Off; b < op.Off+op.Len; b += blockBytes {
			d.present[b/blockBytes] = op.Kind != replica.OpClear
			delete(d.bad, b)
			d.holds(b)
			if op.Copied {
				d.inherit(b)
			}
		}
		if op.Ver != replica.NoVersion {
			s.Last = max(s.Last, op.Ver.Seq)
		}
		if !op.Copied {
			s.Tail = append(s.Tail, replica.Entry{Ver: op.Ver, Off: op.Off, Len: op.Len})
		}
	case replica.OpBegin:
		s.Tail = nil
	case replica.OpFence:
		s.Fenced = max(s.Fenced, op.Epoch)
	case replica.OpVouch:
		s.Unproven = false
	case replica.OpRead, replica.OpVersions:
	}
	s.Stable = max(s.Stable, op.Stable)
	s.Last = max(s.Last, s.Stable)
	s.Tail = slices.DeleteFunc(s.Tail, func(e replica.Entry) bool { return e.Ver.Seq <= s.Stable })
}

// index is that of its node.
func (d *disk) index() int {
	return slices.IndexFunc(d.w.nodes, func(n *node) bool { return n.disk == d })
}

// holds notes that d has now taken what block b is.
func (d *disk) holds(b int64) {
	held := &d.held[b/blockBytes]
	if *held == nil {
		*held = map[uint64]time.Duration{}
	}
	(*held)[valueAt(d.image, b)] = d.w.now
}

// inherit notes that d, which was given a copy of block b, has with it what
// its source has had there before.
func (d *disk) inherit(b int64) {
	for _, n := range d.w.nodes {
		if s := n.disk; s != nil && s != d && s.versions[b/regionBytes] == d.versions[b/regionBytes] && valueAt(s.image, b) == valueAt(d.image, b) {
			for value := range s.held[b/blockBytes] {
				d.held[b/blockBytes][value] = d.w.now
			}
		}
	}
}

// uses tells whether the region at off takes space.
func (d *disk) uses(off int64) bool {
	b := off / blockBytes
	return slices.Contains(d.present[b:b+regionBytes/blockBytes], true)
}

// fits tells whether there is space for op. On a full disk what is there can be
// written anew, but not always.
func (d *disk) fits(op *replica.Op) bool {
	if d.space == 0 || !op.Writes() || op.Kind == replica.OpClear {
		return true
	}
	free, need := d.space, 0
	for off := int64(0); off < mostBytes; off += regionBytes {
		switch {
		case d.uses(off):
			free--
		case off+regionBytes > op.Off && off < op.Off+op.Len:
			need++
		}
	}
	return need == 0 && (free > 0 || !d.w.chance(0.1)) || need > 0 && need <= free
}

// fill leaves the disk room for few regions more than it has.
func (d *disk) fill() {
	d.space = 1 + d.w.rng.IntN(3)
	for off := int64(0); off < mostBytes; off += regionBytes {
		if d.uses(off) {
			d.space++
		}
	}
	if d.w.chance(0.7) {
		d.space--
	}
}

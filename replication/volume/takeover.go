package volume

import (
	"slices"

	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// phase is how far the takeover is.
type phase uint8

const (
	collecting phase = iota // fencing the replicas in sync, and collecting tails
	equalizing              // writing again what not all of them have
	serving
)

// takeover moves on. Every replica in sync has to be fenced or marked out; a
// lease that may still read from one that was not fenced is waited out [I5].
func (o *Owner) takeover() {
	switch o.phase {
	case collecting:
		for d, c := range o.conns {
			if o.inSync.has(d) && c.state != up {
				return
			}
		}
		if !o.fencedAll() && o.now < o.waits && !mutation.On(mutation.SkipOldLeaseWait) {
			return
		}
		o.equalize()
		o.phase = equalizing
		fallthrough
	case equalizing:
		if len(o.queue) == 0 {
			o.phase = serving
		}
	case serving:
	}
}

// fencedAll tells whether nobody can read by an older lease. It asks all
// members, not those in sync: who is out may have been marked out by a
// takeover that ended before it had waited, and the owner before that one
// would not know.
func (o *Owner) fencedAll() bool {
	for _, c := range o.conns {
		if !c.fenced {
			return false
		}
	}
	return true
}

// startOver drops what takeover has done: the tails that it was built on may
// have changed. New sessions see to it that nothing of it arrives later.
func (o *Owner) startOver() {
	o.phase = collecting
	for _, p := range o.queue {
		p.state = done
	}
	o.queue = nil
	for d, c := range o.conns {
		if o.inSync.has(d) && c.state == up {
			c.state, c.calls, c.retry, c.since = down, nil, o.now, o.now
		}
	}
}

// equalize queues a write for each run of blocks that the newest unstable
// write to it did not reach on every replica: what a holder has there is
// written to all, forwards always [I7].
func (o *Owner) equalize() {
	type tailWrite struct {
		replica.Entry
		holders disks
	}
	var stable uint64
	for d, c := range o.conns {
		if o.inSync.has(d) {
			stable = max(stable, c.known)
			o.seq = max(o.seq, c.known, c.last)
		}
	}
	var tail []*tailWrite
	byVersion := map[replica.Version]*tailWrite{}
	for d, c := range o.conns {
		if !o.inSync.has(d) {
			continue
		}
		for _, e := range c.tail {
			if e.Ver.Seq <= stable {
				continue
			}
			w := byVersion[e.Ver]
			if w == nil {
				w = &tailWrite{Entry: e}
				byVersion[e.Ver] = w
				tail = append(tail, w)
			}
			w.holders |= one(d)
		}
	}
	slices.SortFunc(tail, func(a, b *tailWrite) int { return b.Ver.Compare(a.Ver) })
	covered := map[int64]bool{} // blocks that a newer write of the tail decides
	for _, w := range tail {
		for off := w.Off; off < w.Off+w.Len; {
			n := int64(0)
			for off+n < w.Off+w.Len && !covered[off+n] {
				covered[off+n] = true
				n += o.cfg.BlockBytes
			}
			if n > 0 && w.holders != o.inSync {
				o.queue = append(o.queue, &piece{kind: rewrite, off: off, len: n, sources: w.holders})
			}
			off += max(n, o.cfg.BlockBytes)
		}
	}
}

// stable is the watermark: every write up to it is on every replica that has
// a session and takes writes [I6]. During takeover there is none to tell.
func (o *Owner) stable() uint64 {
	if o.phase != serving {
		return 0
	}
	w := o.seq
	for _, p := range o.queue {
		if p.state == writing && p.seq != 0 {
			w = min(w, p.seq-1)
		}
	}
	return w
}

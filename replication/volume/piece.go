package volume

import (
	"slices"
	"time"

	"blockd.dev/internal/clock"
)

type pieceKind uint8

const (
	read pieceKind = iota
	write
	unmap
	zero
	compareWrite // reads, compares, writes
	rewrite      // reads from sources, writes that to all: takeover and read repair
	compare      // asks a source for versions, lets a rebuilding replica compare
	scrub        // reads a range from everyone in sync, compares
	copying      // reads a region from a source, copies it to a rebuilding replica
)

type pieceState uint8

const (
	queued  pieceState = iota // waits for its lock
	reading                   // from one of the sources
	writing                   // to all targets
	undoing                   // reading from those whose disks were too full to take it
	sending                   // Confirm or Copy to the replica that is rebuilt, or Read before that
	short                     // on every required replica, but these are too few
	done                      // has left
)

// piece is the part of an op, or of the owner's own work, in one extent. It
// holds the lock of its range until it has left; pieces start in the order
// they came, as far as they overlap.
type piece struct {
	op       *Op // nil for the owner's own, and when the host has got its answer
	kind     pieceKind
	state    pieceState
	dropped  bool // leaves as soon as it can, if it has not begun to write
	takeover bool // counts in group.repairs
	unsent   bool // counts in Owner.unsent
	unlocked bool // only by mutation
	group    *group
	off, len int64
	data     []byte // rewrite: none is a hole
	old      []byte // compareWrite: what must be there
	sources  disks  // rewrite: who has it; 0 is everyone in sync
	asked    disks  // reads that are on their way
	bad      disks  // could not read it
	retry    clock.Mono
	to       int  // compare, copying: who is rebuilt
	differs  bool // copying: it has something else, though it had acknowledged this
	started  clock.Mono
	hedged   bool // a second source was asked

	seq     uint64
	place   uint64 // in the order of writes: the first seq that it had
	targets disks
	acked   disks
	refused disks // had no space for it
	undone  bool  // data is what such a replica has, and goes to the others

	other     clock.Mono    // when the last replica that is not local has taken it; 0: none
	otherNode time.Duration // of that the part for which its node had it; 0: not told

	copies []replicaCopy // scrub, undoing: what has come; copying: what is to be copied, while what is there is read

	at            int      // index in pieces.all
	calls         int      // requests without an answer that are for it
	woken         bool     // is in pieces.ready
	before, after *piece   // in seqList
	waits         int      // pieces whose lock it waits for
	waiters       []*piece // those that wait for its lock
	stamp         uint64   // the last piece that met it in locks
}

func (p *piece) isJob() bool { return p.kind == compare || p.kind == copying }

// gen is that of the resync of which p is a job; 0 in a takeover.
func (p *piece) gen(o *Owner) uint64 {
	if p.takeover {
		return 0
	}
	return o.conns[p.to].re.gen
}

// ofHost tells whether a host waits for p.
func (p *piece) ofHost() bool { return p.op != nil && p.op.Kind != Scrub }

// changes tells whether the lock is exclusive.
func (p *piece) changes() bool {
	switch p.kind {
	case write, unmap, zero, compareWrite, rewrite:
		return true
	case read, compare, copying, scrub:
	}
	return false
}

// pieces are all that are in flight, those that have to be looked at, and
// used ones.
type pieces struct {
	all   []*piece
	ready []*piece
	free  []*piece
}

// blank returns a piece to fill in and add.
func (o *Owner) blank(kind pieceKind, off, n int64) *piece {
	free := &o.pieces.free
	var p *piece
	if len(*free) > 0 {
		p = (*free)[len(*free)-1]
		*free = (*free)[:len(*free)-1]
		*p = piece{waiters: p.waiters[:0]}
	} else {
		p = &piece{}
	}
	p.kind, p.off, p.len, p.group = kind, off, n, o.groupAt(off)
	return p
}

// add queues p for its lock.
func (o *Owner) add(p *piece) {
	p.at = len(o.pieces.all)
	o.pieces.all = append(o.pieces.all, p)
	if p.takeover {
		p.group.repairs++
	}
	if !p.unlocked {
		o.locks.add(p)
	}
	if p.waits == 0 {
		o.wake(p)
	}
}

// remove ends p: its lock is free.
func (o *Owner) remove(p *piece) {
	o.unstable.remove(p)
	p.state = done
	o.sent(p)
	if p.takeover {
		p.group.repairs--
	}
	last := o.pieces.all[len(o.pieces.all)-1]
	o.pieces.all[p.at], last.at = last, p.at
	o.pieces.all[len(o.pieces.all)-1] = nil
	o.pieces.all = o.pieces.all[:len(o.pieces.all)-1]
	if !p.unlocked {
		o.locks.remove(p)
	}
	o.release(p, func(*piece) bool { return true })
	o.recycle(p)
}

// sent says that p is sent now, or never will be.
func (o *Owner) sent(p *piece) {
	if p.unsent {
		p.unsent = false
		o.unsent--
	}
}

// release lets those go on which waited for p and which pass says.
func (o *Owner) release(p *piece, pass func(*piece) bool) {
	left := p.waiters[:0]
	for _, w := range p.waiters {
		if !pass(w) {
			left = append(left, w)
		} else if w.waits--; w.waits == 0 {
			o.wake(w)
		}
	}
	clear(p.waiters[len(left):])
	p.waiters = left
}

// recycle takes p back once nothing refers to it any more.
func (o *Owner) recycle(p *piece) {
	if p.state == done && p.calls == 0 && !p.woken {
		p.op, p.data, p.old, p.state = nil, nil, nil, queued
		o.pieces.free = append(o.pieces.free, p)
	}
}

// wake has run look at p.
func (o *Owner) wake(p *piece) {
	if !p.woken && p.state != done {
		p.woken = true
		o.pieces.ready = append(o.pieces.ready, p)
	}
}

// wakeReads has run look at the reads that nobody was asked for, and at writes
// for which there was no space.
func (o *Owner) wakeReads() {
	for _, p := range o.pieces.all {
		if (p.state == reading || p.state == undoing) && p.asked == 0 || p.state == writing && p.refused != 0 {
			o.wake(p)
		}
	}
}

// wakeAll has run look at everything that has started.
func (o *Owner) wakeAll() {
	for _, p := range o.pieces.all {
		if p.state != queued {
			o.wake(p)
		}
	}
}

// drop ends p unless it has begun to write. What waits for a lock leaves when
// it gets it: others know of it until then.
func (o *Owner) drop(p *piece) {
	p.dropped = true
	o.wake(p)
}

// abandon lets go of op, whose host is told now: what it wrote goes on with
// a copy of the data, since the buffer goes back [I4].
func (o *Owner) abandon(op *Op) {
	for _, p := range o.pieces.all {
		if p.op != op {
			continue
		}
		p.op = nil
		switch p.state {
		case writing, short:
			p.data = slices.Clone(p.data)
			o.wake(p)
		case queued:
			p.dropped = true
		case reading:
			o.drop(p)
		case sending, undoing, done:
		}
	}
}

// run moves the pieces on that have been woken, and tells whether there were any.
func (o *Owner) run() bool {
	if len(o.pieces.ready) == 0 {
		return false
	}
	for i := 0; i < len(o.pieces.ready) && !o.over; i++ {
		p := o.pieces.ready[i]
		p.woken = false
		if p.state == done {
			o.recycle(p)
		} else {
			o.move(p)
		}
	}
	clear(o.pieces.ready)
	o.pieces.ready = o.pieces.ready[:0]
	return true
}

// seqList has the pieces that are being written, by their place.
type seqList struct{ head, tail *piece }

func (l *seqList) add(p *piece) {
	p.place = p.seq
	p.before, p.after = l.tail, nil
	if l.tail != nil {
		l.tail.after = p
	} else {
		l.head = p
	}
	l.tail = p
}

func (l *seqList) remove(p *piece) {
	if p.place == 0 {
		return // it isn't there
	}
	p.place = 0
	if p.before != nil {
		p.before.after = p.after
	} else {
		l.head = p.after
	}
	if p.after != nil {
		p.after.before = p.before
	} else {
		l.tail = p.before
	}
	p.before, p.after = nil, nil
}

package volume

import (
	"bytes"
	"slices"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

type pieceKind uint8

const (
	read pieceKind = iota
	write
	compareWrite // reads, compares, writes
	rewrite      // reads from sources, writes that to all: takeover and read repair
	compare      // asks a source for versions, lets a rebuilding replica compare
	copying      // reads a region from a source, copies it to a rebuilding replica
)

type pieceState uint8

const (
	queued  pieceState = iota
	reading            // from one of the sources
	writing            // to all targets
	sending            // Confirm or Copy to the replica that is rebuilt
	short              // on every required replica, but these are too few
	done
)

// piece is the part of an op, or of the owner's own work, in one extent. In
// the queue it holds the lock of its range from when it started until it has
// left; pieces start in the order they came, as far as they overlap.
type piece struct {
	op       *Op // nil for the owner's own
	kind     pieceKind
	state    pieceState
	off, len int64
	data     []byte
	old      []byte // compareWrite: what must be there
	sources  disks  // rewrite: who has it; 0 is everyone in sync
	asked    disks  // reads that are on their way
	bad      disks  // could not read it
	retry    clock.Mono
	to       int  // compare, copying: who is rebuilt
	unlocked bool // only by mutation

	seq     uint64
	targets disks
	acked   disks
}

func (p *piece) isJob() bool   { return p.kind == compare || p.kind == copying }
func (p *piece) changes() bool { return p.kind == write || p.kind == compareWrite || p.kind == rewrite }

// admit cuts ops into pieces. Writes wait here while there are too few
// replicas, so that they are in no one's way [I3].
func (o *Owner) admit() {
	enough := o.required.count() >= o.cfg.MinInSync || mutation.On(mutation.AckBelowMin)
	waiting := o.waiting[:0]
	for _, op := range o.waiting {
		if op.Kind != Read && !enough {
			waiting = append(waiting, op)
			continue
		}
		o.cut(op)
	}
	o.waiting = waiting
}

func (o *Owner) cut(op *Op) {
	kind := map[OpKind]pieceKind{Read: read, Write: write, CompareWrite: compareWrite}[op.Kind]
	for at := int64(0); at < int64(len(op.Data)); {
		off := op.Off + at
		n := min(int64(len(op.Data))-at, o.cfg.ExtentBytes-off%o.cfg.ExtentBytes)
		p := &piece{op: op, kind: kind, off: off, len: n, data: op.Data[at : at+n]}
		if kind == compareWrite {
			p.old = op.Compare[at : at+n]
		}
		op.pieces++
		o.queue = append(o.queue, p)
		at += n
	}
}

// run starts, moves on and removes pieces until nothing changes. It looks at
// every piece in flight.
func (o *Owner) run() {
	for moved := true; moved && !o.over; {
		moved = false
		for i := 0; i < len(o.queue); i++ {
			p := o.queue[i]
			before := p.state
			o.move(p, i)
			moved = moved || p.state != before
		}
		o.queue = slices.DeleteFunc(o.queue, func(p *piece) bool { return p.state == done })
		if moved && o.phase != serving {
			o.takeover()
		}
		if moved && o.phase == serving {
			o.rebuild()
			o.admit()
		}
	}
}

func (o *Owner) move(p *piece, i int) {
	switch p.state {
	case queued:
		switch {
		case p.op != nil && p.op.done:
			p.state = done // timed out before it started
		case o.blocked(p, i):
		case p.kind == write:
			o.write(p)
		default:
			p.state = reading
		}
	case reading:
		if p.op != nil && p.op.done {
			p.state = done
		} else if p.asked == 0 {
			o.ask(p)
		}
	case writing:
		if p.targets&^p.acked&o.targets() == 0 {
			p.state = short
		}
	case short:
		if o.required.count() >= o.cfg.MinInSync || mutation.On(mutation.AckBelowMin) {
			o.end1(p, nil)
		} else if p.op == nil || p.op.done {
			p.state = done
		}
	case sending, done:
	}
}

// blocked tells whether an overlapping piece that came before holds the range
// [I4]. What is on every required replica, though these are too few to
// acknowledge it, lets reads and rebuilding pass.
func (o *Owner) blocked(p *piece, i int) bool {
	if p.unlocked {
		return false
	}
	for _, q := range o.queue[:i] {
		if q.state == done || q.state == short && !p.changes() || q.unlocked || q.off >= p.off+p.len || p.off >= q.off+q.len {
			continue
		}
		if p.kind == read && mutation.On(mutation.ExposeUnstable) {
			continue
		}
		if p.changes() || q.changes() {
			return true
		}
	}
	return false
}

// end1 is the end of one piece; the op ends with its last one.
func (o *Owner) end1(p *piece, err error) {
	p.state = done
	if p.op == nil || p.op.done {
		return
	}
	if p.op.pieces--; err != nil || p.op.pieces == 0 {
		o.finish(p.op, err)
	}
}

// ask sends the read of p to a source: the local replica if it may, else one
// after the other.
func (o *Owner) ask(p *piece) {
	from := o.inSync
	if p.sources != 0 {
		from &= p.sources
	}
	if from&^p.bad == 0 && from != 0 {
		o.unreadable(p)
		return
	}
	if o.now < p.retry {
		return
	}
	from &^= p.bad | p.asked
	for d, c := range o.conns {
		if c.state != up {
			from &^= one(d)
		}
	}
	if from == 0 {
		return // a session or a view will come
	}
	d := o.local
	if d < 0 || !from.has(d) {
		for d = o.shift % len(o.conns); !from.has(d); d = (d + 1) % len(o.conns) {
		}
		o.shift++
	}
	p.asked |= one(d)
	q := replica.Request{Kind: replica.Read, Off: p.off, Len: p.len}
	if p.kind == compare {
		q.Kind = replica.Versions
	}
	o.conns[d].request(o, p, q)
}

// unreadable decides what becomes of p when no source can read its range.
func (o *Owner) unreadable(p *piece) {
	switch {
	case p.isJob(): // until the data is written again, or the disk thinks better of it
		p.bad, p.retry = 0, o.now.Add(o.cfg.RetryAfter)
	case p.kind == rewrite && p.len > o.cfg.BlockBytes: // perhaps one block is to blame
		p.state = done
		for off := p.off; off < p.off+p.len; off += o.cfg.BlockBytes {
			o.queue = append(o.queue, &piece{kind: rewrite, off: off, len: o.cfg.BlockBytes, sources: p.sources})
		}
	case p.kind == rewrite && p.sources != 0:
		// Nobody was told of a write that only these had, so what the others
		// have will do [I7].
		p.sources = 0
	default:
		o.end1(p, ErrMedium)
	}
}

// hedge asks a second source.
func (p *piece) hedge(o *Owner) {
	if p.state == reading {
		o.ask(p)
	}
}

// write gives p its place in the order of writes and sends it.
func (o *Owner) write(p *piece) {
	o.seq++
	p.seq, p.state, p.targets = o.seq, writing, o.targets()
	for d := range o.conns {
		if p.targets.has(d) {
			p.send(o, d)
		}
	}
}

// send sends p to replica d unless there is no session: then the next one does.
func (p *piece) send(o *Owner, d int) {
	c := o.conns[d]
	if c.state != up {
		return
	}
	q := replica.Request{Kind: replica.Write, Off: p.off, Len: p.len, Data: p.data, Ver: replica.Version{Epoch: o.epoch, Seq: p.seq}}
	if c.re.phase == comparing {
		q.Gen = c.re.gen
	}
	c.request(o, p, q)
}

// lost says that an answer of replica d will not come.
func (p *piece) lost(d int) {
	p.asked &^= one(d)
}

// unreadable says that replica d can't read the data.
func (p *piece) unreadable(d int) {
	p.bad |= one(d)
	p.asked &^= one(d)
}

func (p *piece) answer(o *Owner, d int, kind replica.Kind, resp replica.Response) {
	switch {
	case kind == replica.Write:
		p.acked |= one(d)
	case p.state == reading && (kind == replica.Read || kind == replica.Versions):
		p.asked = 0
		p.arrived(o, resp)
	case p.state == sending && kind == replica.Confirm:
		r := &o.conns[d].re
		r.differ = append(r.differ, resp.Differ...)
		r.jobs--
		p.state = done
	case p.state == sending && kind == replica.Copy:
		o.conns[d].re.jobs--
		p.state = done
	}
}

// arrived goes on with what a source has sent.
func (p *piece) arrived(o *Owner, resp replica.Response) {
	if p.op != nil && p.op.done {
		p.state = done // the buffer is the host's again
		return
	}
	switch p.kind {
	case read:
		copy(p.data, resp.Data)
		if p.bad != 0 {
			o.queue = append(o.queue, &piece{kind: rewrite, off: p.off, len: p.len, bad: p.bad})
		}
		o.end1(p, nil)
	case compareWrite:
		if !bytes.Equal(resp.Data, p.old) {
			o.end1(p, ErrMismatch)
			return
		}
		o.write(p)
	case rewrite:
		p.data = resp.Data
		o.write(p)
	case compare:
		p.state = sending
		c := o.conns[p.to]
		c.request(o, p, replica.Request{Kind: replica.Confirm, Off: p.off, Len: p.len, Vers: resp.Vers, Gen: c.re.gen})
	case copying:
		p.state = sending
		c := o.conns[p.to]
		c.request(o, p, replica.Request{Kind: replica.Copy, Off: p.off, Len: p.len, Data: resp.Data, Ver: resp.Vers[0], Gen: c.re.gen})
	case write:
	}
}

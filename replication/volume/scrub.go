package volume

import (
	"bytes"
	"slices"

	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// Found is what a Scrub saw, in bytes. It has repaired all of it.
type Found struct {
	Differ     int64  // blocks that replicas in sync had differently
	Tied       int64  // of these, no content had a majority: the one of the newest version was taken
	Unreadable int64  // ranges that one replica could not read
	Data       int64  // sent by replicas, in all: nothing where every one has zeroes
	Wrong      uint64 // who had what was not taken, or could not read it: a bit for each member
}

// replicaCopy is what one replica has of the range of a Scrub.
type replicaCopy struct {
	disk int
	data []byte          // nil is zeroes
	ver  replica.Version // of the first region
}

// askAll asks every replica in sync, once all of them have a session.
func (o *Owner) askAll(p *piece) {
	from := o.inSync & p.group.disks
	if from == 0 || from&^o.up != 0 {
		return
	}
	p.asked = from
	for s := from; s != 0; s &= s - 1 {
		o.conns[s.first()].request(o, p, replica.Request{Kind: replica.Read, Off: p.off, Len: p.len})
	}
}

// collect takes the copy of replica d.
func (p *piece) collect(o *Owner, d int, resp replica.Response) {
	p.copies = append(p.copies, replicaCopy{disk: d, data: slices.Clone(resp.Data), ver: resp.Vers[0]})
	p.heard(o, d)
}

// heard notes that replica d has answered; the last one ends the reading.
func (p *piece) heard(o *Owner, d int) {
	if p.asked &^= one(d); p.asked != 0 {
		return
	}
	if p.state == undoing {
		o.undone(p)
		return
	}
	o.compareCopies(p)
}

// compareCopies queues a write of what most replicas have, for each run of
// blocks that another one has not or can't read. Writes came first: the lock
// of p says that no replica in sync lacks one.
func (o *Owner) compareCopies(p *piece) {
	if len(p.copies) == 0 {
		o.end1(p, ErrMedium)
		return
	}
	slices.SortFunc(p.copies, func(a, b replicaCopy) int { return a.disk - b.disk })
	found := &p.op.Found
	all := p.bad
	for _, c := range p.copies {
		all |= one(c.disk)
		found.Data += int64(len(c.data))
	}
	if found.Data == 0 && p.bad == 0 {
		o.end1(p, nil)
		return
	}
	for i := range p.copies {
		if c := &p.copies[i]; len(c.data) == 0 {
			c.data = make([]byte, p.len)
		}
	}
	if p.bad != 0 {
		found.Unreadable += p.len
	}
	var run *piece
	var repairs []*piece
	for at := int64(0); at < p.len; at += o.cfg.BlockBytes {
		right, tied := vote(p.copies, at, at+o.cfg.BlockBytes)
		found.Wrong |= uint64(all &^ right)
		if right|p.bad != all {
			found.Differ += o.cfg.BlockBytes
			if tied {
				found.Tied += o.cfg.BlockBytes
			}
		}
		switch {
		case right == all:
			run = nil
		case run != nil && run.sources == right:
			run.len += o.cfg.BlockBytes
		default:
			run = o.blank(rewrite, p.off+at, o.cfg.BlockBytes)
			run.sources = right
			repairs = append(repairs, run)
		}
	}
	for _, r := range repairs { // they wait for the lock of p, and the op for them
		r.op = p.op
		p.op.pieces++
		o.add(r)
	}
	o.end1(p, nil)
}

// vote tells which replicas have what most have at [from, to), and whether
// others are as many. Then the newest version decides: who lost a write lost
// its version with it.
func vote(copies []replicaCopy, from, to int64) (right disks, tied bool) {
	var best replicaCopy
	for _, c := range copies {
		var same disks
		for _, d := range copies {
			if bytes.Equal(c.data[from:to], d.data[from:to]) {
				same |= one(d.disk)
			}
		}
		switch {
		case right.has(c.disk):
		case right == 0, same.count() > right.count() && !mutation.On(mutation.ScrubTakesFirst):
			right, tied, best = same, false, c
		case same.count() == right.count():
			tied = true
			if c.ver.Compare(best.ver) > 0 && !mutation.On(mutation.ScrubTakesFirst) {
				right, best = same, c
			}
		}
	}
	return right, tied
}

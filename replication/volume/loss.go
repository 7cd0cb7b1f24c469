package volume

import (
	"bytes"
	"slices"

	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// A replica that was in sync when the owner's time began had every write up to the highest watermark that any of its set
// had stored by then. If the last write to a region is one of these, and the replica comes back without a
// watermark that covers it and without a write there in its tail, it has lost that write; or it had no space for it, and its
// content is the same [I13]. So a region counts as lost when its content differs too, which is looked at when
// it is copied, by a takeover or by a resync.

// loss is what a disk is known to have lost of what it had said to be durable.
type loss struct {
	counted bool            // it was in sync when the owner's time began
	suspect bool            // it came back as one that may have lost something:
	had     uint64          // then every write up to it was there,
	tail    []replica.Entry // and these

	took    uint64 // highest sequence number of a write that it has acknowledged to this owner
	writes  uint64 // how far it has gone back below that
	regions int64
}

// learn notes what the replica has when a session begins; sound is whether all is there that was copied to it. What
// it says later, while it gets back what it had lost, counts for nothing.
func (l *loss) learn(resp *replica.Response, sound bool) {
	if resp.Last < l.took {
		l.writes += l.took - resp.Last
		l.took = resp.Last
	}
	switch {
	case sound && !resp.Unproven:
		l.suspect, l.tail = false, nil
	case !l.suspect:
		l.suspect, l.had, l.tail = true, resp.Stable, resp.Tail
		if !sound {
			l.had = 0
		}
	}
}

// missed tells whether the replica has lost write v, the last one to the region at off, or had no space for it.
func (l *loss) missed(o *Owner, off int64, v replica.Version) bool {
	g := o.groupAt(off)
	return (l.counted || mutation.On(mutation.OutIsLost)) && l.suspect && v.Seq > l.had && v.Seq <= g.top && !slices.ContainsFunc(l.tail, func(e replica.Entry) bool {
		return e.Off < off+o.cfg.RegionBytes && off < e.Off+e.Len
	})
}

// mayHaveLost tells whether the replica that p is copied to may have lost some of it, which is of these versions.
func (o *Owner) mayHaveLost(p *piece, vers []replica.Version) bool {
	if !p.group.disks.has(p.to) {
		return false // it arrives there
	}
	for i, v := range vers {
		if o.conns[p.to].loss.missed(o, p.off+int64(i)*o.cfg.RegionBytes, v) {
			return true
		}
	}
	return false
}

// found goes on with p, which is copied, once a source has sent it. If the replica may have lost it, what it has is read first, region by region.
func (o *Owner) found(p *piece, resp *replica.Response) {
	lost := o.mayHaveLost(p, resp.Vers)
	if lost && p.len > o.cfg.RegionBytes {
		o.split(p, o.cfg.RegionBytes)
		return
	}
	p.state = sending
	o.stats.copied += uint64(len(resp.Data))
	if !lost {
		o.copy(p, resp.Data, resp.Vers)
		return
	}
	p.copies = []replicaCopy{{data: slices.Clone(resp.Data), ver: resp.Vers[0]}}
	o.conns[p.to].request(o, p, replica.Request{Kind: replica.Read, Off: p.off, Len: p.len})
}

// had goes on with p when the replica has told what it has there; readable is whether it could.
func (o *Owner) had(p *piece, data []byte, readable bool) {
	right := p.copies[0]
	same := bytes.Equal(right.data, data) || replica.Zeroes(right.data) && replica.Zeroes(data)
	p.differs = readable && !same || mutation.On(mutation.RefusedIsLost)
	p.copies = nil
	o.copy(p, right.data, []replica.Version{right.ver})
}

// copy sends p to the replica that lacks it.
func (o *Owner) copy(p *piece, data []byte, vers []replica.Version) {
	q := replica.Request{Kind: replica.Copy, Off: p.off, Len: p.len, Data: data, Gen: p.gen(o)}
	if len(vers) == 1 {
		q.Ver = vers[0]
	} else {
		q.Vers = vers
	}
	o.conns[p.to].request(o, p, q)
}

// copied counts p, which the replica has now.
func (l *loss) copied(p *piece) {
	if p.differs {
		l.regions++
	}
}

package replica

import "blockd.dev/replication/mutation"

// A Copy of several regions is an op for each run of them that has one version, since
// that is what an op can give: each is durable by itself [I12], and the regions are
// clean when all are done.

// parts are the ops of one Copy.
type parts struct {
	left   int
	status Status // OK, or of one that failed
}

// last counts off op, and tells whether the Copy has ended with it.
func (p *parts) last(op *Op) bool {
	if op.Err != OK && p.status != Failed {
		p.status = op.Err
	}
	p.left--
	if mutation.On(mutation.CopyEarly) {
		first := p.left >= 0
		p.left = 0
		return first
	}
	return p.left == 0
}

// copy has the store take the regions that q copies.
func (r *Replica) copy(from int, q Request) {
	if q.Len == r.cfg.RegionBytes && len(q.Vers) == 0 {
		q.Vers = []Version{q.Ver}
	}
	all := &parts{status: OK}
	var ops []*Op
	for at := int64(0); at < q.Len; {
		n := r.alike(&q, at)
		op := r.newOp()
		op.Kind, op.Off, op.Len, op.Ver, op.Copied = OpWrite, q.Off+at, n, q.Vers[at/r.cfg.RegionBytes], true
		op.Stable, op.req, op.from, op.all = r.state.Stable, q, from, all
		if len(q.Data) > 0 {
			op.Data = q.Data[at : at+n]
		}
		if r.hole(&q, at) {
			if op.Data = nil; !mutation.On(mutation.SkipHoles) {
				op.Kind = OpClear
			}
		}
		ops = append(ops, op)
		at += n
	}
	all.left = len(ops)
	for _, op := range ops {
		r.submit(op)
	}
}

// alike is how many bytes of q from at on have one version, and are all holes or all data.
func (r *Replica) alike(q *Request, at int64) int64 {
	n := r.cfg.RegionBytes
	for ; at+n < q.Len; n += r.cfg.RegionBytes {
		if q.Vers[(at+n)/r.cfg.RegionBytes] != q.Vers[at/r.cfg.RegionBytes] || r.hole(q, at+n) != r.hole(q, at) {
			break
		}
	}
	return n
}

// hole tells whether the region at at of q is zeroes.
func (r *Replica) hole(q *Request, at int64) bool {
	return len(q.Data) == 0 || Zeroes(q.Data[at:at+r.cfg.RegionBytes])
}

// copyMax is what the answer to a Fence says about copies.
func (r *Replica) copyMax() []int64 {
	if r.cfg.CopyMax <= r.cfg.RegionBytes {
		return nil
	}
	return []int64{r.cfg.CopyMax}
}

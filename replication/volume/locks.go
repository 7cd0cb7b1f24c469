package volume

import "blockd.dev/replication/mutation"

// lockBuckets is how many places of the volume are told apart.
const lockBuckets = 1024

// locks finds the pieces that overlap a new one: each is in the bucket of
// every grain of the volume that it touches. Grains share buckets, so what is
// found there is compared.
type locks struct {
	grain   int64
	buckets [lockBuckets][]*piece
	stamp   uint64
}

// each calls do for every bucket of p, once.
func (l *locks) each(p *piece, do func(b *[]*piece)) {
	first, last := p.off/l.grain, (p.off+p.len-1)/l.grain
	for g := first; g <= min(last, first+lockBuckets-1); g++ {
		do(&l.buckets[g%lockBuckets])
	}
}

// add queues p behind the pieces that overlap it and came before [I4]. What is
// on every required replica, though these are too few to acknowledge it, lets
// reads and rebuilding pass.
func (l *locks) add(p *piece) {
	l.stamp++
	l.each(p, func(b *[]*piece) {
		for _, q := range *b {
			if q.stamp == l.stamp {
				continue
			}
			q.stamp = l.stamp
			if q.off >= p.off+p.len || p.off >= q.off+q.len || !p.changes() && (!q.changes() || q.state == short) ||
				p.kind == read && mutation.On(mutation.ExposeUnstable) {
				continue
			}
			q.waiters = append(q.waiters, p)
			p.waits++
		}
		*b = append(*b, p)
	})
}

func (l *locks) remove(p *piece) {
	l.each(p, func(b *[]*piece) {
		list := *b
		for i, q := range list {
			if q == p {
				last := len(list) - 1
				list[i], list[last] = list[last], nil
				*b = list[:last]
				return
			}
		}
	})
}

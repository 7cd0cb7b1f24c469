package disk

// ioQueue is a first-in first-out queue. It grows to the most that ever
// waited and keeps that memory.
type ioQueue struct {
	ring []*IO // length 0 or a power of two
	head uint
	n    uint
}

func (q *ioQueue) len() int { return int(q.n) }

func (q *ioQueue) push(io *IO) {
	if q.n == uint(len(q.ring)) {
		bigger := make([]*IO, max(64, 2*len(q.ring)))
		for i := range q.n {
			bigger[i] = q.ring[(q.head+i)&uint(len(q.ring)-1)]
		}
		q.ring, q.head = bigger, 0
	}
	q.ring[(q.head+q.n)&uint(len(q.ring)-1)] = io
	q.n++
}

func (q *ioQueue) pop() *IO {
	at := q.head & uint(len(q.ring)-1)
	io := q.ring[at]
	q.ring[at] = nil
	q.head++
	q.n--
	return io
}

package wire

// events is a queue: a ring that grows.
type events struct {
	ring        []Event
	first, next uint64
}

func (q *events) push(e Event) {
	if q.next-q.first == uint64(len(q.ring)) {
		old := *q
		q.ring = make([]Event, max(16, 2*len(old.ring)))
		for n := old.first; n < old.next; n++ {
			q.ring[n&uint64(len(q.ring)-1)] = old.ring[n&uint64(len(old.ring)-1)]
		}
	}
	q.ring[q.next&uint64(len(q.ring)-1)] = e
	q.next++
}

func (q *events) pop() (Event, bool) {
	if q.first == q.next {
		return Event{}, false
	}
	at := &q.ring[q.first&uint64(len(q.ring)-1)]
	e := *at
	*at = Event{}
	q.first++
	return e, true
}

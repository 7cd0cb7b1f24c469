package volume

import (
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
)

// readers are hosts that read without a break from an owner whose replicas take
// as long as the test says.
type readers struct {
	*bench
	took  [3]time.Duration // of each replica, by now; 0: it never answers
	depth int
	asked [3]int
	late  int // reads that took longer than 3 ms

	flying []flying
	begun  map[*Op]clock.Mono
}

type flying struct {
	sent
	due clock.Mono
}

func newReaders(t *testing.T, local int, took ...time.Duration) *readers {
	r := &readers{bench: serves(t), depth: 1, begun: map[*Op]clock.Mono{}}
	r.o.local = local
	copy(r.took[:], took)
	return r
}

// run has the hosts read for d.
func (r *readers) run(d time.Duration) {
	r.asked, r.late = [3]int{}, 0
	for end := r.now.Add(d); r.now < end; {
		for len(r.begun) < r.depth {
			op := readAt(0)
			r.begun[op] = r.now
			r.o.Submit(r.now, op)
			r.takeSent()
		}
		r.now = r.now.Add(100 * time.Microsecond)
		r.o.Renew(r.now, r.now.Add(time.Second))
		r.o.Tick(r.now)
		r.takeSent()
		kept := r.flying[:0:0]
		for _, f := range r.flying {
			if f.due > r.now {
				kept = append(kept, f)
			} else {
				r.answer(f.sent, replica.Response{Status: replica.OK})
			}
		}
		r.flying = kept
		for _, op := range r.complete {
			if r.now.Sub(r.begun[op]) > 3*time.Millisecond {
				r.late++
			}
			delete(r.begun, op)
		}
		r.complete = nil
	}
}

func (r *readers) takeSent() {
	for _, s := range r.sent {
		switch {
		case s.q.Kind != replica.Read:
			r.flying = append(r.flying, flying{s, r.now}) // Fence, Stable
		case r.took[s.disk] > 0:
			r.asked[s.disk]++
			r.flying = append(r.flying, flying{s, r.now.Add(r.took[s.disk])})
		default:
			r.asked[s.disk]++
		}
	}
	r.sent = nil
}

const ms = time.Millisecond

func TestReadsStayLocalWhileThatIsQuick(t *testing.T) {
	r := newReaders(t, 1, ms/2, ms, ms/2)
	if r.run(3 * time.Second); r.asked[0]+r.asked[2] != 0 {
		t.Errorf("asked %v, want the local one only", r.asked)
	}
	// It is slower than before, and not than the others by much.
	r.took = [3]time.Duration{1 * ms, 5 * ms, 1 * ms}
	if r.run(3 * time.Second); r.asked[0]+r.asked[2] > 6 {
		t.Errorf("asked %v, want the local one, and the others to learn of them", r.asked)
	}
}

// A slow local replica loses its place, and gets it back.
func TestReadsLeaveASlowDisk(t *testing.T) {
	r := newReaders(t, 1, ms/2, ms/2, ms)
	r.run(time.Second)
	r.took[1] = 40 * ms
	r.run(time.Second)
	if r.run(20 * time.Second); r.asked[1] > 10 || r.asked[0] < 10000 {
		t.Errorf("asked %v in 20 s, want the first one, and the local one every few seconds", r.asked)
	}
	if r.late > 10 {
		t.Errorf("%d reads were slow, want those that tried the local one", r.late)
	}
	r.took[1] = ms / 2
	r.run(30 * time.Second)
	if r.run(time.Second); r.asked[0]+r.asked[2] != 0 {
		t.Errorf("asked %v, want the local one, which is quick again", r.asked)
	}
}

// Without a local replica reads go where they are quick; where they are as quick
// they are shared, so that none is loaded more.
func TestReadsGoWhereTheyAreQuick(t *testing.T) {
	r := newReaders(t, -1, ms/2, 5*ms, ms/2)
	r.depth = 8
	r.run(time.Second)
	r.run(10 * time.Second)
	all := r.asked[0] + r.asked[1] + r.asked[2]
	if r.asked[1] == 0 || r.asked[1] > all/50 {
		t.Errorf("asked %v, want the slow one hardly ever", r.asked)
	}
	if r.asked[0] < all*2/5 || r.asked[2] < all*2/5 {
		t.Errorf("asked %v, want half of the reads from each of the quick ones", r.asked)
	}
	r.took[1] = ms / 2
	r.run(5 * time.Second)
	if r.run(time.Second); r.asked[1] < r.asked[0]/2 {
		t.Errorf("asked %v, want a third from the one that is quick again", r.asked)
	}
}

// A replica that hangs gets no more reads long before it has failed to answer one.
func TestReadsAvoidWhatHangs(t *testing.T) {
	for _, local := range []int{1, -1} {
		r := newReaders(t, local, ms/2, ms/2, ms/2)
		r.depth = 4
		r.run(2 * time.Second)
		r.took[1] = 0
		if r.run(90 * ms); r.asked[1] > 20 { // less than RequestTimeout
			t.Errorf("local %d: asked %v, want none of the one that hangs after the first 2 ms", local, r.asked)
		}
		if all := r.asked[0] + r.asked[2]; all < 90 {
			t.Errorf("local %d: only %d reads of the others", local, all)
		}
	}
}

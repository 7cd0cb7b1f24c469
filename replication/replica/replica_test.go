package replica

import "testing"

type fakeEnv struct {
	ops     []*Op
	answers []Response
}

func (e *fakeEnv) Submit(op *Op)               { e.ops = append(e.ops, op) }
func (e *fakeEnv) Answer(_ int, resp Response) { e.answers = append(e.answers, resp) }

// last takes the only answer since the last call.
func (e *fakeEnv) last(t *testing.T) Response {
	t.Helper()
	if len(e.answers) != 1 {
		t.Fatalf("answers: %+v, want one", e.answers)
	}
	resp := e.answers[0]
	e.answers = nil
	return resp
}

// finish ends all ops in the store.
func (e *fakeEnv) finish(r *Replica) {
	ops := e.ops
	e.ops = nil
	for _, op := range ops {
		op.Err = OK
		r.Done(op)
	}
}

func (e *fakeEnv) fence(t *testing.T, r *Replica, q Request) Response {
	t.Helper()
	q.Kind = Fence
	r.Handle(0, q)
	e.finish(r)
	return e.last(t)
}

func opened(t *testing.T) (*Replica, *fakeEnv) {
	e := &fakeEnv{}
	r := New(Config{Boot: 7, RegionBytes: 64}, e, State{})
	if resp := e.fence(t, r, Request{ID: 1, Epoch: 3, Session: 1}); resp.Status != OK || resp.Boot != 7 || resp.Epoch != 3 {
		t.Fatalf("Fence: %+v", resp)
	}
	return r, e
}

func writeOf(id uint64) Request {
	return Request{ID: id, Kind: Write, Epoch: 3, Session: 1, Boot: 7, Len: 8, Data: make([]byte, 8), Ver: Version{3, id}}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Request)
		want   Status
	}{
		"older epoch":      {func(q *Request) { q.Epoch = 2 }, OldEpoch},
		"epoch not fenced": {func(q *Request) { q.Epoch = 4 }, OldSession},
		"other session":    {func(q *Request) { q.Session = 0 }, OldSession},
		"other boot":       {func(q *Request) { q.Boot = 6 }, OldSession},
		"other generation": {func(q *Request) { q.Gen = 9 }, OldSession},
	} {
		t.Run(name, func(t *testing.T) {
			r, e := opened(t)
			q := writeOf(2)
			c.change(&q)
			r.Handle(0, q)
			if resp := e.last(t); resp.Status != c.want || resp.ID != 2 || len(e.ops) != 0 {
				t.Errorf("%+v with %d ops, want status %d and no op", resp, len(e.ops), c.want)
			}
		})
	}
}

// What no owner sends is refused, whatever its lengths say.
func TestInvalidRequests(t *testing.T) {
	for name, q := range map[string]Request{
		"no kind":                    {},
		"unknown kind":               {Kind: 99, Len: 64},
		"negative length":            {Kind: Read, Len: -1},
		"negative offset":            {Kind: Clear, Off: -64, Len: 64},
		"end beyond all numbers":     {Kind: Read, Off: 1<<63 - 1, Len: 64},
		"write without its data":     {Kind: Write, Len: 64},
		"versions of part a region":  {Kind: Versions, Len: 63},
		"versions missing":           {Kind: Confirm, Len: 128, Vers: []Version{{1, 1}}},
		"copy of two regions":        {Kind: Copy, Len: 128, Data: make([]byte, 128)},
		"copy of more than it takes": {Kind: Copy, Len: 256, Data: make([]byte, 256), Vers: make([]Version, 4)},
		"copy with half of its data": {Kind: Copy, Len: 64, Data: make([]byte, 32)},
	} {
		t.Run(name, func(t *testing.T) {
			r, e := opened(t)
			q.ID, q.Epoch, q.Session, q.Boot = 2, 3, 1, 7
			r.Handle(0, q)
			if resp := e.last(t); resp.Status != Failed || len(e.ops) != 0 {
				t.Errorf("%+v and %d ops, want it refused", resp, len(e.ops))
			}
		})
	}
}

// [I1]: what was taken of an older epoch has ended before a Fence is answered,
// and is in the tail.
func TestFenceWaitsForWhatIsInTheStore(t *testing.T) {
	r, e := opened(t)
	r.Handle(0, writeOf(2))
	write := e.ops[0]
	e.ops = nil
	r.Handle(1, Request{ID: 1, Kind: Fence, Epoch: 4, Session: 1})
	if len(e.answers) != 0 || len(e.ops) != 0 {
		t.Fatalf("answered %v, submitted %v while the write was in the store", e.answers, e.ops)
	}
	write.Err = OK
	r.Done(write)
	if resp := e.last(t); resp.Status != OldEpoch {
		t.Errorf("the old owner got %+v", resp)
	}
	if len(e.ops) != 1 || e.ops[0].Kind != OpFence || e.ops[0].Epoch != 4 {
		t.Fatalf("ops %+v, want the new epoch made durable", e.ops)
	}
	e.finish(r)
	if resp := e.last(t); resp.Status != OK || len(resp.Tail) != 1 || resp.Tail[0].Ver != (Version{3, 2}) || resp.Last != 2 {
		t.Errorf("Fence: %+v, want the write in the tail", resp)
	}
}

// [I2]: a request that comes twice is taken once.
func TestDoubledRequest(t *testing.T) {
	r, e := opened(t)
	r.Handle(0, writeOf(2))
	e.finish(r)
	e.last(t)
	r.Handle(0, writeOf(2))
	q := writeOf(5)
	q.Oldest = 5
	r.Handle(0, q) // from now on, IDs below 5 are over
	r.Handle(0, writeOf(2))
	r.Handle(0, writeOf(5))
	if len(e.ops) != 1 || e.ops[0].Ver.Seq != 5 {
		t.Errorf("ops %+v, want only the write with ID 5", e.ops)
	}
}

// [I6]: the tail ends at the watermark.
func TestWatermarkShortensTheTail(t *testing.T) {
	r, e := opened(t)
	for id := uint64(2); id <= 5; id++ {
		r.Handle(0, writeOf(id))
		e.finish(r)
		e.last(t)
	}
	r.Handle(0, Request{ID: 6, Kind: Stable, Epoch: 3, Session: 1, Boot: 7, Stable: 4})
	e.last(t)
	if resp := e.fence(t, r, Request{ID: 9, Epoch: 3, Session: 2}); len(resp.Tail) != 1 || resp.Tail[0].Ver.Seq != 5 || resp.Stable != 4 {
		t.Errorf("Fence: %+v, want only write 5 in the tail", resp)
	}
}

// [I8] [I9]: Begin voids the tail's regions; bare writes void regions that are
// not clean; equal versions and copies make them clean.
func TestRebuild(t *testing.T) {
	r, e := opened(t)
	r.Handle(0, writeOf(2))
	e.finish(r)
	e.last(t)
	r.Handle(0, Request{ID: 3, Kind: Begin, Epoch: 3, Session: 1, Boot: 7, Gen: 5})
	if op := e.ops[0]; op.Kind != OpBegin || len(op.Void) != 1 || op.Void[0] != 0 {
		t.Fatalf("Begin: %+v", op)
	}
	e.finish(r)
	e.last(t)
	voids := func(id uint64, off int64) int {
		q := writeOf(id)
		q.Off, q.Gen = off, 5
		r.Handle(0, q)
		n := len(e.ops[0].Void)
		e.finish(r)
		e.last(t)
		return n
	}
	if voids(4, 64) != 1 {
		t.Error("a bare write to an unclean region kept its version")
	}
	r.Handle(0, Request{ID: 5, Kind: Confirm, Epoch: 3, Session: 1, Boot: 7, Gen: 5, Len: 192, Vers: []Version{{1, 1}, NoVersion, {2, 2}}})
	e.ops[0].Vers = []Version{{1, 1}, NoVersion, {2, 1}}
	e.finish(r)
	if resp := e.last(t); len(resp.Differ) != 2 || resp.Differ[0] != 64 || resp.Differ[1] != 128 {
		t.Errorf("Confirm: %+v, want regions 1 and 2 to differ", resp)
	}
	r.Handle(0, Request{ID: 6, Kind: Copy, Epoch: 3, Session: 1, Boot: 7, Gen: 5, Off: 64, Len: 64, Data: make([]byte, 64), Ver: Version{2, 2}})
	e.finish(r)
	e.last(t)
	if voids(7, 0) != 0 || voids(8, 64) != 0 || voids(9, 128) != 1 {
		t.Error("want regions 0 and 1 clean, 2 not")
	}
}

// [I14] [I9]: the first Fence since a move began clears what arrives, before its
// epoch is durable; later ones only take the versions from what the tail is about there, and
// leave those of other extents. [I8]: a bare write does so too, until the region is clean.
func TestArriving(t *testing.T) {
	r, e := opened(t)
	for id, off := range []int64{0, 128, 256} {
		q := writeOf(uint64(id) + 2)
		q.Off = off
		r.Handle(0, q)
	}
	e.finish(r)
	e.answers = nil
	fence := Request{ID: 10, Kind: Fence, Epoch: 4, Session: 1, Gen: 4, Arriving: []Range{{128, 64}, {256, 128}}}
	r.Handle(0, fence)
	if len(e.ops) != 2 || e.ops[0].Kind != OpClear || !e.ops[0].Copied || e.ops[0].Ver != (Version{}) || e.ops[0].Off != 128 || e.ops[1].Off != 256 || e.ops[1].Len != 128 {
		t.Fatalf("first in the store: %+v, want that both ranges become as never written", e.ops)
	}
	e.finish(r)
	if len(e.ops) != 1 || e.ops[0].Kind != OpFence || len(e.ops[0].Void) != 0 || len(e.answers) != 0 {
		t.Fatalf("then: %+v and answers %+v, want the epoch", e.ops, e.answers)
	}
	e.finish(r)
	if resp := e.last(t); resp.Status != OK || len(resp.Tail) != 3 {
		t.Fatalf("answer %+v", resp)
	}
	bare := Request{ID: 11, Kind: Write, Epoch: 4, Session: 1, Boot: 7, Gen: 4, Off: 264, Len: 8, Data: make([]byte, 8), Ver: Version{4, 11}}
	r.Handle(0, bare)
	if len(e.ops) != 1 || len(e.ops[0].Void) != 1 || e.ops[0].Void[0] != 256 {
		t.Fatalf("a bare write to what arrives: %+v, want it to void its region", e.ops)
	}
	e.finish(r)
	e.answers = nil
	fence.ID, fence.Session = 20, 2
	r.Handle(0, fence)
	if len(e.ops) != 1 || e.ops[0].Kind != OpFence || len(e.ops[0].Void) != 2 || e.ops[0].Void[0] != 128 || e.ops[0].Void[1] != 256 {
		t.Fatalf("the next session: %+v, want the regions of the tail among those that arrive to lose their version, and no other", e.ops)
	}
	e.finish(r)
	if resp := e.last(t); resp.Status != OK {
		t.Fatalf("answer %+v", resp)
	}
}

// A fence that was overtaken by one of another session leaves what it has begun to it.
func TestArrivingIsClearedForTheNewestFence(t *testing.T) {
	r, e := opened(t)
	r.Handle(0, Request{ID: 10, Kind: Fence, Epoch: 4, Session: 1, Gen: 4, Arriving: []Range{{128, 64}}})
	r.Handle(0, Request{ID: 11, Kind: Fence, Epoch: 4, Session: 2, Gen: 4, Arriving: []Range{{128, 64}}})
	if resp := e.last(t); resp.Status != OldSession || resp.ID != 10 {
		t.Fatalf("the first fence: %+v", resp)
	}
	for range 3 {
		if len(e.ops) != 1 || len(e.answers) != 0 {
			t.Fatalf("ops %+v and answers %+v, want a clear, another one, the epoch", e.ops, e.answers)
		}
		e.finish(r)
	}
	if resp := e.last(t); resp.Status != OK || resp.ID != 11 {
		t.Fatalf("the second fence: %+v", resp)
	}
}

// [I8]: a clear of part of a region that is not clean voids it as a write does;
// the copy of a hole makes it clean, with the source's version and no tail entry.
func TestClearsInARebuild(t *testing.T) {
	r, e := opened(t)
	ask := func(q Request) *Op {
		t.Helper()
		q.Epoch, q.Session, q.Boot, q.Gen = 3, 1, 7, 5
		r.Handle(0, q)
		op := *e.ops[0]
		e.finish(r)
		if resp := e.last(t); resp.Status != OK {
			t.Fatalf("%+v: %+v", q, resp)
		}
		return &op
	}
	ask(Request{ID: 2, Kind: Begin})
	for id, kind := range map[uint64]Kind{3: Clear, 4: Zero} {
		op := ask(Request{ID: id, Kind: kind, Off: 72, Len: 8, Ver: Version{3, id}})
		if want := map[Kind]OpKind{Clear: OpClear, Zero: OpZero}[kind]; op.Kind != want || op.Copied || len(op.Void) != 1 || op.Void[0] != 64 {
			t.Errorf("request kind %d became %+v", kind, op)
		}
	}
	if op := ask(Request{ID: 5, Kind: Copy, Off: 64, Len: 64, Ver: Version{2, 2}}); op.Kind != OpClear || !op.Copied || op.Ver != (Version{2, 2}) {
		t.Errorf("the copy of a hole became %+v", op)
	}
	if op := ask(Request{ID: 6, Kind: Clear, Off: 72, Len: 8, Ver: Version{3, 6}}); len(op.Void) != 0 {
		t.Errorf("a clear in a clean region voids %v", op.Void)
	}
	if resp := e.fence(t, r, Request{ID: 9, Epoch: 3, Session: 2}); len(resp.Tail) != 3 {
		t.Errorf("tail %+v, want the three clears and not the copy", resp.Tail)
	}
}

// Zeroes that are read are not sent.
func TestReadOfZeroes(t *testing.T) {
	for _, last := range []byte{0, 1} {
		r, e := opened(t)
		r.Handle(0, Request{ID: 2, Kind: Read, Epoch: 3, Session: 1, Boot: 7, Len: 64})
		e.ops[0].Data[63], e.ops[0].Vers = last, []Version{{1, 1}}
		e.finish(r)
		if resp := e.last(t); resp.Status != OK || len(resp.Data) != 64*int(last) || len(resp.Vers) != 1 {
			t.Errorf("%+v after a read of zeroes and a %d", resp, last)
		}
	}
}

// A store that failed once may hold anything: it takes no more writes, and
// does not pretend to know its tail.
func TestFailedStore(t *testing.T) {
	r, e := opened(t)
	r.Handle(0, writeOf(2))
	e.ops[0].Err = Failed
	r.Done(e.ops[0])
	e.ops = nil
	if resp := e.last(t); resp.Status != Failed {
		t.Errorf("write: %+v", resp)
	}
	r.Handle(0, writeOf(3))
	if resp := e.last(t); resp.Status != Failed {
		t.Errorf("next write: %+v", resp)
	}
	if resp := e.fence(t, r, Request{ID: 9, Epoch: 4, Session: 1}); resp.Status != Failed {
		t.Errorf("Fence: %+v", resp)
	}
}

// A full disk is no failure: nothing was done, it is not in the tail, and what
// comes after goes on.
func TestFullStore(t *testing.T) {
	r, e := opened(t)
	r.Handle(0, writeOf(2))
	e.ops[0].Err = NoSpace
	r.Done(e.ops[0])
	e.ops = nil
	if resp := e.last(t); resp.Status != NoSpace {
		t.Errorf("write: %+v", resp)
	}
	r.Handle(0, writeOf(3))
	e.finish(r)
	if resp := e.last(t); resp.Status != OK {
		t.Errorf("next write: %+v", resp)
	}
	r.Handle(0, Request{ID: 9, Kind: Fence, Epoch: 4, Session: 1})
	e.ops[0].Err = NoSpace
	r.Done(e.ops[0])
	e.ops = nil
	if resp := e.last(t); resp.Status != NoSpace {
		t.Errorf("Fence that could not be stored: %+v", resp)
	}
	if resp := e.fence(t, r, Request{ID: 10, Epoch: 4, Session: 2}); resp.Status != OK || len(resp.Tail) != 1 || resp.Tail[0].Ver.Seq != 3 {
		t.Errorf("Fence: %+v, want the second write in the tail", resp)
	}
}

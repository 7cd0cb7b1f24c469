package replica

import "testing"

// [I15]: a watermark is stored when it is half of Lag above the one that is, and the answer tells which one is stored.
func TestWatermarkIsStored(t *testing.T) {
	e := &fakeEnv{}
	r := New(Config{Boot: 7, RegionBytes: 64, Lag: 10}, e, State{Stable: 20})
	e.fence(t, r, Request{ID: 1, Epoch: 3, Session: 1})
	ask := func(id, stable uint64) {
		t.Helper()
		r.Handle(0, Request{ID: id, Kind: Stable, Epoch: 3, Session: 1, Boot: 7, Stable: stable})
	}
	ask(2, 24)
	if resp := e.last(t); len(e.ops) != 0 || resp.Status != OK || resp.Stable != 20 {
		t.Errorf("%+v and %d ops for what is a little higher, want the old one and none", resp, len(e.ops))
	}
	ask(3, 25)
	if len(e.answers) != 0 || len(e.ops) != 1 || e.ops[0].Stable != 25 || e.ops[0].Kind != OpFence || e.ops[0].Epoch != 3 || len(e.ops[0].Void) != 0 {
		t.Fatalf("answers %+v, ops %+v: want watermark 25 stored first", e.answers, e.ops)
	}
	e.finish(r)
	if resp := e.last(t); resp.Status != OK || resp.Stable != 25 {
		t.Errorf("%+v, want 25", resp)
	}
	ask(4, 40)
	e.ops[0].Err = NoSpace
	op := e.ops[0]
	e.ops = nil
	r.Done(op)
	if resp := e.last(t); resp.Status != OK || resp.Stable != 25 {
		t.Errorf("%+v when there is no space, want 25", resp)
	}
	q := writeOf(5)
	q.Stable = 41
	r.Handle(0, q)
	e.finish(r)
	e.last(t)
	ask(6, 44)
	if resp := e.last(t); resp.Stable != 41 || len(e.ops) != 0 {
		t.Errorf("%+v, want 41, which came with a write", resp)
	}
}

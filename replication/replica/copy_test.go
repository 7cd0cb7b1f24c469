package replica

import (
	"bytes"
	"slices"
	"testing"
)

// rebuilt is a replica that takes copies of three regions, in generation 5.
func rebuilt(t *testing.T) (*Replica, *fakeEnv) {
	e := &fakeEnv{}
	r := New(Config{Boot: 7, RegionBytes: 64, CopyMax: 192}, e, State{})
	if resp := e.fence(t, r, Request{ID: 1, Epoch: 3, Session: 1}); !slices.Equal(resp.Differ, []int64{192}) {
		t.Fatalf("Fence: %+v, want it to say how much a copy may be", resp)
	}
	r.Handle(0, Request{ID: 2, Kind: Begin, Epoch: 3, Session: 1, Boot: 7, Gen: 5})
	e.finish(r)
	e.last(t)
	return r, e
}

func copyOf(id uint64, data []byte, vers ...Version) Request {
	return Request{ID: id, Kind: Copy, Epoch: 3, Session: 1, Boot: 7, Gen: 5, Len: int64(64 * len(vers)), Data: data, Vers: vers}
}

// voids tells which regions lose their version by a write to all three.
func voids(r *Replica, e *fakeEnv, id uint64) []int64 {
	q := writeOf(id)
	q.Gen, q.Len, q.Data = 5, 192, make([]byte, 192)
	r.Handle(0, q)
	void := e.ops[0].Void
	e.finish(r)
	e.answers = nil
	return void
}

// Neighbours of one version are one op, holes are made, and the answer waits for all.
func TestCopyOfSeveralRegions(t *testing.T) {
	r, e := rebuilt(t)
	data := append(bytes.Repeat([]byte{1}, 128), make([]byte, 64)...)
	r.Handle(0, copyOf(3, data, Version{2, 8}, Version{2, 8}, Version{2, 8}))
	if len(e.ops) != 2 || e.ops[0].Kind != OpWrite || e.ops[0].Len != 128 || e.ops[1].Kind != OpClear || e.ops[1].Off != 128 || e.ops[1].Ver != (Version{2, 8}) {
		t.Fatalf("ops %+v, %+v: want a write of two regions and a hole", e.ops[0], e.ops[len(e.ops)-1])
	}
	e.finish(r)
	if resp := e.last(t); resp.Status != OK || resp.ID != 3 {
		t.Errorf("the copy: %+v", resp)
	}
	data[191] = 1
	r.Handle(0, copyOf(4, data, Version{2, 8}, Version{2, 9}, Version{2, 10}))
	if len(e.ops) != 3 || e.ops[1].Ver != (Version{2, 9}) || e.ops[2].Off != 128 {
		t.Fatalf("%d ops: want one for each version", len(e.ops))
	}
	ops := e.ops
	e.ops = nil
	for i, op := range ops {
		if len(e.answers) != 0 {
			t.Fatalf("answered when %d of 3 regions were there", i)
		}
		op.Err = OK
		r.Done(op)
	}
	e.last(t)
	if void := voids(r, e, 5); len(void) != 0 {
		t.Errorf("the write that followed took the versions of %v", void)
	}
}

// A copy of which a part fails is answered once, with that, and nothing of it is clean.
func TestCopyThatFailsInPart(t *testing.T) {
	for _, late := range []bool{false, true} {
		r, e := rebuilt(t)
		r.Handle(0, copyOf(3, bytes.Repeat([]byte{1}, 192), Version{2, 8}, Version{2, 9}, Version{2, 10}))
		ops := e.ops
		e.ops = nil
		for i, op := range ops {
			if op.Err = OK; (i == 2) == late && i != 1 {
				op.Err = NoSpace
			}
			r.Done(op)
		}
		if resp := e.last(t); resp.Status != NoSpace {
			t.Errorf("the copy: %+v", resp)
		}
		if void := voids(r, e, 4); len(void) != 3 {
			t.Errorf("a write took the versions of %v, want all three regions", void)
		}
	}
}

// A Fence waits for all parts of a copy.
func TestFenceWaitsForACopy(t *testing.T) {
	r, e := rebuilt(t)
	r.Handle(0, copyOf(3, bytes.Repeat([]byte{1}, 128), Version{2, 8}, Version{2, 9}))
	ops := e.ops
	e.ops = nil
	r.Handle(1, Request{ID: 9, Kind: Fence, Epoch: 4, Session: 1})
	for _, op := range ops {
		if len(e.ops) != 0 {
			t.Fatal("the epoch was noted while a copy of an older one was in the store")
		}
		op.Err = OK
		r.Done(op)
	}
	if resp := e.last(t); resp.Status != OldEpoch {
		t.Errorf("the copy: %+v", resp)
	}
	e.finish(r)
	if resp := e.last(t); resp.Status != OK {
		t.Errorf("Fence: %+v", resp)
	}
}

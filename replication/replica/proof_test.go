package replica

import (
	"slices"
	"testing"
)

// [I15]: a replica of a machine that went down says so to each owner, until it is vouched for durably.
func TestVouch(t *testing.T) {
	e := &fakeEnv{}
	r := New(Config{Boot: 7, RegionBytes: 64}, e, State{Fenced: 2, Stable: 5, Last: 5, Unproven: true})
	for session := uint64(1); session <= 2; session++ {
		if resp := e.fence(t, r, Request{ID: session, Epoch: 3, Session: session}); !resp.Unproven || !resp.Vouches {
			t.Errorf("Fence of session %d: %+v, want unproven", session, resp)
		}
	}
	r.Handle(0, Request{ID: 3, Kind: Vouch, Epoch: 3, Session: 2, Boot: 7, Stable: 9})
	if len(e.ops) != 1 || e.ops[0].Kind != OpVouch || e.ops[0].Stable != 9 || len(e.answers) != 0 {
		t.Fatalf("ops %+v, answers %+v, want one that is waited for", e.ops, e.answers)
	}
	e.finish(r)
	if resp := e.last(t); resp.Status != OK {
		t.Errorf("Vouch: %+v", resp)
	}
	if resp := e.fence(t, r, Request{ID: 4, Epoch: 3, Session: 3}); resp.Unproven || resp.Stable != 9 {
		t.Errorf("Fence: %+v, want proven, with the watermark", resp)
	}
}

// A takeover compares and copies without a generation: it changes nothing about what a resync, or what
// arrives, has found clean.
func TestCompareWithoutRebuild(t *testing.T) {
	r, e := opened(t)
	r.Handle(0, Request{ID: 2, Kind: Confirm, Epoch: 3, Session: 1, Boot: 7, Len: 128, Vers: []Version{{1, 1}, {1, 2}}})
	e.ops[0].Vers = []Version{{1, 1}, {1, 1}}
	e.finish(r)
	if resp := e.last(t); resp.Status != OK || !slices.Equal(resp.Differ, []int64{64}) {
		t.Errorf("Confirm: %+v, want the second region", resp)
	}
	r.Handle(0, Request{ID: 3, Kind: Copy, Epoch: 3, Session: 1, Boot: 7, Off: 64, Len: 64, Data: slices.Repeat([]byte{1}, 64), Ver: Version{1, 2}})
	if len(e.ops) != 1 || !e.ops[0].Copied || e.ops[0].Ver != (Version{1, 2}) {
		t.Fatalf("ops %+v, want a copy with its version", e.ops)
	}
	e.finish(r)
	if resp := e.last(t); resp.Status != OK {
		t.Errorf("Copy: %+v", resp)
	}
}

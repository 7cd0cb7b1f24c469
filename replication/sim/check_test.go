package sim

import (
	"testing"
	"time"

	"blockd.dev/replication/volume"
	"pgregory.net/rapid"
)

// The checker says of every small history of one block what a search through
// all orders says.
func TestCheckerAgreesWithSearch(t *testing.T) {
	right, wrong := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "ops")
		// Distinct instants: each op gets two of them.
		at := rapid.Permutation(instants(2*n)).Draw(t, "instants")
		var ops []*record
		for i := range n {
			r := &record{kind: volume.Write, blocks: 1, value: uint64(i + 1), ok: true}
			r.call, r.ret = min(at[2*i], at[2*i+1]), max(at[2*i], at[2*i+1])
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0, 1, 2, 3:
				r.kind, r.got = volume.Read, []uint64{rapid.Uint64Range(0, uint64(n)).Draw(t, "value")}
			case 4:
				r.ok, r.ret = false, forever // nobody knows
			case 5, 6:
				r.kind, r.value = volume.Unmap, 0
			case 7:
				r.kind, r.value = volume.WriteZeroes, 0
				r.ok, r.ret = false, forever
			case 8:
				r.kind, r.expect = volume.CompareWrite, rapid.Uint64Range(0, uint64(n)).Draw(t, "expect")
				if rapid.Bool().Draw(t, "unknown") {
					r.ok, r.ret = false, forever
				}
			}
			ops = append(ops, r)
		}
		want := search(ops, 0, 0)
		if want {
			right++
		} else {
			wrong++
		}
		if got := checkBlock(ops, 0); (got == "") != want {
			for _, r := range ops {
				t.Logf("%+v", *r)
			}
			t.Fatalf("checker: %q, search: linearizable = %v", got, want)
		}
	})
	if right == 0 || wrong == 0 {
		t.Errorf("%d right and %d wrong histories: one sort is missing", right, wrong)
	}
}

func instants(n int) []time.Duration {
	list := make([]time.Duration, n)
	for i := range list {
		list[i] = time.Duration(i + 1)
	}
	return list
}

// search tells whether the ops not in taken can be put in an order, starting
// with a block of the given value. What nobody knows of may be left out.
func search(ops []*record, taken int, value uint64) bool {
	first, left := forever, false // the end of the op that must be over first
	for i, r := range ops {
		if taken>>i&1 == 0 && r.ok {
			first, left = min(first, r.ret), true
		}
	}
	if !left {
		return true
	}
	for i, r := range ops {
		switch {
		case taken>>i&1 == 1 || r.call > first:
		case r.kind == volume.Read:
			if r.got[0] == value && search(ops, taken|1<<i, value) {
				return true
			}
		case r.kind == volume.CompareWrite && r.expect != value:
		case search(ops, taken|1<<i, r.value):
			return true
		}
	}
	return false
}

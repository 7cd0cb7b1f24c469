package sim

import (
	"fmt"
	"time"

	"blockd.dev/replication/volume"
)

// cluster is a value of a block: the one write that made it and the reads that
// saw it. In a linearizable order they stand together, since no two writes
// have the same value, so the history is linearizable if and only if the
// clusters can be put in an order. Let first be the earliest end of an op of
// the cluster and last the latest start. If first < last the value was surely
// there from first to last (a forward zone), and no other forward zone may
// overlap that, nor any backward zone lie within (see "Testing Shared
// Memories", SIAM Journal on Computing 26(4), 1997).
// A write that nobody saw and of which nobody was told may be left out.
// TestCheckerAgreesWithSearch holds that against trying all orders.
type cluster struct {
	value       uint64
	first, last time.Duration
	call        time.Duration // of the write
	seen        bool
}

// check returns what is wrong with the history of all blocks, or "".
func check(ops []*record) string {
	for b := range int64(volumeBlocks) {
		if msg := checkBlock(ops, b); msg != "" {
			return msg
		}
	}
	return ""
}

func checkBlock(ops []*record, b int64) string {
	byValue := map[uint64]*cluster{0: {first: -1, last: -1, call: -1}}
	var all []*cluster
	all = append(all, byValue[0])
	for _, r := range ops {
		if r.kind == volume.Read || r.mismatch || b < r.off/blockBytes || b >= r.off/blockBytes+r.blocks {
			continue
		}
		c := &cluster{value: r.value, first: r.ret, last: r.call, call: r.call, seen: r.ok}
		byValue[r.value] = c
		all = append(all, c)
	}
	saw := func(v uint64, call, ret time.Duration) string {
		c := byValue[v]
		if c == nil {
			return fmt.Sprintf("block %d: a read from %v to %v saw %#x, which nobody wrote there", b, call, ret, v)
		}
		if ret < c.call {
			return fmt.Sprintf("block %d: a read until %v saw %d, written from %v on", b, ret, v, c.call)
		}
		c.first, c.last, c.seen = min(c.first, ret), max(c.last, call), true
		return ""
	}
	for _, r := range ops {
		if !r.ok || b < r.off/blockBytes || b >= r.off/blockBytes+r.blocks {
			continue
		}
		var msg string
		switch r.kind {
		case volume.Read:
			msg = saw(r.got[b-r.off/blockBytes], r.call, r.ret)
		case volume.CompareWrite:
			msg = saw(r.expect, r.call, r.ret)
		case volume.Write:
		}
		if msg != "" {
			return msg
		}
	}
	for i, c := range all {
		for j, d := range all {
			if i == j || c.first >= c.last || !d.seen && d.value != 0 {
				continue // c is no forward zone, or d may never have happened
			}
			lo, hi := min(d.first, d.last), max(d.first, d.last)
			forward := d.first < d.last
			if forward && lo < c.last && c.first < hi || !forward && c.first < lo && hi < c.last {
				return fmt.Sprintf("block %d: value %d was there from %v to %v, but so was %d: %v to %v", b, c.value, c.first, c.last, d.value, d.first, d.last)
			}
		}
	}
	return ""
}

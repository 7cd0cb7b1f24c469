package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"blockd.dev/replication/volume"
)

// check returns what is wrong with the history of all blocks, or "".
func check(ops []*record) string {
	for b := range int64(mostBlocks) {
		if msg := checkBlock(ops, b); msg != "" {
			return msg
		}
	}
	return ""
}

// step is what one op did to one block, or saw there.
type step struct {
	op        *record
	call, ret time.Duration
	needs     uint64 // the value that was there before
	reads     bool   // needs counts
	makes     uint64 // the value that is there after
	writes    bool   // makes counts
	may       bool   // nobody knows whether it happened
}

// history is a search for an order of steps in which each takes its place
// between its call and its return, and sees what the one before has made.
//
// All values but zero are made once. So what sees a value that another step is
// about to replace will never have its turn, and the search hardly branches:
// only where clears, which all make zero, or writes side by side are in question.
// TestCheckerAgreesWithSearch holds that against trying all orders.
type history struct {
	steps []step // by call
	dead  map[taken]bool
}

// mostSteps is how many operations of one block the check can take.
const mostSteps = 512

// taken says which steps have had their turn, and what the block is now.
type taken struct {
	steps [mostSteps / 64]uint64
	value uint64
}

func (t *taken) has(i int) bool { return t.steps[i>>6]>>(i&63)&1 == 1 }

func (t taken) with(i int, s step) taken {
	t.steps[i>>6] |= 1 << (i & 63)
	if s.writes {
		t.value = s.makes
	}
	return t
}

func checkBlock(ops []*record, b int64) string {
	h := history{dead: map[taken]bool{}}
	seen := map[uint64]bool{}
	for _, r := range ops {
		if b < r.off/blockBytes || b >= r.off/blockBytes+r.blocks || r.mismatch || r.kind == volume.Scrub || !r.ok && r.kind == volume.Read {
			continue
		}
		s := step{op: r, call: r.call, ret: r.ret, may: !r.ok}
		switch r.kind {
		case volume.Read:
			s.reads, s.needs = true, r.got[b-r.off/blockBytes]
		case volume.CompareWrite:
			s.reads, s.needs = true, r.expect
			fallthrough
		case volume.Write:
			s.writes, s.makes = true, r.value
		case volume.Unmap, volume.WriteZeroes:
			s.writes = true
		case volume.Scrub:
		}
		if s.reads && !s.may {
			seen[s.needs] = true
		}
		h.steps = append(h.steps, s)
	}
	h.steps = slices.DeleteFunc(h.steps, func(s step) bool { // perhaps it happened, but it explains nothing
		return s.may && !seen[s.makes] && !slices.ContainsFunc(h.steps, func(x step) bool { return x.may && x.reads && x.needs == s.makes })
	})
	slices.SortStableFunc(h.steps, func(a, b step) int { return cmp.Compare(a.call, b.call) })
	if len(h.steps) > mostSteps {
		return fmt.Sprintf("block %d: %d operations are more than the check can take", b, len(h.steps))
	}
	if h.possible(taken{}) {
		return ""
	}
	return fmt.Sprintf("block %d: nothing explains its history:\n%v", b, h)
}

// possible tells whether the steps that are left can follow.
func (h *history) possible(t taken) bool {
	first, ready := h.ready(t)
	for i := 0; i < len(ready); i++ { // reads that see what is there
		if s := h.steps[ready[i]]; !s.writes && s.needs == t.value {
			t = t.with(ready[i], s)
			first, ready = h.ready(t)
			i = -1
		}
	}
	if first == forever {
		return true
	}
	last := -1 // the only one that may follow, since it sees a value made once
	for i, s := range h.steps {
		if t.value == 0 || t.has(i) || s.may || !s.reads || s.needs != t.value {
			continue
		}
		if !s.writes || last >= 0 {
			return false
		}
		last = i
	}
	if h.dead[t] {
		return false
	}
	for _, i := range ready {
		s := h.steps[i]
		if s.writes && (!s.reads || s.needs == t.value) && (last < 0 || last == i) && h.possible(t.with(i, s)) {
			return true
		}
	}
	h.dead[t] = true
	return false
}

// ready lists the steps that may be next: those called before the first of all
// that are left has returned. It is forever when none has to follow.
func (h *history) ready(t taken) (first time.Duration, list []int) {
	first = forever
	for i, s := range h.steps {
		if !t.has(i) && !s.may {
			first = min(first, s.ret)
		}
	}
	for i, s := range h.steps {
		if s.call > first {
			break
		}
		if !t.has(i) {
			list = append(list, i)
		}
	}
	return first, list
}

// String has a line for each step.
func (h history) String() string {
	var b strings.Builder
	for _, s := range h.steps {
		end := fmt.Sprint(s.ret)
		if s.may {
			end = "?"
		}
		fmt.Fprintf(&b, "  %v - %v:", s.call, end)
		if s.reads {
			fmt.Fprintf(&b, " saw %d", s.needs)
		}
		if s.writes {
			fmt.Fprintf(&b, " made %d", s.makes)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

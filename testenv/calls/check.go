package calls

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// patience bounds the search for an order of one name's calls.
const patience = 30 * time.Second

// Check is nil if every name's history has an order that explains it; otherwise
// it says which have none, with the history of one.
func Check(ops []Op) error {
	names := byName(ops)
	var broken, undecided []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		switch porcupine.CheckOperationsTimeout(entry, operations(names[name]), patience) {
		case porcupine.Illegal:
			broken = append(broken, name)
		case porcupine.Unknown:
			undecided = append(undecided, name)
		}
	}
	all := append(slices.Clone(broken), undecided...)
	if len(all) == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "calls: no order explains what was done to %v; not decided in %v: %v\ncalls about %s:", broken, patience, undecided, all[0])
	for _, o := range byCall(shortest(names[all[0]])) {
		fmt.Fprintf(&b, "\n\t%s", o)
	}
	return fmt.Errorf("%s", b.String())
}

// shortest is the begin of a history up to the first answer that no order
// explains: what follows explains nothing. An order of all explains each begin, too.
func shortest(history []Op) []Op {
	ends := slices.SortedFunc(slices.Values(history), func(x, y Op) int { return int(x.Return - y.Return) })
	first := sort.Search(len(ends), func(n int) bool {
		return porcupine.CheckOperationsTimeout(entry, operations(until(history, ends[n].Return)), patience) != porcupine.Ok
	})
	if first == len(ends) {
		return history
	}
	return until(history, ends[first].Return)
}

// until is the begin of a history as it was at a time.
func until(history []Op, at time.Duration) (out []Op) {
	for _, o := range history {
		switch {
		case o.Return <= at:
		case o.Call <= at && o.Kind != Read:
			o.Answer, o.Return = Open, never
		default:
			continue
		}
		out = append(out, o)
	}
	return out
}

// operations is a history for the search.
//
// To be told that a volume is not there, of a call that made it, is that it was made
// and somebody has deleted it. Of one that changed it, it is two things: the call
// may have been done, and somebody deleted the volume before the answer.
//
// To be told no when a node was asked before that did not answer is two things as
// well: what the last one was asked was refused, and nothing is remembered of
// that; what an earlier one was asked may be on its way still, in a process that is
// paused for instance, and be done later, once.
func operations(history []Op) (out []porcupine.Operation) {
	add := func(o Op) {
		out = append(out, porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Call), Return: int64(o.Return)})
	}
	for _, o := range history {
		if o.Kind == Create && o.Answer == None {
			o.Answer, o.Seen = Done, Volume{}
		}
		if o.Answer > Done && len(o.Nodes) > 1 && o.Kind != Read {
			late := o
			late.Answer, late.Return = Open, never
			add(late)
			o.Call = o.Last
		}
		if o.Answer == None && (o.Kind == Resize || o.Kind == Protect) {
			no := o
			no.Kind, no.Answer = observeNo, Done
			add(no)
			o.Answer = Open
		}
		add(o)
	}
	return out
}

// entry is the catalog's entry of one name.
var entry = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{Volume{}} },
	Step: func(state, input, _ any) []any {
		var out []any
		v, o := state.(Volume), input.(Op)
		for _, next := range after(v, o) {
			out = append(out, next)
		}
		if v.Leaving { // its name may be free by now
			for _, next := range after(Volume{}, o) {
				out = append(out, next)
			}
		}
		return out
	},
}).ToModel()

// after is what may be there after a call, nothing if that does not agree with
// what the client was told.
func after(v Volume, o Op) []Volume {
	next, answer := done(v, o)
	switch {
	case o.Answer == Open:
		return []Volume{v, next}
	case o.Answer == answer:
		return []Volume{next}
	}
	return nil
}

// done is what a call makes of a volume, and its answer.
func done(v Volume, o Op) (next Volume, answer Answer) {
	switch {
	case o.Kind == observeNo && (!v.There || v.Leaving):
		return v, Done
	case o.Kind == observeNo:
		return v, Refused // which it does not say
	case o.Kind == Read:
		return read(v, o)
	case o.Kind == Create && !v.There:
		return Volume{There: true, ID: o.Seen.ID, Size: o.Size}, Done
	case !v.There:
		return v, None
	case v.Leaving:
		return v, Refused
	}
	next = v
	switch o.Kind {
	case Create:
		return v, Exists
	case Delete:
		next.Leaving = true
	case Resize:
		if o.Size < v.Size {
			return v, Refused
		}
		next.Size = o.Size
	case Protect:
		next.Protected = o.Protected
	case Map:
		if v.Mapped {
			return v, Exists
		}
		next.Mapped = true
	case Unmap:
		if !v.Mapped {
			return v, None
		}
		next.Mapped = false
	}
	return next, Done
}

// read is a Read; it may be the first that tells the ID.
func read(v Volume, o Op) (Volume, Answer) {
	if !v.There {
		return v, None
	}
	if v.ID == "" {
		v.ID = o.Seen.ID
	}
	seen := o.Seen
	if v.Leaving { // nothing else of it matters any more
		seen = Volume{There: true, Leaving: seen.Leaving, ID: seen.ID, Size: v.Size, Protected: v.Protected, Mapped: v.Mapped}
	}
	if o.Answer == Done && seen != v {
		return v, Refused // which a read does not say
	}
	return v, Done
}

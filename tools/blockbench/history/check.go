package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Verdict is what a history shows. The zero value is what it should be.
type Verdict struct {
	// Lost are the blocks whose last read brought a value that an acknowledged
	// write had replaced before the read began.
	Lost []int64
	// Stale are the other reads that did so.
	Stale []Op
	// Strange are the reads of what nobody had written by then.
	Strange []Op
	// Disorder are the blocks whose history has no order that explains it,
	// those above and any others; undecided are those for which that could
	// not be told in time.
	Disorder, Undecided []int64
}

// Err is nil if nothing is wrong; otherwise it says what, with the history around one
// of the blocks.
func (v *Verdict) Err(ops []Op) error {
	if len(v.Lost)+len(v.Stale)+len(v.Strange)+len(v.Disorder)+len(v.Undecided) == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d acknowledged writes lost, %d stale reads, %d reads of what was never written, %d blocks without a linear order, %d undecided",
		len(v.Lost), len(v.Stale), len(v.Strange), len(v.Disorder), len(v.Undecided))
	block := int64(-1)
	switch {
	case len(v.Disorder) > 0:
		block = v.Disorder[0]
	case len(v.Undecided) > 0:
		block = v.Undecided[0]
	}
	if o := append(slices.Clone(v.Strange), v.Stale...); len(o) > 0 {
		block = o[0].Block
		fmt.Fprintf(&b, "\nfor instance %s", o[0])
	} else if len(v.Lost) > 0 {
		block = v.Lost[0]
	}
	history := byBlock(ops)[block]
	slices.SortFunc(history, func(x, y Op) int { return int(x.Call - y.Call) })
	const shown = 60
	fmt.Fprintf(&b, "\nthe last of %d operations on block %d:", len(history), block)
	for _, o := range history[max(0, len(history)-shown):] {
		fmt.Fprintf(&b, "\n\t%s", o)
	}
	return fmt.Errorf("history: %s", b.String())
}

// patience bounds the search for an order of one block's operations. With a
// few hosts at a time it takes milliseconds.
const patience = 30 * time.Second

// Check judges a history.
func Check(ops []Op) Verdict {
	var v Verdict
	blocks := byBlock(ops)
	for _, block := range slices.Sorted(maps.Keys(blocks)) {
		history := blocks[block]
		v.readings(block, history)
		switch porcupine.CheckOperationsTimeout(register, operations(history), patience) {
		case porcupine.Illegal:
			v.Disorder = append(v.Disorder, block)
		case porcupine.Unknown:
			v.Undecided = append(v.Undecided, block)
		}
	}
	return v
}

// readings finds the reads that no order can explain, each with a reason that
// a person can follow.
func (v *Verdict) readings(block int64, history []Op) {
	wrote := map[uint64][]Op{0: {{Return: -1, Call: -1}}} // 0 by several
	var writes []Op                                       // acknowledged
	var last Op                                           // read
	last.Call = -1
	for _, o := range history {
		switch {
		case o.Kind == Read:
			if o.Call > last.Call {
				last = o
			}
		case !o.Missed:
			wrote[o.Value] = append(wrote[o.Value], o)
			if !o.Open && !o.Refused {
				writes = append(writes, o)
			}
		}
	}
	for _, o := range history {
		if o.Kind != Read {
			continue
		}
		begun := slices.DeleteFunc(slices.Clone(wrote[o.Value]), func(w Op) bool { return w.Call > o.Return })
		replaced := func(w Op) bool {
			return slices.ContainsFunc(writes, func(x Op) bool { return x.Call > w.Return && x.Return < o.Call })
		}
		switch {
		case len(begun) == 0:
			v.Strange = append(v.Strange, o)
		case slices.ContainsFunc(begun, func(w Op) bool { return !replaced(w) }):
		case o == last:
			v.Lost = append(v.Lost, block)
		default:
			v.Stale = append(v.Stale, o)
		}
	}
}

// register is one block: its state is the value. What was told to the host is part
// of the input.
var register = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{uint64(0)} },
	Step: func(state, input, _ any) []any { return apply(state.(uint64), input.(Op)) },
}).ToModel()

// apply has an operation take effect on a block, and returns what the block may
// hold then: nothing if that does not agree with what the host was told.
func apply(held uint64, o Op) (now []any) {
	plain := o.Kind == Write || o.Kind == Clear
	switch {
	case plain && (o.Again || o.Refused) && o.Value != held:
		return []any{held, o.Value} // it is not the last time, or is not done
	case plain:
		return []any{o.Value}
	case o.Kind == Read && o.Value == held, o.Missed && o.Expected != held:
		return []any{held}
	case o.Kind == CompareAndWrite && o.Refused && o.Expected == held:
		return []any{held, o.Value}
	case o.Kind == CompareAndWrite && !o.Missed && o.Expected == held:
		return []any{o.Value}
	case o.Kind == CompareAndWrite && (o.Open || o.Refused):
		return []any{held}
	}
	return nil
}

// againMax is how many more times a write may take effect that was sent again.
// Hosts send it as often as it is refused, so it could be as many; to tell that
// from a fault takes as many other writes of the block at the same time.
const againMax = 2

// operations is the history of one block for the search. What is open could
// be put at the end of any order, where it changes nothing, and what was refused need not have been
// done; so both are left out unless somebody saw what they wrote, or may have.
func operations(history []Op) []porcupine.Operation {
	seen, missed := map[uint64]bool{}, false
	for _, o := range history {
		switch {
		case o.Kind == Read:
			seen[o.Value] = true
		case o.Kind == CompareAndWrite:
			seen[o.Expected] = true
			missed = missed || o.Missed
		}
	}
	var out []porcupine.Operation
	for _, o := range history {
		if (o.Open || o.Refused) && !seen[o.Value] && !missed {
			continue
		}
		times := 1
		if o.Again && o.Kind != CompareAndWrite {
			times += againMax
		}
		for ; times > 0; times-- {
			o.Again = times > 1
			out = append(out, porcupine.Operation{Input: o, Call: int64(o.Call), Return: int64(o.Return)})
		}
	}
	return out
}

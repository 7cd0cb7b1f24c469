// Package history records what hosts did to the blocks of a volume and what
// they were told, and checks that there is an order of it in which every block
// is a register: each operation takes effect at one moment between its call and
// its return (Herlihy and Wing, "Linearizability", 1990).
//
// Every block of the volume is a register of its own, and its value is a number
// that is written once in a history; 0 is what a block holds that was never
// written, or was cleared since. An operation whose outcome is not known stays open: it may take
// effect at any moment after its call, or never. One that was refused for want of space
// has taken effect between its call and its return, or never. A write that its host sent
// more than once (Again) may take effect several times, all between its call and its
// return. An operation on several blocks is one on each of them: no order is promised
// between blocks.
package history

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// Kind is what was done to a block.
type Kind uint8

// The kinds.
const (
	Read Kind = iota
	Write
	CompareAndWrite
	Clear // unmap or write zeroes: a write of 0
)

// String is the kind in words.
func (k Kind) String() string {
	return [...]string{"read", "write", "compare-and-write", "clear"}[k]
}

// Op is an operation of a history. Times count from the history's begin.
type Op struct {
	Client   int
	Kind     Kind
	Block    int64
	Expected uint64 // what a compare-and-write compares with
	Value    uint64 // what was read, or is written
	Missed   bool   // the compare-and-write found something else, and wrote nothing
	Open     bool   // the outcome is not known
	Refused  bool   // the host was told that there is no room
	Again    bool   // the write, or clear, was sent more than once
	Call     time.Duration
	Return   time.Duration
}

// String is the operation in words.
func (o Op) String() string {
	what := fmt.Sprintf("%v to %v: client %d: %v of block %d", o.Call, o.Return, o.Client, o.Kind, o.Block)
	if o.Open {
		what = fmt.Sprintf("%v, open: client %d: %v of block %d", o.Call, o.Client, o.Kind, o.Block)
	}
	if o.Refused {
		what += ", refused"
	}
	switch {
	case o.Kind == CompareAndWrite && o.Missed:
		return fmt.Sprintf("%s: expected %d and found another", what, o.Expected)
	case o.Kind == CompareAndWrite:
		return fmt.Sprintf("%s: expected %d, value %d", what, o.Expected, o.Value)
	}
	return fmt.Sprintf("%s: value %d", what, o.Value)
}

const never = time.Duration(math.MaxInt64)

// Recorder collects a history from any number of goroutines.
type Recorder struct {
	began time.Time

	mu   sync.Mutex
	ops  []Op
	last uint64
}

// NewRecorder begins a history.
func NewRecorder() *Recorder { return &Recorder{began: time.Now()} }

// NextValue is one that was not written before.
func (r *Recorder) NextValue() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	return r.last
}

// Now is the time to enter as Op.Call.
func (r *Recorder) Now() time.Duration { return time.Since(r.began) }

// Add enters an operation that has ended now. It is o.Open if nobody knows what
// became of it. A read without an outcome says nothing and is left out.
func (r *Recorder) Add(o Op) {
	o.Return = r.Now()
	if o.Open {
		o.Return = never
		if o.Kind == Read {
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, o)
}

// Ops is the history so far.
func (r *Recorder) Ops() []Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Op(nil), r.ops...)
}

// byBlock is the history of each block.
func byBlock(ops []Op) map[int64][]Op {
	out := map[int64][]Op{}
	for _, o := range ops {
		out[o.Block] = append(out[o.Block], o)
	}
	return out
}

// Next is a recorder for what follows this history, after every block was read:
// what was read last is what was written before, and what is open and was
// never seen may still take effect.
func (r *Recorder) Next() *Recorder {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := &Recorder{began: time.Now(), last: r.last}
	for _, history := range byBlock(r.ops) {
		var last Op
		last.Call = -1
		seen := map[uint64]bool{}
		for _, o := range history {
			if o.Kind == Read {
				seen[o.Value] = true
				if o.Call > last.Call {
					last = o
				}
			}
		}
		if last.Call >= 0 && last.Value != 0 {
			next.ops = append(next.ops, Op{Client: last.Client, Kind: Write, Block: last.Block, Value: last.Value})
		}
		for _, o := range history {
			if o.Open && (!seen[o.Value] || o.Kind == Clear) { // a 0 may have been another one's
				o.Call = 0
				next.ops = append(next.ops, o)
			}
		}
	}
	return next
}

package calls

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// Kind is what a call asks for.
type Kind uint8

// The kinds.
const (
	Read Kind = iota
	Create
	Delete
	Resize
	Protect   // or not, see Op.Protected
	Map       // to any host
	Unmap     // from any host
	kinds     // how many there are
	observeNo // that the volume is not there; only the search for an order has it
)

// String is the kind in words.
func (k Kind) String() string {
	return [...]string{"read", "create", "delete", "resize", "protect", "map", "unmap", "", "find none"}[k]
}

// Answer is what a client was told.
type Answer uint8

// The answers.
const (
	Open    Answer = iota // nothing that says what became of it
	Done                  // it was done; a read found the volume
	None                  // there is no such volume, or no such mapping
	Exists                // there is such a volume, or such a mapping
	Refused               // it can't be done with the volume as it is
)

// String is the answer in words.
func (a Answer) String() string {
	return [...]string{"open", "done", "none there", "exists", "refused"}[a]
}

// Volume is an entry of the catalog, as far as it is looked at.
type Volume struct {
	There     bool
	Leaving   bool   // it is deleted, and its name is not free yet
	ID        string // "" when nobody has seen it yet
	Size      int64
	Protected bool
	Mapped    bool
}

// Op is a call. Times count from the history's begin.
type Op struct {
	Client    int
	Kind      Kind
	Name      string // the volume's
	Size      int64  // asked for by Create and Resize
	Protected bool   // asked for by Protect
	Answer    Answer
	Seen      Volume // what a Read found; of what Create made, the ID
	Call      time.Duration
	Return    time.Duration
	Nodes     []string      // that were asked, one after the other
	Last      time.Duration // when the last of them was
	pool      string        // of a volume that Create makes
}

// String is the call in words.
func (o Op) String() string {
	what := o.Kind.String()
	switch o.Kind {
	case Create, Resize:
		what += fmt.Sprintf(" with %d bytes", o.Size)
	case Protect:
		what += fmt.Sprintf(" %v", o.Protected)
	}
	until := o.Return.String()
	if o.Answer == Open {
		until = "?"
	}
	found := ""
	if o.Seen != (Volume{}) {
		found = fmt.Sprintf(" %+v", o.Seen)
	}
	return fmt.Sprintf("%v to %v: client %d at %v: %s: %v%s", o.Call, until, o.Client, o.Nodes, what, o.Answer, found)
}

const never = time.Duration(math.MaxInt64)

// recorder collects a history from any number of goroutines.
type recorder struct {
	began time.Time
	mu    sync.Mutex
	ops   []Op
}

func (r *recorder) now() time.Duration { return time.Since(r.began) }

// add enters a call that has ended now. A read without an answer says nothing.
func (r *recorder) add(o Op) {
	o.Return = r.now()
	if o.Answer == Open {
		o.Return = never
		if o.Kind == Read {
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, o)
}

// byName is the history of each volume name.
func byName(ops []Op) map[string][]Op {
	out := map[string][]Op{}
	for _, o := range ops {
		out[o.Name] = append(out[o.Name], o)
	}
	return out
}

// byCall sorts a history for people.
func byCall(history []Op) []Op {
	return slices.SortedFunc(slices.Values(history), func(x, y Op) int { return int(x.Call - y.Call) })
}

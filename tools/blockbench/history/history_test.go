package history

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// at is an operation from one millisecond to another; open without an end.
func at(from, to int, o Op) Op {
	o.Call, o.Return = time.Duration(from)*time.Millisecond, time.Duration(to)*time.Millisecond
	if to == 0 {
		o.Return, o.Open = never, true
	}
	return o
}

func write(v uint64) Op             { return Op{Kind: Write, Value: v} }
func read(v uint64) Op              { return Op{Kind: Read, Value: v} }
func again(v uint64) Op             { o := write(v); o.Again = true; return o }
func compare(expected, v uint64) Op { return Op{Kind: CompareAndWrite, Expected: expected, Value: v} }
func missed(expected, v uint64) Op  { o := compare(expected, v); o.Missed = true; return o }
func cleared() Op                   { return Op{Kind: Clear} }
func refused(o Op) Op               { o.Refused = true; return o }
func counts(v Verdict) (out [5]int) {
	return [5]int{len(v.Lost), len(v.Stale), len(v.Strange), len(v.Disorder), len(v.Undecided)}
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		ops  []Op
		want [5]int // lost, stale, strange, disorder, undecided
	}{
		"nothing":                            {},
		"never written":                      {ops: []Op{at(1, 2, read(0))}},
		"written and read":                   {ops: []Op{at(1, 2, write(1)), at(3, 4, read(1))}},
		"either, while it is written":        {ops: []Op{at(1, 9, write(1)), at(2, 3, read(0)), at(4, 5, read(1))}},
		"new, then old, while it is written": {ops: []Op{at(1, 9, write(1)), at(2, 3, read(1)), at(4, 5, read(0))}, want: [5]int{3: 1}},
		"a write is lost":                    {ops: []Op{at(1, 2, write(1)), at(3, 4, write(2)), at(5, 6, read(1))}, want: [5]int{0: 1, 3: 1}},
		"the first write is lost":            {ops: []Op{at(1, 2, write(1)), at(5, 6, read(0))}, want: [5]int{0: 1, 3: 1}},
		"a read is stale":                    {ops: []Op{at(1, 2, write(1)), at(5, 6, read(0)), at(7, 8, read(1))}, want: [5]int{1: 1, 3: 1}},
		"out of nowhere":                     {ops: []Op{at(1, 2, read(7))}, want: [5]int{2: 1, 3: 1}},
		"from the future":                    {ops: []Op{at(1, 2, read(7)), at(3, 4, write(7))}, want: [5]int{2: 1, 3: 1}},
		"an open write shows late":           {ops: []Op{at(1, 0, write(1)), at(2, 3, write(2)), at(4, 5, read(2)), at(6, 7, read(1))}},
		"an open write never shows":          {ops: []Op{at(1, 0, write(1)), at(2, 3, read(0))}},
		"an open write shows and goes":       {ops: []Op{at(1, 0, write(1)), at(2, 3, read(1)), at(4, 5, read(0))}, want: [5]int{3: 1}},
		"a write comes back after a later one": {ops: []Op{at(1, 9, write(1)), at(2, 3, read(1)), at(4, 5, write(2)), at(6, 7, read(2)), at(10, 11, read(1))},
			want: [5]int{3: 1}},
		"sent twice and done twice":    {ops: []Op{at(1, 9, again(1)), at(2, 3, read(1)), at(4, 5, write(2)), at(6, 7, read(2)), at(10, 11, read(1))}},
		"sent twice and done later":    {ops: []Op{at(1, 3, again(1)), at(4, 5, write(2)), at(6, 7, read(2)), at(10, 11, read(1))}, want: [5]int{0: 1, 3: 1}},
		"compared and written":         {ops: []Op{at(1, 2, write(1)), at(3, 4, compare(1, 2)), at(5, 6, read(2))}},
		"compared with what was not":   {ops: []Op{at(1, 2, write(1)), at(3, 4, compare(7, 2)), at(5, 6, read(2))}, want: [5]int{3: 1}},
		"two of the same":              {ops: []Op{at(1, 5, compare(0, 1)), at(1, 5, compare(0, 2)), at(6, 7, read(2))}, want: [5]int{3: 1}},
		"one missed":                   {ops: []Op{at(1, 5, compare(0, 1)), at(1, 5, missed(0, 2)), at(6, 7, read(1))}},
		"missed without reason":        {ops: []Op{at(1, 2, missed(0, 2))}, want: [5]int{3: 1}},
		"missed for an open write":     {ops: []Op{at(1, 0, write(1)), at(2, 3, missed(0, 2))}},
		"an open compare did it":       {ops: []Op{at(1, 0, compare(0, 1)), at(2, 3, read(1))}},
		"an open compare did nothing":  {ops: []Op{at(1, 0, compare(7, 1)), at(2, 3, read(0))}},
		"cleared":                      {ops: []Op{at(1, 2, write(1)), at(3, 4, cleared()), at(5, 6, read(0))}},
		"cleared twice":                {ops: []Op{at(1, 2, write(1)), at(3, 4, cleared()), at(5, 6, write(2)), at(7, 8, cleared()), at(9, 10, read(0))}},
		"a clear is lost":              {ops: []Op{at(1, 2, write(1)), at(3, 4, cleared()), at(5, 6, read(1))}, want: [5]int{0: 1, 3: 1}},
		"a clear comes back":           {ops: []Op{at(1, 2, write(1)), at(3, 4, cleared()), at(5, 6, write(2)), at(7, 8, read(0))}, want: [5]int{0: 1, 3: 1}},
		"an open clear shows late":     {ops: []Op{at(1, 0, cleared()), at(2, 3, write(2)), at(4, 5, read(2)), at(6, 7, read(0))}},
		"a clear sent twice":           {ops: []Op{at(1, 9, again(0)), at(2, 3, write(2)), at(4, 5, read(0)), at(6, 7, write(3)), at(10, 11, read(0))}},
		"compared with what is clear":  {ops: []Op{at(1, 2, write(1)), at(3, 4, cleared()), at(5, 6, compare(0, 2)), at(7, 8, read(2))}},
		"refused and not done":         {ops: []Op{at(1, 2, write(1)), at(3, 4, refused(write(2))), at(5, 6, read(1))}},
		"refused and done":             {ops: []Op{at(1, 2, write(1)), at(3, 4, refused(write(2))), at(5, 6, read(2))}},
		"refused and done later":       {ops: []Op{at(1, 2, write(1)), at(3, 4, refused(write(2))), at(5, 6, read(1)), at(7, 8, read(2))}, want: [5]int{3: 1}},
		"refused, seen and taken back": {ops: []Op{at(1, 2, write(1)), at(3, 6, refused(write(2))), at(4, 5, read(2)), at(7, 8, read(1))}, want: [5]int{3: 1}},
		"a refused compare, done":      {ops: []Op{at(1, 2, write(1)), at(3, 4, refused(compare(1, 2))), at(5, 6, read(2))}},
		"a refused compare, not done":  {ops: []Op{at(1, 2, write(1)), at(3, 4, refused(compare(7, 2))), at(5, 6, read(1))}},
		"a refused compare, for odds":  {ops: []Op{at(1, 2, write(1)), at(3, 4, refused(compare(7, 2))), at(5, 6, read(2))}, want: [5]int{3: 1}},
		"an open compare against odds": {ops: []Op{at(1, 0, compare(7, 1)), at(2, 3, read(1))}, want: [5]int{3: 1}},
	} {
		v := Check(c.ops)
		if got := counts(v); got != c.want {
			t.Errorf("%s: %v, want %v (lost, stale, strange, disorder, undecided)", name, got, c.want)
		}
		if err := v.Err(c.ops); (err != nil) != (c.want != [5]int{}) || err != nil && !strings.Contains(err.Error(), "block 0") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBlocksAreApart: what happens to one says nothing of another.
func TestBlocksAreApart(t *testing.T) {
	other := at(3, 4, read(0))
	other.Block = 1
	if v := Check([]Op{at(1, 2, write(1)), other}); v.Err(nil) != nil {
		t.Error(v)
	}
}

// TestLongHistory: thousands of operations with a dozen at a time and many open ones are
// judged in seconds, and one read too old among them is found.
func TestLongHistory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var ops []Op
	held, value := uint64(0), uint64(0)
	for i := range 1500 {
		from := 10 * i
		o := at(from-rng.IntN(60), from+1+rng.IntN(60), read(held))
		if rng.IntN(2) == 0 {
			value++
			held = value
			o.Kind, o.Value = Write, held
		}
		if rng.IntN(100) == 0 {
			value++
			ops = append(ops, at(from, 0, write(value)))
		}
		ops = append(ops, o)
	}
	if err := func() error { v := Check(ops); return v.Err(ops) }(); err != nil {
		t.Fatal(err)
	}
	ops = append(ops, at(20000, 20001, read(1)))
	if v := Check(ops); len(v.Lost) != 1 || len(v.Disorder) != 1 {
		t.Errorf("%v", counts(v))
	}
}

func TestRecorder(t *testing.T) {
	r := NewRecorder()
	began := r.Now()
	r.Add(Op{Kind: Write, Value: r.NextValue(), Call: began})
	r.Add(Op{Kind: Write, Value: r.NextValue(), Call: r.Now(), Open: true})
	r.Add(Op{Kind: Read, Call: r.Now(), Open: true})
	ops := r.Ops()
	if len(ops) != 2 || ops[0].Value != 1 || ops[1].Value != 2 || ops[0].Return < began || ops[1].Return != never {
		t.Errorf("%v", ops)
	}
	for _, o := range append(ops, missed(1, 2), compare(1, 2), cleared()) {
		if !strings.Contains(o.String(), o.Kind.String()+" of block 0") {
			t.Error(o)
		}
	}
}

// TestNext: what was read last is there at the begin of what follows, and what is open may yet come.
func TestNext(t *testing.T) {
	r := NewRecorder()
	for _, o := range []Op{write(1), {Kind: Clear, Open: true}, read(0), write(2), read(2), {Kind: Write, Value: 3, Open: true}} {
		o.Call = r.Now()
		r.Add(o)
	}
	next := r.Next()
	from := next.Now()
	for _, o := range []Op{read(2), read(0), read(3)} {
		o.Call = from
		next.Add(o)
		from = next.Now()
	}
	ops := next.Ops()
	if v := Check(ops); v.Err(ops) != nil {
		t.Error(v.Err(ops))
	}
	next.Add(Op{Kind: Read, Value: 1, Call: next.Now()})
	if v := Check(next.Ops()); len(v.Strange) != 1 {
		t.Errorf("%+v", v)
	}
}

package calls

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// at is a call from one millisecond to another; open without an end.
func at(from, to int, o Op) Op {
	o.Name, o.Call, o.Return = "v", time.Duration(from)*time.Millisecond, time.Duration(to)*time.Millisecond
	o.Last = o.Call
	if to == 0 {
		o.Return, o.Answer = never, Open
	}
	return o
}

func made(id string) Op             { return Op{Kind: Create, Size: 1, Answer: Done, Seen: Volume{ID: id}} }
func call(k Kind, a Answer) Op      { return Op{Kind: k, Size: 1, Answer: a} }
func sized(size int64, a Answer) Op { return Op{Kind: Resize, Size: size, Answer: a} }
func found(id string, size int64) Op {
	return Op{Kind: Read, Answer: Done, Seen: Volume{There: true, ID: id, Size: size}}
}
func foundMapped(id string) Op     { o := found(id, 1); o.Seen.Mapped = true; return o }
func foundLeaving(id string) Op    { o := found(id, 1); o.Seen.Leaving = true; return o }
func foundProtected(id string) Op  { o := found(id, 1); o.Seen.Protected = true; return o }
func protect(on bool, a Answer) Op { return Op{Kind: Protect, Protected: on, Answer: a} }
func foundNone() Op                { return Op{Kind: Read, Answer: None} }

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		ops  []Op
		fine bool
	}{
		"nothing":                       {nil, true},
		"never made":                    {[]Op{at(1, 2, foundNone())}, true},
		"made and found":                {[]Op{at(1, 2, made("a")), at(3, 4, found("a", 1))}, true},
		"made and lost":                 {[]Op{at(1, 2, made("a")), at(3, 4, foundNone())}, false},
		"found before it was asked for": {[]Op{at(1, 2, found("a", 1)), at(3, 4, made("a"))}, false},
		"found while it is made":        {[]Op{at(1, 9, made("a")), at(2, 3, foundNone()), at(4, 5, found("a", 1))}, true},
		"found and lost while made":     {[]Op{at(1, 9, made("a")), at(2, 3, found("a", 1)), at(4, 5, foundNone())}, false},
		"another's":                     {[]Op{at(1, 2, made("a")), at(3, 4, found("b", 1))}, false},
		"two of one name":               {[]Op{at(1, 5, made("a")), at(1, 5, made("b"))}, false},
		"the second is refused":         {[]Op{at(1, 5, made("a")), at(1, 5, call(Create, Exists))}, true},
		"refused without reason":        {[]Op{at(1, 5, call(Create, Exists))}, false},
		"open, and found late":          {[]Op{at(1, 0, call(Create, Open)), at(2, 3, foundNone()), at(4, 5, found("a", 1))}, true},
		"open, and never found":         {[]Op{at(1, 0, call(Create, Open)), at(2, 3, foundNone())}, true},
		"open, found and gone":          {[]Op{at(1, 0, call(Create, Open)), at(2, 3, found("a", 1)), at(4, 5, foundNone())}, false},
		"deleted":                       {[]Op{at(1, 2, made("a")), at(3, 4, call(Delete, Done)), at(5, 6, foundNone())}, true},
		"deleted, on its way": {[]Op{at(1, 2, made("a")), at(3, 4, call(Delete, Done)), at(5, 6, foundLeaving("a")), at(7, 8, call(Create, Refused)),
			at(9, 10, foundNone()), at(11, 12, made("b"))}, true},
		"deleted and back":                {[]Op{at(1, 2, made("a")), at(3, 4, call(Delete, Done)), at(5, 6, found("a", 1))}, false},
		"leaving without a reason":        {[]Op{at(1, 2, made("a")), at(3, 4, foundLeaving("a"))}, false},
		"gone and leaving again":          {[]Op{at(1, 2, made("a")), at(3, 4, call(Delete, Done)), at(5, 6, foundNone()), at(7, 8, foundLeaving("a"))}, false},
		"made again by a repeated call":   {[]Op{at(1, 2, made("a")), at(3, 4, call(Delete, Done)), at(5, 6, foundNone()), at(7, 8, found("c", 1))}, false},
		"grown":                           {[]Op{at(1, 2, made("a")), at(3, 4, sized(5, Done)), at(5, 6, found("a", 5))}, true},
		"grown, and not":                  {[]Op{at(1, 2, made("a")), at(3, 4, sized(5, Done)), at(5, 6, found("a", 1))}, false},
		"grown without being there":       {[]Op{at(3, 4, sized(5, Done))}, false},
		"not shrunk":                      {[]Op{at(1, 2, made("a")), at(3, 4, sized(5, Done)), at(5, 6, sized(4, Refused))}, true},
		"not grown, without a reason":     {[]Op{at(1, 2, made("a")), at(5, 6, sized(4, Refused))}, false},
		"made, and gone when answered":    {[]Op{at(1, 9, call(Create, None)), at(2, 3, found("a", 1)), at(4, 5, call(Delete, Done))}, true},
		"grown, and gone when answered":   {[]Op{at(1, 2, made("a")), at(3, 9, sized(5, None)), at(4, 5, found("a", 5)), at(6, 7, call(Delete, Done))}, true},
		"not grown, none, nobody deleted": {[]Op{at(1, 2, made("a")), at(3, 9, sized(5, None))}, false},
		"protected":                       {[]Op{at(1, 2, made("a")), at(3, 4, protect(true, Done)), at(5, 6, foundProtected("a")), at(7, 8, protect(false, Done)), at(9, 10, found("a", 1))}, true},
		"protection is lost":              {[]Op{at(1, 2, made("a")), at(3, 4, protect(true, Done)), at(5, 6, found("a", 1))}, false},
		"mapped":                          {[]Op{at(1, 2, made("a")), at(3, 4, call(Map, Done)), at(5, 6, foundMapped("a")), at(7, 8, call(Map, Exists)), at(9, 10, call(Unmap, Done)), at(11, 12, call(Unmap, None))}, true},
		"mapped twice":                    {[]Op{at(1, 2, made("a")), at(3, 4, call(Map, Done)), at(5, 6, call(Map, Done))}, false},
		"mapping is lost":                 {[]Op{at(1, 2, made("a")), at(3, 4, call(Map, Done)), at(5, 6, found("a", 1))}, false},
		"an open unmap did it":            {[]Op{at(1, 2, made("a")), at(3, 4, call(Map, Done)), at(5, 0, call(Unmap, Open)), at(6, 7, foundMapped("a")), at(8, 9, found("a", 1))}, true},
	} {
		err := Check(c.ops)
		if (err == nil) != c.fine {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && !strings.Contains(err.Error(), "calls about v:") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRefusedAfterSilence: what a silent node was asked may be done after another one has
// refused it, once.
func TestRefusedAfterSilence(t *testing.T) {
	asked := at(1, 5, call(Map, None))
	late := []Op{asked, at(6, 7, made("a")), at(8, 9, foundMapped("a"))}
	if Check(late) == nil {
		t.Error("what was refused was done")
	}
	late[0].Nodes, late[0].Last = []string{"n1", "n2"}, 4*time.Millisecond
	if err := Check(late); err != nil {
		t.Error(err)
	}
	if Check(append(late, at(10, 11, call(Unmap, Done)), at(12, 13, foundMapped("a")))) == nil {
		t.Error("it was done twice")
	}
}

// TestShortest: what is shown ends where it can't be explained any more.
func TestShortest(t *testing.T) {
	history := []Op{at(1, 2, made("a")), at(3, 4, foundNone()), at(5, 6, call(Delete, Done)), at(7, 8, made("b")), at(3, 9, sized(2, Done))}
	err := Check(history)
	if err == nil || strings.Contains(err.Error(), "delete") || !strings.Contains(err.Error(), "none there") {
		t.Error(err)
	}
}

// TestNamesAreApart: what happens to one says nothing of another.
func TestNamesAreApart(t *testing.T) {
	other := at(3, 4, foundNone())
	other.Name = "w"
	if err := Check([]Op{at(1, 2, made("a")), other}); err != nil {
		t.Error(err)
	}
}

// TestLongHistory: a thousand calls with several at a time and some open are judged in
// seconds, and one answer too old among them is found.
func TestLongHistory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	v := Volume{There: true, ID: "a", Size: 1}
	ops := []Op{at(1, 2, made("a"))}
	for i := range 1000 {
		from := 100 + 10*i
		o := at(from-rng.IntN(30), from+1+rng.IntN(30), Op{Kind: Read, Answer: Done, Seen: v})
		switch rng.IntN(4) {
		case 0:
			v.Protected = !v.Protected
			o.Kind, o.Seen, o.Protected = Protect, Volume{}, v.Protected
		case 1:
			v.Size++
			o.Kind, o.Seen, o.Size = Resize, Volume{}, v.Size
		}
		ops = append(ops, o)
		if i%300 == 0 {
			ops = append(ops, at(from, 0, call(Map, Open)))
		}
	}
	if err := Check(ops); err != nil {
		t.Fatal(err)
	}
	ops = append(ops, at(20000, 20001, found("a", 1)))
	if err := Check(ops); err == nil {
		t.Error("a read of long ago was not found")
	}
}

package fault

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"blockd.dev/blockdev"
)

// Kind is what a rule does to a request; see the package comment.
type Kind uint8

// The kinds.
const (
	KindError Kind = iota + 1
	KindDelay
	KindTorn
	KindLost
	KindFlip
	KindHang
	KindGone
)

// kindWords are the kinds that stand alone in a rule's text.
var kindWords = map[string]Kind{"torn": KindTorn, "lost": KindLost, "flip": KindFlip, "hang": KindHang, "gone": KindGone}

// errorWords are the sentinels as a rule's text spells them.
var errorWords = []struct {
	word string
	err  error
}{
	{"invalid", blockdev.ErrInvalid},
	{"range", blockdev.ErrOutOfRange},
	{"read-only", blockdev.ErrReadOnly},
	{"no-space", blockdev.ErrNoSpace},
	{"medium", blockdev.ErrMedium},
	{"miscompare", blockdev.ErrMiscompare},
	{"io", blockdev.ErrIO},
	{"gone", blockdev.ErrGone},
	{"busy", blockdev.ErrBusy},
	{"fenced", blockdev.ErrFenced},
}

// Rule says which requests fail, and how. The zero value of each condition
// means that it does not matter.
type Rule struct {
	Op blockdev.Op // 0: any
	// Off and End limit the rule to requests that touch bytes [Off, End);
	// End 0 means to the end of the device. A flush touches none, so it meets
	// only rules without a range.
	Off, End int64
	Nth      int64   // only the Nth such request, from 1
	Times    int64   // strike at most so often
	P        float64 // strike with this probability; 0 means 1
	Seed     uint64  // of chance

	Kind  Kind
	Err   error         // KindError: a sentinel of blockdev
	Delay time.Duration // KindDelay
}

// Parse reads one rule; see the package comment for the form.
func Parse(line string) (Rule, error) {
	var r Rule
	for i, word := range strings.Fields(line) {
		if err := r.parseWord(word, i == 0); err != nil {
			return Rule{}, fmt.Errorf("fault rule %q: %w", line, err)
		}
	}
	if err := r.Validate(); err != nil {
		return Rule{}, fmt.Errorf("fault rule %q: %w", line, err)
	}
	return r, nil
}

// ParseAll reads one rule per line; empty lines and those that start with #
// are skipped.
func ParseAll(text string) ([]Rule, error) {
	var rules []Rule
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		r, err := Parse(line)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func (r *Rule) parseWord(word string, first bool) error {
	key, value, hasValue := strings.Cut(word, "=")
	if !hasValue {
		if k, ok := kindWords[word]; ok {
			return r.setKind(k)
		}
		op, ok := opByName(word)
		if !ok {
			return fmt.Errorf("unknown word %q", word)
		}
		if !first {
			return fmt.Errorf("the operation %q must come first", word)
		}
		r.Op = op
		return nil
	}
	var err error
	switch key {
	case "range":
		from, to, ok := strings.Cut(value, "-")
		if !ok {
			return fmt.Errorf("range %q: want FIRST-END in bytes, or FIRST-", value)
		}
		if r.Off, err = strconv.ParseInt(from, 10, 64); err == nil && to != "" {
			if r.End, err = strconv.ParseInt(to, 10, 64); err == nil && r.End <= r.Off {
				return fmt.Errorf("range %q is empty", value)
			}
		}
	case "nth":
		r.Nth, err = parsePositive(value)
	case "times":
		r.Times, err = parsePositive(value)
	case "p":
		if r.P, err = strconv.ParseFloat(value, 64); err == nil && !(r.P > 0 && r.P <= 1) {
			return fmt.Errorf("p=%s: want more than 0 and at most 1", value)
		}
	case "seed":
		r.Seed, err = strconv.ParseUint(value, 10, 64)
	case "delay":
		if r.Delay, err = time.ParseDuration(value); err == nil {
			err = r.setKind(KindDelay)
		}
	case "error":
		for _, e := range errorWords {
			if e.word == value {
				r.Err = e.err
				return r.setKind(KindError)
			}
		}
		return fmt.Errorf("unknown error %q", value)
	default:
		return fmt.Errorf("unknown condition %q", key)
	}
	return err
}

func parsePositive(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && n <= 0 {
		err = fmt.Errorf("%s: want 1 or more", s)
	}
	return n, err
}

func opByName(name string) (blockdev.Op, bool) {
	if name == "any" {
		return 0, true
	}
	for op := blockdev.OpRead; op <= blockdev.OpPoison; op++ {
		if op.String() == name {
			return op, true
		}
	}
	return 0, false
}

func (r *Rule) setKind(k Kind) error {
	if r.Kind != 0 {
		return errors.New("two kinds of fault in one rule")
	}
	r.Kind = k
	return nil
}

// Validate tells what is wrong with a rule, or returns nil.
func (r *Rule) Validate() error {
	switch {
	case r.Kind == 0:
		return errors.New("it says no kind of fault")
	case r.Kind > KindGone:
		return fmt.Errorf("unknown kind %d", r.Kind)
	case r.Op > blockdev.OpPoison:
		return fmt.Errorf("unknown operation %d", r.Op)
	case r.Kind == KindError && r.Err == nil:
		return errors.New("it says no error")
	case r.Kind == KindDelay && r.Delay <= 0:
		return fmt.Errorf("delay of %v: want more than 0", r.Delay)
	case r.Off < 0 || r.End < 0 || r.End != 0 && r.End <= r.Off:
		return fmt.Errorf("range %d-%d is not valid", r.Off, r.End)
	case r.Nth < 0 || r.Times < 0 || !(r.P >= 0 && r.P <= 1):
		return fmt.Errorf("nth=%d times=%d p=%v: want 0 or more, and p at most 1", r.Nth, r.Times, r.P)
	case r.Op != 0 && !r.Kind.fits(r.Op):
		return fmt.Errorf("this fault can't happen to a %s", r.Op)
	}
	return nil
}

// fits reports whether the fault has a meaning for the operation.
func (k Kind) fits(op blockdev.Op) bool {
	switch k {
	case KindTorn:
		return op == blockdev.OpWrite
	case KindLost:
		return op != blockdev.OpRead && op != blockdev.OpCompareAndWrite
	case KindFlip:
		return op == blockdev.OpRead || op == blockdev.OpWrite
	case KindError, KindDelay, KindHang, KindGone:
		return true
	}
	return false
}

// String is the rule as Parse reads it.
func (r Rule) String() string {
	words := []string{"any"}
	if r.Op != 0 {
		words[0] = r.Op.String()
	}
	add := func(cond bool, format string, args ...any) {
		if cond {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(r.End != 0, "range=%d-%d", r.Off, r.End)
	add(r.End == 0 && r.Off != 0, "range=%d-", r.Off)
	add(r.Nth != 0, "nth=%d", r.Nth)
	add(r.Times != 0, "times=%d", r.Times)
	add(r.P != 0, "p=%s", strconv.FormatFloat(r.P, 'g', -1, 64))
	add(r.Seed != 0, "seed=%d", r.Seed)
	add(r.Kind == KindDelay, "delay=%v", r.Delay)
	for _, e := range errorWords {
		add(r.Kind == KindError && errors.Is(r.Err, e.err), "error=%s", e.word)
	}
	for word, k := range kindWords {
		add(r.Kind == k, "%s", word)
	}
	return strings.Join(words, " ")
}

// touches reports whether the rule is about the request at all.
func (r *Rule) touches(req *blockdev.Request) bool {
	if r.Op != 0 && r.Op != req.Op || !r.Kind.fits(req.Op) {
		return false
	}
	if r.Off == 0 && r.End == 0 {
		return true
	}
	if req.Op == blockdev.OpFlush || req.Length == 0 {
		return false
	}
	return req.Offset+req.Length > r.Off && (r.End == 0 || req.Offset < r.End)
}

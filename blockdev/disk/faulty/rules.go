package faulty

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"blockd.dev/blockdev/disk"
)

// Rule says which I/O goes wrong and how. The zero value of a condition means
// "any"; at least one effect should be set, or the rule only counts.
type Rule struct {
	// Conditions.
	Op          disk.Op // 0: any operation
	DsyncOnly   bool    // only writes with Dsync
	From, To    int64   // bytes: I/O that touches [From, To); To 0 means the end of the disk
	Skip        int     // let this many matching I/Os pass first
	Count       int     // then hit this many; 0 means for ever
	Probability float64 // chance of each hit after Skip; 0 means 1

	// Effects.
	Err        syscall.Errno // fail with it; nothing reaches the disk unless Torn
	Torn       bool          // with Err, for writes: the first half of the sectors reach the disk
	Lose       bool          // writes: acknowledged, never written
	MisplaceBy int64         // writes: land this many bytes further on; a multiple of disk.BlockBytes
	FlipBit    bool          // reads: one bit of the answer differs; writes: one bit on the disk differs
	Delay      time.Duration // completes this much later
}

// String writes the rule in the form that Parse reads.
func (r Rule) String() string {
	var b strings.Builder
	op := "any"
	if r.Op != 0 {
		op = r.Op.String()
	}
	b.WriteString(op)
	put := func(format string, a ...any) { fmt.Fprintf(&b, " "+format, a...) }
	if r.DsyncOnly {
		put("dsync")
	}
	if r.From != 0 || r.To != 0 {
		put("range=%d-%d", r.From, r.To)
	}
	if r.Skip != 0 {
		put("skip=%d", r.Skip)
	}
	if r.Count != 0 {
		put("count=%d", r.Count)
	}
	if r.Probability != 0 {
		put("p=%s", strconv.FormatFloat(r.Probability, 'g', -1, 64))
	}
	if r.Err != 0 {
		put("err=%d", int(r.Err))
	}
	if r.Torn {
		put("torn")
	}
	if r.Lose {
		put("lose")
	}
	if r.MisplaceBy != 0 {
		put("misplace=%d", r.MisplaceBy)
	}
	if r.FlipBit {
		put("flip")
	}
	if r.Delay != 0 {
		put("delay=%s", r.Delay)
	}
	return b.String()
}

// errnos are the names that Parse knows besides numbers.
var errnos = map[string]syscall.Errno{
	"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC, "ENODEV": syscall.ENODEV,
	"ENXIO": syscall.ENXIO, "ETIMEDOUT": syscall.ETIMEDOUT, "EREMOTEIO": syscall.EREMOTEIO,
}

// Parse reads a rule from one line: the operation (read, write, sync,
// discard, any), then words in any order: dsync, range=FROM-TO, skip=N,
// count=N, p=P, err=EIO, torn, lose, misplace=BYTES, flip, delay=10ms.
func Parse(line string) (Rule, error) {
	var r Rule
	words := strings.Fields(line)
	if len(words) == 0 {
		return r, fmt.Errorf("fault rule is empty: begin with read, write, sync, discard or any")
	}
	switch words[0] {
	case "any":
	case "read":
		r.Op = disk.Read
	case "write":
		r.Op = disk.Write
	case "sync":
		r.Op = disk.Sync
	case "discard":
		r.Op = disk.Discard
	default:
		return r, fmt.Errorf("fault rule %q: %q is not read, write, sync, discard or any", line, words[0])
	}
	for _, w := range words[1:] {
		if err := r.set(w); err != nil {
			return r, fmt.Errorf("fault rule %q: %q: %w", line, w, err)
		}
	}
	return r, nil
}

func (r *Rule) set(word string) (err error) {
	key, val, _ := strings.Cut(word, "=")
	switch key {
	case "dsync":
		r.DsyncOnly = true
	case "torn":
		r.Torn = true
	case "lose":
		r.Lose = true
	case "flip":
		r.FlipBit = true
	case "range":
		from, to, ok := strings.Cut(val, "-")
		if !ok {
			return fmt.Errorf("want FROM-TO in bytes")
		}
		if r.From, err = strconv.ParseInt(from, 10, 64); err == nil {
			r.To, err = strconv.ParseInt(to, 10, 64)
		}
	case "skip":
		r.Skip, err = strconv.Atoi(val)
	case "count":
		r.Count, err = strconv.Atoi(val)
	case "p":
		r.Probability, err = strconv.ParseFloat(val, 64)
	case "misplace":
		r.MisplaceBy, err = strconv.ParseInt(val, 10, 64)
	case "delay":
		r.Delay, err = time.ParseDuration(val)
	case "err":
		var ok bool
		if r.Err, ok = errnos[val]; !ok {
			var n int
			n, err = strconv.Atoi(val)
			r.Err = syscall.Errno(n)
		}
	default:
		return fmt.Errorf("unknown word")
	}
	return err
}

// Rules is a set of rules in force. It is safe for use by several goroutines,
// and two runs that ask the same questions in the same order get the same
// answers for the same seed.
type Rules struct {
	mu     sync.Mutex
	rng    *rand.Rand
	active []*state
	hits   int
}

type state struct {
	Rule
	seen, hit int
}

// NewRules returns an empty set whose chances come from seed.
func NewRules(seed uint64) *Rules {
	return &Rules{rng: rand.New(rand.NewPCG(seed, 0x6661756c7479))}
}

// Add puts r in force after those that are. remove takes it out again.
func (s *Rules) Add(r Rule) (remove func()) {
	st := &state{Rule: r}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = append(s.active, st)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, a := range s.active {
			if a == st {
				s.active = append(s.active[:i:i], s.active[i+1:]...)
				return
			}
		}
	}
}

// Clear takes every rule out of force.
func (s *Rules) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = nil
}

// Hits is how many I/Os a rule has struck so far.
func (s *Rules) Hits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits
}

// Decide returns the first rule that strikes io, if any, and a random number
// that its effect may use. Every rule before it counts io when it matches.
func (s *Rules) Decide(io *disk.IO) (r Rule, chance uint64, struck bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.active {
		if !st.matches(io) {
			continue
		}
		st.seen++
		if st.seen <= st.Skip || (st.Count > 0 && st.hit >= st.Count) {
			continue
		}
		if st.Probability > 0 && s.rng.Float64() >= st.Probability {
			continue
		}
		st.hit++
		s.hits++
		return st.Rule, s.rng.Uint64(), true
	}
	return Rule{}, 0, false
}

func (st *state) matches(io *disk.IO) bool {
	if st.Op != 0 && st.Op != io.Op {
		return false
	}
	if st.DsyncOnly && !(io.Op == disk.Write && io.Dsync) {
		return false
	}
	if io.Op == disk.Sync {
		return st.From == 0 && st.To == 0
	}
	return io.Off+io.Bytes() > st.From && (st.To == 0 || io.Off < st.To)
}

// FlipBit changes the bit of bufs that chance selects.
func FlipBit(bufs [][]byte, chance uint64) {
	var total uint64
	for _, b := range bufs {
		total += uint64(len(b))
	}
	if total == 0 {
		return
	}
	at := chance / 8 % total
	for _, b := range bufs {
		if at < uint64(len(b)) {
			b[at] ^= 1 << (chance % 8)
			return
		}
		at -= uint64(len(b))
	}
}

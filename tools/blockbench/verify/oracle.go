package verify

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
)

// version is what a block may hold: write number n as a pattern, n<<1, or as
// zeroes, n<<1|1. Number 0 is what was there before: zeroes, or anything that
// is no pattern of this journal.
type version uint64

const (
	anything      version = 0
	initialZeroes version = 1
)

func newVersion(write uint64, zeroes bool) version {
	if zeroes {
		return version(write<<1 | 1)
	}
	return version(write << 1)
}

func (v version) write() uint64 { return uint64(v >> 1) }
func (v version) zeroes() bool  { return v&1 != 0 }

func (v version) String() string {
	switch {
	case v == anything:
		return "what was there before the journal began"
	case v == initialZeroes:
		return "zeroes, never having been written"
	case v.zeroes():
		return fmt.Sprintf("the zeroes of write %d", v.write())
	}
	return fmt.Sprintf("write %d", v.write())
}

// candidate is a version later than the base of its block.
type candidate struct {
	version
	acked bool // acknowledged, but a crash may undo it
	mark  uint64
}

// Oracle knows what each block of a range may hold. Its methods may be called
// from any goroutine.
type Oracle struct {
	unit       int64 // bytes of a block
	first, end int64 // the range, in bytes
	volume     uint64
	writeCache bool

	mu struct {
		sync.Mutex
		write uint64                // number of the last write
		runs  []uint64              // the first write of each process that used the journal
		marks uint64                // counts acknowledgements and flushes
		base  []version             // settled
		seen  []uint64              // bitmap: the base has been read
		more  map[int64][]candidate // by block, in the order of submission
	}
}

// newOracle knows nothing but what the range held at first.
func newOracle(h header) *Oracle {
	o := &Oracle{unit: h.unit, first: h.first, end: h.end, volume: h.volume, writeCache: h.writeCache}
	n := (h.end - h.first) / h.unit
	o.mu.base = make([]version, n)
	o.mu.seen = make([]uint64, (n+63)/64)
	o.mu.more = map[int64][]candidate{}
	if h.zeroed {
		for i := range o.mu.base {
			o.mu.base[i] = initialZeroes
		}
	}
	return o
}

// Range is what the oracle covers: bytes [first, end) in blocks of unit bytes.
func (o *Oracle) Range() (first, end, unit int64) { return o.first, o.end, o.unit }

// covers reports whether the range is one of whole blocks of the oracle's.
func (o *Oracle) covers(off, n int64) bool {
	return off >= o.first && n >= 0 && off <= o.end-n && off%o.unit == 0 && n%o.unit == 0
}

// last is the number of the last write, and of the process.
func (o *Oracle) last() (write uint64, run uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.write, uint32(len(o.mu.runs))
}

// blocks calls fn with the index of every block of a range, locked.
func (o *Oracle) blocks(off, n int64, fn func(i int64)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := (off - o.first) / o.unit; i < (off+n-o.first)/o.unit; i++ {
		fn(i)
	}
}

// runOfLocked is the number of the process that sent a write.
func (o *Oracle) runOfLocked(write uint64) uint32 {
	n, exact := slices.BinarySearch(o.mu.runs, write)
	if exact {
		// Processes that wrote nothing begin with the same write.
		for n < len(o.mu.runs) && o.mu.runs[n] == write {
			n++
		}
	}
	return uint32(n)
}

// submitted says that write v of the range is about to be sent.
func (o *Oracle) submitted(off, n int64, v version) {
	o.blocks(off, n, func(i int64) { o.mu.more[i] = append(o.mu.more[i], candidate{version: v}) })
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.write = max(o.mu.write, v.write())
}

// acknowledged says that the target has confirmed write v. With durable set
// no crash may undo it.
func (o *Oracle) acknowledged(off, n int64, v version, durable bool) {
	o.blocks(off, n, func(i int64) {
		if durable || !o.writeCache {
			o.settleLocked(i, v, false)
			return
		}
		more := o.mu.more[i]
		for k := range more {
			if more[k].version == v {
				o.mu.marks++
				more[k].acked, more[k].mark = true, o.mu.marks
			}
		}
	})
}

// settleLocked makes v what the block holds for certain.
func (o *Oracle) settleLocked(i int64, v version, seen bool) {
	o.mu.base[i] = v
	delete(o.mu.more, i)
	o.mu.seen[i/64] &^= 1 << (i % 64)
	if seen {
		o.mu.seen[i/64] |= 1 << (i % 64)
	}
}

// flushMark is taken when a flush is submitted, and given to flushed when it is
// acknowledged: what was acknowledged before the mark is durable then.
func (o *Oracle) flushMark() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.marks
}

func (o *Oracle) flushed(mark uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, more := range o.mu.more {
		for k := len(more) - 1; k >= 0; k-- {
			if !more[k].acked || more[k].mark > mark {
				continue
			}
			o.mu.base[i] = more[k].version
			o.mu.seen[i/64] &^= 1 << (i % 64)
			if rest := more[k+1:]; len(rest) > 0 {
				o.mu.more[i] = append([]candidate(nil), rest...)
			} else {
				delete(o.mu.more, i)
			}
			break
		}
	}
}

// crashed says that the target may have lost its volatile cache: what is
// acknowledged but not flushed may be undone. newRun begins another process.
func (o *Oracle) crashed(newRun bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if newRun {
		o.mu.runs = append(o.mu.runs, o.mu.write+1)
	}
	for _, more := range o.mu.more {
		for k := range more {
			more[k].acked = false
		}
	}
}

// allowedLocked is what the block may hold now: the last acknowledged version
// and what came later.
func (o *Oracle) allowedLocked(i int64) (settled version, more []candidate) {
	settled, more = o.mu.base[i], o.mu.more[i]
	for k := len(more) - 1; k >= 0; k-- {
		if more[k].acked {
			return more[k].version, more[k+1:]
		}
	}
	return settled, more
}

// certain fills b with the only content that the block at off may have. It
// reports false when there are several.
func (o *Oracle) certain(b []byte, off int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, more := o.allowedLocked((off - o.first) / o.unit)
	if len(more) > 0 || v == anything {
		return false
	}
	o.content(b, off, v, o.runOfLocked(v.write()))
	return true
}

// content puts what the block at off holds as version v into b.
func (o *Oracle) content(b []byte, off int64, v version, run uint32) {
	if v.zeroes() {
		clear(b)
		return
	}
	stamp{o.volume, off, v.write(), run}.fill(b)
}

// observe checks the content b of the block at off. It returns nil when the
// block may hold b. settles reports that the block's version was open, and that
// from now on it is certain.
func (o *Oracle) observe(b []byte, off int64) (bad *Violation, now version, settles bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := (off - o.first) / o.unit
	settled, more := o.allowedLocked(i)
	if matches(o, b, off, settled) {
		now = settled
	} else {
		k := 0
		for k < len(more) && !matches(o, b, off, more[k].version) {
			k++
		}
		if k == len(more) {
			return o.explainLocked(b, off, i, settled, more), 0, false
		}
		now = more[k].version
	}
	if len(more) == 0 {
		o.mu.seen[i/64] |= 1 << (i % 64)
		return nil, now, false
	}
	return nil, now, !o.writeCache // else a crash may still undo it
}

// matches reports whether b is version v of the block at off.
func matches(o *Oracle, b []byte, off int64, v version) bool {
	if v.zeroes() {
		return isZero(b)
	}
	s, ours, whole := readStamp(b)
	if v == anything {
		return !ours || s.volume != o.volume
	}
	return ours && whole && s.volume == o.volume && s.offset == off && s.write == v.write()
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// explainLocked finds words for what is wrong with a block.
func (o *Oracle) explainLocked(b []byte, off, i int64, settled version, more []candidate) *Violation {
	v := &Violation{Offset: off, May: may(settled, more)}
	s, ours, whole := readStamp(b)
	older := func(what string) *Violation {
		v.Kind, v.Holds = LostWrite, what
		if o.mu.seen[i/64]&(1<<(i%64)) != 0 {
			v.Kind = StaleData
			v.May += ", which was read there before"
		}
		return v
	}
	switch {
	case isZero(b):
		return older("zeroes")
	case ours && s.volume != o.volume:
		v.Kind, v.Holds = UnknownData, fmt.Sprintf("a pattern of another journal (%016x, write %d of offset %d)", s.volume, s.write, s.offset)
	case ours && whole && s.offset != off:
		v.Kind, v.Holds = MisplacedBlock, fmt.Sprintf("write %d of the block at %d", s.write, s.offset)
	case ours && whole && s.write > o.mu.write:
		v.Kind, v.Holds = UnknownData, fmt.Sprintf("write %d, of which the journal knows nothing", s.write)
	case ours && whole:
		return older(fmt.Sprintf("write %d", s.write))
	default:
		o.explainMixture(v, b, off, s, ours, settled, more)
	}
	return v
}

// explainMixture names the parts of a block that is no whole version: sectors
// that are equal to those of a version that was there or may be, and bits that
// differ.
func (o *Oracle) explainMixture(v *Violation, b []byte, off int64, s stamp, ours bool, settled version, more []candidate) {
	known := []version{settled}
	for _, c := range more {
		known = append(known, c.version)
	}
	if ours && s.volume == o.volume && s.offset == off && s.write <= o.mu.write {
		known = append(known, newVersion(s.write, false))
	}
	full := make([]byte, o.unit)
	best, bestBits := version(0), int(o.unit)*8+1
	sectors := make([]version, o.unit/sectorBytes)
	found := 0
	for _, k := range known {
		if k == anything {
			continue
		}
		o.content(full, off, k, o.runOfLocked(k.write()))
		diff := 0
		for at := range b {
			diff += bits.OnesCount8(b[at] ^ full[at])
		}
		if diff < bestBits {
			best, bestBits = k, diff
		}
		for n := range sectors {
			part := n * sectorBytes
			if sectors[n] == anything && string(b[part:part+sectorBytes]) == string(full[part:part+sectorBytes]) {
				sectors[n] = k
				found++
			}
		}
	}
	const fewBits = 64
	switch {
	case bestBits <= fewBits:
		v.Kind, v.Holds = FlippedBits, fmt.Sprintf("%v with %d wrong bits", best, bestBits)
	case found > 0:
		var parts []string
		for n, k := range sectors {
			what := "something else"
			if k != anything {
				what = k.String()
			}
			parts = append(parts, fmt.Sprintf("sector %d: %s", n, what))
		}
		v.Kind, v.Holds = TornBlock, "a mixture ("+strings.Join(parts, ", ")+")"
	case ours:
		v.Kind, v.Holds = TornBlock, fmt.Sprintf("the head of write %d of the block at %d with another tail", s.write, s.offset)
	default:
		v.Kind, v.Holds = UnknownData, fmt.Sprintf("data that was never written here (it begins % x)", b[:16])
	}
}

// may puts the allowed versions into words.
func may(settled version, more []candidate) string {
	if len(more) == 0 {
		if settled.write() == 0 {
			return settled.String()
		}
		return settled.String() + ", which was acknowledged"
	}
	words := []string{settled.String()}
	for _, c := range more {
		words = append(words, c.String()+" (in flight when the target was lost)")
	}
	return strings.Join(words, " or ")
}

// Stats is what an Oracle knows.
type Stats struct {
	Writes  uint64 // numbered so far
	Run     uint32 // processes that used the journal
	Blocks  int64  // in the range
	Written int64  // blocks that hold a write for certain
	Open    int    // blocks that may hold one of several versions
}

// Stats counts the blocks by what is known of them.
func (o *Oracle) Stats() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := Stats{Writes: o.mu.write, Run: uint32(len(o.mu.runs)), Blocks: int64(len(o.mu.base)), Open: len(o.mu.more)}
	for _, v := range o.mu.base {
		if v.write() > 0 {
			s.Written++
		}
	}
	return s
}

package fault

import (
	"bytes"
	"errors"
	"math/bits"
	"slices"
	"strings"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/ram"
)

const size = 1 << 20

// handClock runs nothing until the test says so.
type handClock struct {
	delays []time.Duration
	funcs  []func()
}

func (c *handClock) AfterFunc(d time.Duration, f func()) {
	c.delays, c.funcs = append(c.delays, d), append(c.funcs, f)
}

func newDevice(t *testing.T, lines ...string) (*Device, *ram.Device) {
	t.Helper()
	below, err := ram.New(ram.Config{SizeBytes: size})
	if err != nil {
		t.Fatal(err)
	}
	d := New(below, nil)
	t.Cleanup(func() {
		if err := errors.Join(d.Close(), below.Close()); err != nil {
			t.Error(err)
		}
	})
	for _, line := range lines {
		if _, err := d.AddText(line); err != nil {
			t.Fatal(err)
		}
	}
	return d, below
}

func fill(n int, v byte) []byte { return bytes.Repeat([]byte{v}, n) }

func contents(t *testing.T, d blockdev.Device, off int64, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	if err := blockdev.ReadAt(d, p, off); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParseAndStringAgree(t *testing.T) {
	for line, want := range map[string]Rule{
		"write range=4096-8192 p=0.1 seed=7 torn": {Op: blockdev.OpWrite, Off: 4096, End: 8192, P: 0.1, Seed: 7, Kind: KindTorn},
		"any delay=30ms":                    {Kind: KindDelay, Delay: 30 * time.Millisecond},
		"read nth=3 error=medium":           {Op: blockdev.OpRead, Nth: 3, Kind: KindError, Err: blockdev.ErrMedium},
		"flush times=1 lost":                {Op: blockdev.OpFlush, Times: 1, Kind: KindLost},
		"compare-and-write range=512- hang": {Op: blockdev.OpCompareAndWrite, Off: 512, Kind: KindHang},
		"any gone":                          {Kind: KindGone},
	} {
		got, err := Parse(line)
		if err != nil || got != want {
			t.Errorf("%q: %+v (%v), want %+v", line, got, err, want)
		}
		if got.String() != line {
			t.Errorf("%q prints as %q", line, got)
		}
	}
	if got, err := Parse("error=io"); err != nil || got.String() != "any error=io" {
		t.Errorf("no operation means any: %v, %v", got, err)
	}
}

func TestParseRefusesNonsense(t *testing.T) {
	for _, line := range []string{
		"", "read", "error=", "error=sad", "write torn lost", "read torn", "read lost", "flush flip", "compare-and-write lost",
		"lost write", "nth=0 gone", "nth=x gone", "times=-1 gone", "p=0 gone", "p=1.1 gone", "p=NaN gone", "range=5 gone",
		"range=8-8 gone", "range=-5-8 gone", "delay=-1s", "delay=5", "delay=0s", "colour=red gone", "erase gone", "any hang delay=1s",
	} {
		if r, err := Parse(line); err == nil {
			t.Errorf("%q was taken as %q", line, r)
		}
	}
	if _, err := ParseAll("any gone\nread tern\n"); err == nil || !strings.Contains(err.Error(), "tern") {
		t.Errorf("ParseAll: %v", err)
	}
	rules, err := ParseAll("# all of it\n\nany gone\n  read flip  \n")
	if err != nil || len(rules) != 2 {
		t.Errorf("ParseAll: %v, %v", rules, err)
	}
}

// FuzzParse: whatever is taken is valid, and prints as what reads the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"write range=4096-8192 p=0.1 seed=7 torn", "any delay=30ms", "read nth=3 times=2 error=medium", "range=1- gone", "p=NaN hang"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		r, err := Parse(line)
		if err != nil {
			return
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("%q was taken: %v", line, err)
		}
		again, err := Parse(r.String())
		if err != nil || again != r {
			t.Fatalf("%q prints as %q, which reads as %+v (%v)", line, r, again, err)
		}
	})
}

func TestErrorStrikesTheRightRequests(t *testing.T) {
	d, below := newDevice(t)
	a, err := d.AddText("write range=4096-8192 error=no-space")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		off int64
		n   int
		hit bool
	}{{0, 4096, false}, {8192, 4096, false}, {4096, 512, true}, {0, 4608, true}, {7680, 4096, true}} {
		err := blockdev.WriteAt(d, fill(tc.n, 1), tc.off)
		if errors.Is(err, blockdev.ErrNoSpace) != tc.hit || (err != nil) != tc.hit {
			t.Errorf("write of %d at %d: %v", tc.n, tc.off, err)
		}
	}
	if err := blockdev.ReadAt(d, make([]byte, 4096), 4096); err != nil {
		t.Errorf("read: %v", err)
	}
	if err := blockdev.Flush(d); err != nil {
		t.Errorf("flush: %v", err)
	}
	if !bytes.Equal(contents(t, below, 4096, 4096), fill(4096, 0)) {
		t.Error("a failed write had an effect")
	}
	if a.Hits() != 3 || a.Asked() != 3 {
		t.Errorf("hits %d of %d", a.Hits(), a.Asked())
	}
	a.Remove()
	if err := blockdev.WriteAt(d, fill(512, 1), 4096); err != nil {
		t.Errorf("after Remove: %v", err)
	}
}

func TestNthTimesAndChance(t *testing.T) {
	pattern := func(line string, n int) string {
		d, _ := newDevice(t, line)
		var sb strings.Builder
		for range n {
			if blockdev.ReadAt(d, make([]byte, 512), 0) != nil {
				sb.WriteByte('x')
			} else {
				sb.WriteByte('.')
			}
		}
		return sb.String()
	}
	if got := pattern("read nth=3 error=io", 6); got != "..x..." {
		t.Error(got)
	}
	if got := pattern("read times=2 error=io", 6); got != "xx...." {
		t.Error(got)
	}
	one, two := pattern("read p=0.25 seed=7 error=io", 2000), pattern("read p=0.25 seed=8 error=io", 2000)
	if hits := strings.Count(one, "x"); hits < 400 || hits > 600 {
		t.Errorf("p=0.25 struck %d of 2000", hits)
	}
	if one == two || one != pattern("read p=0.25 seed=7 error=io", 2000) {
		t.Error("chance does not follow the seed")
	}
}

func TestDelayUsesTheClock(t *testing.T) {
	below, err := ram.New(ram.Config{SizeBytes: size})
	if err != nil {
		t.Fatal(err)
	}
	clock := &handClock{}
	d := New(below, clock)
	d.Add(Rule{Op: blockdev.OpWrite, Kind: KindDelay, Delay: time.Hour})
	done := 0
	r := &blockdev.Request{Op: blockdev.OpWrite, Length: 512, Data: [][]byte{fill(512, 9)}, Done: func(*blockdev.Request) { done++ }}
	d.Submit([]*blockdev.Request{r})
	if done != 0 || !slices.Equal(clock.delays, []time.Duration{time.Hour}) {
		t.Fatalf("done %d, delays %v", done, clock.delays)
	}
	clock.funcs[0]()
	if done != 1 || r.Err != nil || contents(t, below, 0, 1*512)[0] != 9 {
		t.Fatalf("done %d, err %v", done, r.Err)
	}
	d.Submit([]*blockdev.Request{r})
	d.Vanish()
	clock.funcs[1]()
	if done != 2 || !errors.Is(r.Err, blockdev.ErrGone) {
		t.Fatalf("done %d, err %v", done, r.Err)
	}
}

// A torn write fails; each sector is old or new, and both occur.
func TestTornWriteMixesSectors(t *testing.T) {
	d, below := newDevice(t)
	if err := blockdev.WriteAt(d, fill(64<<10, 1), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AddText("write seed=3 torn"); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.WriteAt(d, fill(64<<10, 2), 0); !errors.Is(err, blockdev.ErrIO) {
		t.Fatalf("torn write: %v", err)
	}
	got := contents(t, below, 0, 64<<10)
	count := map[byte]int{}
	for off := 0; off < len(got); off += 512 {
		if !bytes.Equal(got[off:off+512], fill(512, got[off])) {
			t.Fatalf("sector at %d is mixed", off)
		}
		count[got[off]]++
	}
	if len(count) != 2 || count[1] < 30 || count[2] < 30 {
		t.Fatalf("sectors by content: %v", count)
	}
}

func TestLostWriteIsAcknowledged(t *testing.T) {
	d, below := newDevice(t, "any lost")
	if err := blockdev.WriteAt(d, fill(512, 1), 0); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.Flush(d); err != nil {
		t.Fatal(err)
	}
	if contents(t, below, 0, 512)[0] != 0 {
		t.Fatal("the write was not lost")
	}
}

func differingBits(a, b []byte) (n int) {
	for i := range a {
		n += bits.OnesCount8(a[i] ^ b[i])
	}
	return n
}

func TestFlipChangesOneBit(t *testing.T) {
	d, below := newDevice(t, "write nth=1 seed=1 flip", "read nth=2 seed=2 flip")
	p := fill(8192, 0x55)
	if err := blockdev.WriteAt(d, p, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p, fill(8192, 0x55)) {
		t.Error("the submitter's buffer changed")
	}
	stored := contents(t, below, 0, 8192)
	if n := differingBits(stored, p); n != 1 {
		t.Errorf("%d bits differ after a write", n)
	}
	if n := differingBits(contents(t, d, 0, 8192), stored); n != 0 {
		t.Errorf("%d bits differ in the first read", n)
	}
	got := make([]byte, 8192)
	r := &blockdev.Request{Op: blockdev.OpRead, Length: 8192, Data: [][]byte{got[:100], got[100:5000], got[5000:]}}
	if err := blockdev.Do(d, r); err != nil {
		t.Fatal(err)
	}
	if n := differingBits(got, stored); n != 1 {
		t.Errorf("%d bits differ in the second read", n)
	}
}

func TestHungRequestsResumeOrFail(t *testing.T) {
	d, below := newDevice(t, "write times=2 hang")
	var order []string
	write := func(off int64, name string) *blockdev.Request {
		return &blockdev.Request{Op: blockdev.OpWrite, Offset: off, Length: 512, Data: [][]byte{fill(512, 5)},
			Done: func(*blockdev.Request) { order = append(order, name) }}
	}
	a, b, c := write(0, "a"), write(512, "b"), write(1024, "c")
	d.Submit([]*blockdev.Request{a})
	if d.Hung() != 1 {
		t.Fatalf("%d hang", d.Hung())
	}
	d.Resume()
	d.Submit([]*blockdev.Request{b, c})
	if d.Hung() != 1 || !slices.Equal(order, []string{"a", "c"}) {
		t.Fatalf("%d hang, done %v", d.Hung(), order)
	}
	d.Fail(blockdev.ErrBusy)
	if a.Err != nil || !errors.Is(b.Err, blockdev.ErrBusy) || c.Err != nil || d.Hung() != 0 {
		t.Fatalf("%v, %v, %v", a.Err, b.Err, c.Err)
	}
	if got := contents(t, below, 0, 1536); got[0] != 5 || got[512] != 0 || got[1024] != 5 {
		t.Fatal("contents differ")
	}
}

func TestGoneLastsUntilRestore(t *testing.T) {
	d, _ := newDevice(t, "read nth=2 gone")
	var changes []blockdev.Change
	defer d.Watch(func(c blockdev.Change) { changes = append(changes, c) })()
	contents(t, d, 0, 512)
	for range 2 {
		if err := blockdev.ReadAt(d, make([]byte, 512), 0); !errors.Is(err, blockdev.ErrGone) {
			t.Fatalf("read: %v", err)
		}
	}
	d.Clear()
	if err := blockdev.Flush(d); !errors.Is(err, blockdev.ErrGone) {
		t.Fatalf("flush: %v", err)
	}
	if !slices.Equal(changes, []blockdev.Change{blockdev.ChangeGone}) {
		t.Fatalf("changes %v", changes)
	}
	d.Restore()
	contents(t, d, 0, 512)
}

// Without rules nothing is allocated; the wrapper can stay in place.
func TestPassingOnDoesNotAllocate(t *testing.T) {
	d, _ := newDevice(t)
	r := &blockdev.Request{Op: blockdev.OpWrite, Length: 4096, Data: [][]byte{fill(4096, 1)}, Done: func(*blockdev.Request) {}}
	batch := []*blockdev.Request{r}
	if n := testing.AllocsPerRun(100, func() { d.Submit(batch) }); n != 0 || r.Err != nil {
		t.Fatalf("%v allocations (%v)", n, r.Err)
	}
}

func TestNoticesAndMapsOfTheDeviceBelow(t *testing.T) {
	d, below := newDevice(t)
	var changes []blockdev.Change
	stop := d.Watch(func(c blockdev.Change) { changes = append(changes, c) })
	if err := below.Resize(2 * size); err != nil {
		t.Fatal(err)
	}
	stop()
	below.SetReadOnly(true)
	if !slices.Equal(changes, []blockdev.Change{blockdev.ChangeSize}) || d.Geometry().SizeBytes != 2*size {
		t.Fatalf("changes %v, size %d", changes, d.Geometry().SizeBytes)
	}
	if mapped, n, err := d.NextMapped(0, size); mapped || n != size || err != nil {
		t.Fatalf("NextMapped: %v %d %v", mapped, n, err)
	}
	if used, avail := d.Provisioning(); used != 0 || avail != 2*size {
		t.Fatalf("Provisioning: %d %d", used, avail)
	}
}

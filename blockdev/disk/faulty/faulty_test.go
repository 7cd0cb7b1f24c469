package faulty_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/disktest"
	"blockd.dev/blockdev/disk/faulty"
	"blockd.dev/blockdev/disk/sim"
)

const blk = disk.BlockBytes

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConformance: without rules, and with one that only delays, the wrapper
// keeps every promise of a disk.
func TestConformance(t *testing.T) {
	for name, rule := range map[string]*faulty.Rule{"no-rules": nil, "delays": {Probability: 0.3, Delay: time.Microsecond}} {
		t.Run(name, func(t *testing.T) {
			disktest.Run(t, func(*testing.T) disk.Disk {
				rules := faulty.NewRules(1)
				if rule != nil {
					rules.Add(*rule)
				}
				return faulty.New(sim.New(disktest.SizeBytes, sim.Options{Mode: sim.Async}), rules)
			})
		})
	}
}

// TestEffects: each effect does on the medium what its rule says.
func TestEffects(t *testing.T) {
	old, fresh := disktest.Pattern(disk.NewAligned(blk), 1), disktest.Pattern(disk.NewAligned(blk), 2)
	differ := func(a, b []byte) (bits int) {
		for i := range a {
			for x := a[i] ^ b[i]; x != 0; x &= x - 1 {
				bits++
			}
		}
		return bits
	}
	cases := map[string]struct {
		err   syscall.Errno
		check func(at, next, answer []byte) bool // the medium at 0 and 4096, and what a read said
	}{
		"write err=EIO":       {syscall.EIO, func(at, _, _ []byte) bool { return differ(at, old) == 0 }},
		"write err=EIO torn":  {syscall.EIO, func(at, _, _ []byte) bool { return differ(at[:2048], fresh) == 0 && differ(at[2048:], old[2048:]) == 0 }},
		"write lose":          {0, func(at, _, _ []byte) bool { return differ(at, old) == 0 }},
		"write misplace=4096": {0, func(at, next, _ []byte) bool { return differ(at, old) == 0 && differ(next, fresh) == 0 }},
		"write flip":          {0, func(at, _, _ []byte) bool { return differ(at, fresh) == 1 }},
		"read flip":           {0, func(at, _, answer []byte) bool { return differ(at, fresh) == 0 && differ(answer, fresh) == 1 }},
		"any delay=1us":       {0, func(at, _, answer []byte) bool { return differ(at, fresh)+differ(answer, fresh) == 0 }},
	}
	for line, c := range cases {
		t.Run(line, func(t *testing.T) {
			s := sim.New(1<<20, sim.Options{})
			s.WriteRaw(old, 0)
			rules := faulty.NewRules(7)
			rule, err := faulty.Parse(line)
			if err != nil {
				t.Fatal(err)
			}
			rules.Add(rule)
			d := faulty.New(s, rules)
			err = disktest.Do(d, &disk.IO{Op: disk.Write, Bufs: [][]byte{fresh}})
			if (c.err == 0 && err != nil) || (c.err != 0 && !errors.Is(err, c.err)) {
				t.Fatalf("write: %v", err)
			}
			at, next, answer := disk.NewAligned(blk), disk.NewAligned(blk), disk.NewAligned(blk)
			if err := disktest.Do(d, &disk.IO{Op: disk.Read, Bufs: [][]byte{answer}}); err != nil {
				t.Fatalf("read: %v", err)
			}
			s.ReadRaw(at, 0)
			s.ReadRaw(next, blk)
			if !c.check(at, next, answer) {
				t.Fatal("the medium or the answer is not what the rule says")
			}
			if rules.Hits() == 0 {
				t.Fatal("the rule never struck")
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestFailedSyncIsFinal: after an injected sync failure no sync succeeds, as
// on a real disk.
func TestFailedSyncIsFinal(t *testing.T) {
	rules := faulty.NewRules(1)
	rules.Add(faulty.Rule{Op: disk.Sync, Err: syscall.EIO, Count: 1})
	d := faulty.New(sim.New(1<<20, sim.Options{}), rules)
	if err := disktest.Do(d, &disk.IO{Op: disk.Sync}); !errors.Is(err, syscall.EIO) {
		t.Fatalf("first: %v", err)
	}
	if err := disktest.Do(d, &disk.IO{Op: disk.Sync}); !errors.Is(err, disk.ErrSyncLost) {
		t.Fatalf("second: %v", err)
	}
	d.Close()
}

// TestPassingThroughDoesNotAllocate: I/O that no rule strikes costs nothing.
func TestPassingThroughDoesNotAllocate(t *testing.T) {
	rules := faulty.NewRules(1)
	rules.Add(faulty.Rule{Op: disk.Discard, Err: syscall.EIO})
	d := faulty.New(sim.New(1<<20, sim.Options{NoTrace: true}), rules)
	batch := []*disk.IO{{Op: disk.Read, Bufs: [][]byte{disk.NewAligned(blk)}, Done: func(*disk.IO) {}}}
	d.Submit(batch)
	if n := testing.AllocsPerRun(100, func() { d.Submit(batch) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// FuzzParse: Parse never panics, and what it accepts survives being written
// and read again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"any", "write dsync range=0-4096 skip=3 count=1 err=EIO torn", "read flip p=0.25", "write misplace=-4096",
		"sync err=5 delay=10ms", "write lose", "", "eat", "read range=1", "read p=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		r, err := faulty.Parse(line)
		if err != nil {
			return
		}
		if again, err := faulty.Parse(r.String()); err != nil || (again != r && r.Probability == r.Probability) {
			t.Fatalf("%q became %q: %+v, %v", line, r.String(), again, err)
		}
	})
}

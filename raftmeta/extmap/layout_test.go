package extmap

import (
	"testing"

	"pgregory.net/rapid"
)

func anyPolicy(t *rapid.T) Policy {
	return rapid.SampledFrom([]Policy{{Replicas: 1}, {Replicas: 3}, {Replicas: 5}, {Data: 4, Parity: 2}, {Data: 8, Parity: 4}}).Draw(t, "policy")
}

// Growth moves nothing, no two addresses share a byte, and a run is what it says.
func TestLayout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		var l Layout
		type place struct {
			extent uint32
			offset int64
		}
		placed := map[int64]place{}
		taken := map[place]int64{}
		for range rapid.IntRange(1, 6).Draw(t, "growths") {
			var err error
			if l, err = l.grow(p, l.Extents()+uint32(rapid.IntRange(1, 40).Draw(t, "more"))); err != nil {
				t.Fatal(err)
			}
			for addr, was := range placed {
				if extent, offset, _ := l.Locate(addr); extent != was.extent || offset != was.offset {
					t.Fatalf("growth moved %d from %v to extent %d offset %d", addr, was, extent, offset)
				}
			}
			for range 200 {
				addr := rapid.Int64Range(0, l.SizeBytes()-1).Draw(t, "addr")
				extent, offset, run := l.Locate(addr)
				at := place{extent, offset}
				if other, ok := taken[at]; ok && other != addr || extent >= l.Extents() || offset < 0 || run <= 0 || offset+run > p.ExtentBytes() {
					t.Fatalf("%d is at %v for %d bytes, as is %d", addr, at, run, other)
				}
				if e, o, _ := l.Locate(addr + run - 1); e != extent || o != offset+run-1 {
					t.Fatalf("the run of %d bytes from %d on ends on extent %d at %d", run, addr, e, o)
				}
				placed[addr], taken[at] = at, addr
			}
		}
	})
}

// Each byte of each extent belongs to exactly one address.
func TestLayoutFillsItsExtents(t *testing.T) {
	l := Layout{}
	for _, total := range []uint32{3, 4, 25, 26, 27} {
		l, _ = l.grow(Policy{Replicas: 3}, total)
	}
	filled := make([]int64, l.Extents())
	for addr := int64(0); addr < l.SizeBytes(); {
		extent, _, run := l.Locate(addr)
		filled[extent] += run
		addr += run
	}
	for extent, n := range filled {
		if n != ShardBytes {
			t.Errorf("extent %d has %d bytes of addresses", extent, n)
		}
	}
}

func TestSmallVolumesAreNoWiderThanTheyAre(t *testing.T) {
	p := Policy{Replicas: 3}
	l, err := Layout{}.grow(p, p.ExtentsFor(100<<20))
	if err != nil || l.Extents() != 2 {
		t.Fatalf("100 MiB have %d extents: %v", l.Extents(), err)
	}
	if e, off, run := l.Locate(3<<20 + 5); e != 1 || off != 1<<20+5 || run != 1<<20-5 {
		t.Errorf("3 MiB + 5 is on extent %d at %d for %d", e, off, run)
	}
}

func TestGrowthByOddSizesEnds(t *testing.T) {
	l, p, err := Layout{}, Policy{Replicas: 1}, error(nil)
	for i := uint32(0); err == nil; i++ {
		if i > segmentsMax {
			t.Fatal("segments grow without bound")
		}
		l, err = l.grow(p, l.Extents()+1+i%2)
	}
	if _, err := l.grow(p, l.Extents()-1); err == nil {
		t.Error("a volume shrank")
	}
}

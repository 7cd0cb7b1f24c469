package arena

import (
	"errors"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// TestRegionsAndBuffersNeverOverlap drives both kinds of loans and compares
// them with a map of who has which page.
func TestRegionsAndBuffersNeverOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, err := New(Config{SizeBytes: 16 << 20, HugePages: Off})
		if err != nil {
			t.Fatal(err)
		}
		base := uintptr(a.mem.page(0))
		owner := make([]int, 16<<20/pageBytes) // 0 nobody
		next := 1
		claim := func(b []byte, from, to int) {
			first := int(uintptr(unsafe.Pointer(&b[0]))-base) / pageBytes
			for i := range (len(b) + pageBytes - 1) / pageBytes {
				if owner[first+i] != from {
					t.Fatalf("page %d belongs to %d, not to %d", first+i, owner[first+i], from)
				}
				owner[first+i] = to
			}
		}
		type loan struct {
			id  int
			buf *Buf
			reg *Region
		}
		var loans []loan
		giveBack := func(i int) {
			l := loans[i]
			if l.buf != nil {
				claim(l.buf.Bytes(), l.id, 0)
				l.buf.Release()
			} else {
				claim(l.reg.Bytes(), l.id, 0)
				l.reg.Release()
			}
			loans = append(loans[:i], loans[i+1:]...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"get": func(t *rapid.T) {
				size := rapid.SampledFrom(Classes[:]).Draw(t, "size")
				if b := a.Get(size); b != nil {
					claim(b.Bytes(), 0, next)
					loans = append(loans, loan{id: next, buf: b})
					next++
				}
			},
			"reserve": func(t *rapid.T) {
				n := rapid.IntRange(1, 3*slabBytes).Draw(t, "bytes")
				r, err := a.Reserve(n)
				if errors.Is(err, ErrExhausted) {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if len(r.Bytes()) < n || uintptr(unsafe.Pointer(&r.Bytes()[0]))%slabBytes != 0 {
					t.Fatalf("asked for %d bytes, got %d at %p", n, len(r.Bytes()), r.Bytes())
				}
				claim(r.Bytes(), 0, next)
				r.Bytes()[0], r.Bytes()[n-1] = 1, 2
				loans = append(loans, loan{id: next, reg: r})
				next++
			},
			"release": func(t *rapid.T) {
				if len(loans) > 0 {
					giveBack(rapid.IntRange(0, len(loans)-1).Draw(t, "which"))
				}
			},
			"": func(t *rapid.T) {
				var pages int64
				for _, l := range loans {
					if l.reg != nil {
						pages += int64(len(l.reg.Bytes()))
					}
				}
				if got := a.Stats().ReservedBytes; got != pages {
					t.Fatalf("%d bytes are reserved, Stats says %d", pages, got)
				}
			},
		})
		for len(loans) > 0 {
			giveBack(0)
		}
		// All of it can be had again, in one piece.
		r, err := a.Reserve(16 << 20)
		if err != nil {
			// Slabs may idle in a class; only the last one of each shard does.
			if r, err = a.Reserve(2 << 20); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Close(); err == nil {
			t.Fatal("an arena with a region out was closed")
		}
		r.Release()
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRegionMisuse(t *testing.T) {
	a, err := New(Config{SizeBytes: 4 << 20, HugePages: Off})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, -1, 4<<20 + 1} {
		if _, err := a.Reserve(n); err == nil {
			t.Errorf("reserved %d bytes", n)
		}
	}
	r, err := a.Reserve(4 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if b := a.Get(1); b != nil {
		t.Error("got a buffer from an arena that is reserved as a whole")
	}
	r.Release()
	for name, f := range map[string]func(){"Release": r.Release, "Bytes": func() { r.Bytes() }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s of a released region did not panic", name)
				}
			}()
			f()
		}()
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

package arena

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"unsafe"
)

func newArena(t testing.TB, size int64) *Arena {
	t.Helper()
	a, err := New(Config{SizeBytes: size})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestGetGivesTheSmallestFittingClass(t *testing.T) {
	a := newArena(t, 16<<20)
	for _, tc := range []struct{ n, class int }{
		{0, 4 << 10}, {1, 4 << 10}, {4096, 4 << 10}, {4097, 16 << 10}, {16 << 10, 16 << 10},
		{16<<10 + 1, 64 << 10}, {64<<10 + 1, 256 << 10}, {256<<10 + 1, 1 << 20}, {1 << 20, 1 << 20},
	} {
		b := a.Get(tc.n)
		if b == nil {
			t.Fatalf("Get(%d) = nil", tc.n)
		}
		if len(b.Bytes()) != tc.n || b.Cap() != tc.class {
			t.Errorf("Get(%d): %d bytes of %d, want class %d", tc.n, len(b.Bytes()), b.Cap(), tc.class)
		}
		if p := uintptr(unsafe.Pointer(unsafe.SliceData(b.Bytes()))); p%4096 != 0 {
			t.Errorf("Get(%d): address %#x is not aligned to 4 KiB", tc.n, p)
		}
		b.SetLen(b.Cap())
		clear(b.Bytes())
		b.Release()
	}
	for _, n := range []int{-1, MaxClass + 1} {
		if a.Get(n) != nil {
			t.Errorf("Get(%d) gave a buffer", n)
		}
	}
}

// Every byte of the arena can be lent in any class, buffers never overlap,
// and what one class used serves another once it is back.
func TestWholeArenaServesEachClassInTurn(t *testing.T) {
	const size = 8 << 20
	a := newArena(t, size)
	for _, class := range []int{4 << 10, 1 << 20, 16 << 10, 256 << 10, 64 << 10, 4 << 10} {
		var out []*Buf
		seen := map[uintptr]bool{}
		for {
			b := a.Get(class)
			if b == nil {
				break
			}
			p := uintptr(unsafe.Pointer(unsafe.SliceData(b.Bytes())))
			if seen[p] || p%uintptr(class) != 0 {
				t.Fatalf("class %d: address %#x lent twice or unaligned", class, p)
			}
			seen[p] = true
			out = append(out, b)
		}
		if len(out) != size/class {
			t.Fatalf("class %d: %d buffers from %d bytes, want %d", class, len(out), size, size/class)
		}
		if st := a.Stats(); st.InUseBytes != size || st.Failures == 0 {
			t.Fatalf("class %d: stats %+v", class, st)
		}
		for _, b := range out {
			b.Release()
		}
	}
	if st := a.Stats(); st.InUseBytes != 0 || st.PeakBytes < size || st.SizeBytes != size {
		t.Fatalf("stats at the end: %+v", st)
	}
}

// One buffer left in each slab pins the slab to its class: exhaustion is nil,
// not a crash, and ends when one comes back.
func TestPinnedSlabsExhaustOtherClasses(t *testing.T) {
	a := newArena(t, 4<<20)
	var small []*Buf
	for b := a.Get(4096); b != nil; b = a.Get(4096) {
		small = append(small, b)
	}
	pins := small[:0:0]
	for i, b := range small {
		if i%512 == 0 {
			pins = append(pins, b)
		} else {
			b.Release()
		}
	}
	if b := a.Get(MaxClass); b != nil {
		t.Fatal("a buffer of 1 MiB came out of pinned slabs")
	}
	pins[0].Release()
	b := a.Get(MaxClass)
	if b == nil {
		t.Fatal("no buffer of 1 MiB though a slab is free")
	}
	b.Release()
	for _, p := range pins[1:] {
		p.Release()
	}
}

func TestGetSGCoversExactlyWhatWasAsked(t *testing.T) {
	a := newArena(t, 32<<20)
	var sg SG
	for _, n := range []int{0, 1, 511, 512, 4096, 4097, 8192, 8193, 12 << 10, 64<<10 + 512, 128 << 10, 1 << 20, 5<<20 + 1234} {
		if !a.GetSG(n, &sg) {
			t.Fatalf("GetSG(%d) refused", n)
		}
		if sg.Len() != n {
			t.Errorf("GetSG(%d): Len %d", n, sg.Len())
		}
		for i, s := range sg.Segs {
			if i < len(sg.Segs)-1 && len(s)%4096 != 0 {
				t.Errorf("GetSG(%d): segment %d is %d bytes long", n, i, len(s))
			}
			if len(s) == 0 {
				t.Errorf("GetSG(%d): segment %d is empty", n, i)
			}
		}
		if st := a.Stats(); st.InUseBytes >= int64(2*n+2*4096) {
			t.Errorf("GetSG(%d) took %d bytes", n, st.InUseBytes)
		}
		sg.Release()
	}
	if a.GetSG(-1, &sg) {
		t.Error("GetSG(-1) gave buffers")
	}
}

func TestGetSGKeepsNothingWhenRefused(t *testing.T) {
	a := newArena(t, 4<<20)
	var sg SG
	if a.GetSG(4<<20+1, &sg) {
		t.Fatal("GetSG gave more than there is")
	}
	if st := a.Stats(); st.InUseBytes != 0 || sg.Len() != 0 {
		t.Fatalf("after a refusal %d bytes are out, Len %d", st.InUseBytes, sg.Len())
	}
	if !a.GetSG(4<<20, &sg) {
		t.Fatal("GetSG refused the whole arena")
	}
	sg.Release()
}

// The list behaves like the flat slice it stands for.
func TestSGCopiesAndSlicesLikeAFlatBuffer(t *testing.T) {
	a := newArena(t, 16<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		n := rng.IntN(300 << 10)
		var sg SG
		if !a.GetSG(n, &sg) {
			t.Fatalf("GetSG(%d) refused", n)
		}
		flat := make([]byte, n)
		for i := range flat {
			flat[i] = byte(rng.Uint32())
		}
		if got := sg.CopyIn(0, flat); got != n {
			t.Fatalf("CopyIn(0, %d) = %d", n, got)
		}
		off := rng.IntN(n + 10)
		p := make([]byte, rng.IntN(n+10))
		for i := range p {
			p[i] = byte(i)
		}
		want := 0
		if off < n {
			want = copy(flat[off:], p)
		}
		if got := sg.CopyIn(off, p); got != want {
			t.Fatalf("n=%d CopyIn(%d, %d bytes) = %d, want %d", n, off, len(p), got, want)
		}
		out := make([]byte, n+5)
		if got := sg.CopyOut(0, out); got != n || !bytes.Equal(out[:n], flat) {
			t.Fatalf("n=%d CopyOut differs", n)
		}
		lo := rng.IntN(n + 1)
		l := rng.IntN(n - lo + 1)
		if got := bytes.Join(sg.Slice(lo, l, nil), nil); !bytes.Equal(got, flat[lo:lo+l]) {
			t.Fatalf("n=%d Slice(%d, %d) differs", n, lo, l)
		}
		sg.Release()
	}
}

func TestSecondReleasePanics(t *testing.T) {
	a := newArena(t, 2<<20)
	b := a.Get(100)
	b.Release()
	defer func() {
		msg, _ := recover().(string)
		if !strings.Contains(msg, "second Release") {
			t.Fatalf("panic %q", msg)
		}
		if Debug && !strings.Contains(msg, "TestSecondReleasePanics") {
			t.Fatalf("the panic does not name the first Release: %q", msg)
		}
	}()
	b.Release()
}

func TestCloseRefusesWhileBuffersAreOut(t *testing.T) {
	a, err := New(Config{SizeBytes: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	b := a.Get(5000)
	err = a.Close()
	if err == nil || !strings.Contains(err.Error(), "1 buffers of 16384 bytes") {
		t.Fatalf("Close with a buffer out: %v", err)
	}
	clear(b.Bytes()) // still mapped
	b.Release()
	for range 2 {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if a.Get(1) != nil {
		t.Fatal("a closed arena lent a buffer")
	}
}

func TestModes(t *testing.T) {
	off, err := New(Config{SizeBytes: 3 << 20, HugePages: Off})
	if err != nil {
		t.Fatal(err)
	}
	if st := off.Stats(); st.HugePages != "none" || st.Reason == "" || st.SizeBytes != 4<<20 {
		t.Errorf("Off: %+v", st)
	}
	auto := newArena(t, 4<<20)
	if st := auto.Stats(); (st.HugePages == "hugetlb") != (st.Reason == "") {
		t.Errorf("Auto: kind %q with reason %q", st.HugePages, st.Reason)
	} else {
		t.Logf("huge pages here: %s; %s", st.HugePages, st.Reason)
	}
	// More than any machine reserves.
	if _, err := New(Config{SizeBytes: 1 << 42, HugePages: Require}); err == nil {
		t.Error("Require gave 4 TiB of huge pages")
	} else if !strings.Contains(err.Error(), "huge pages") {
		t.Errorf("Require: %v", err)
	}
	if _, err := New(Config{SizeBytes: -1}); err == nil {
		t.Error("a negative size was taken")
	}
	if err := off.Close(); err != nil {
		t.Fatal(err)
	}
}

// Goroutines that take and pass on buffers of all classes, in an arena too
// small for them, never see another's bytes.
func TestConcurrentLoansDoNotOverlap(t *testing.T) {
	a := newArena(t, 24<<20)
	pass := make(chan *Buf, 64)
	var wg sync.WaitGroup
	stamp := func(b *Buf, v byte) {
		p := b.Bytes()
		for i := 0; i < len(p); i += 1024 {
			p[i] = v
		}
	}
	holds := func(b *Buf) bool {
		p := b.Bytes()
		for i := 0; i < len(p); i += 1024 {
			if p[i] != p[0] {
				return false
			}
		}
		return true
	}
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			for range 600 {
				n := 1 + rng.IntN(Classes[rng.IntN(len(Classes))])
				if b := a.Get(n); b != nil {
					stamp(b, byte(rng.Uint32()))
					select {
					case pass <- b:
					default:
						if !holds(b) {
							t.Error("a lent buffer was overwritten")
						}
						b.Release()
					}
				}
				select {
				case b := <-pass:
					if !holds(b) {
						t.Error("a passed buffer was overwritten")
					}
					b.Release()
				default:
				}
			}
		})
	}
	wg.Wait()
	close(pass)
	for b := range pass {
		b.Release()
	}
	if st := a.Stats(); st.InUseBytes != 0 {
		t.Fatalf("%d bytes are out at the end", st.InUseBytes)
	}
}

func TestLoansDoNotAllocate(t *testing.T) {
	a := newArena(t, 16<<20)
	var sg SG
	a.GetSG(3<<20, &sg)
	sg.Release()
	p := make([]byte, 1000)
	segs := make([][]byte, 0, 8)
	n := testing.AllocsPerRun(1000, func() {
		b := a.Get(4096)
		b.Release()
		a.GetSG(140<<10, &sg)
		sg.CopyIn(65000, p)
		sg.CopyOut(65000, p)
		segs = sg.Slice(100, 70000, segs[:0])
		sg.Release()
	})
	if n != 0 {
		t.Fatalf("%v allocations per loan", n)
	}
}

func BenchmarkGetRelease(b *testing.B) {
	a := newArena(b, 64<<20)
	b.ReportAllocs()
	for b.Loop() {
		a.Get(4096).Release()
	}
}

func BenchmarkGetReleaseParallel(b *testing.B) {
	a := newArena(b, 64<<20)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			a.Get(4096).Release()
		}
	})
}

func BenchmarkGetSG128K(b *testing.B) {
	a := newArena(b, 64<<20)
	var sg SG
	b.ReportAllocs()
	for b.Loop() {
		a.GetSG(128<<10, &sg)
		sg.Release()
	}
}

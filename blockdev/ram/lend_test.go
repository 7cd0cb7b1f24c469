package ram

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"blockd.dev/blockdev"
)

func borrow(t testing.TB, d *Device, off, n int64) *blockdev.Request {
	t.Helper()
	r := &blockdev.Request{Op: blockdev.OpRead, Borrow: true, Offset: off, Length: n}
	if err := blockdev.Do(d, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func write(t testing.TB, d *Device, off int64, p []byte) {
	t.Helper()
	if err := blockdev.WriteAt(d, p, off); err != nil {
		t.Fatal(err)
	}
}

// A page that was written again and again while it was lent has one spare, and
// none when the loan is over: then it lies in its region as before, so that a
// long read is of few segments.
func TestPagesGoHome(t *testing.T) {
	d := newDevice(t, Config{SizeBytes: 1 << 20})
	write(t, d, 0, fill(64<<10, 1))
	_, c := d.find(0)
	spares := func() (n int) {
		for s := c.moved; s != nil; s = s.next {
			n++
		}
		return n
	}
	first := borrow(t, d, 0, 64<<10)
	if len(first.Data) != 1 {
		t.Fatalf("64 KiB at home are in %d segments", len(first.Data))
	}
	for i := range 10 {
		write(t, d, 8192, fill(4096, byte(i)))
		write(t, d, 16384+512, fill(512, byte(i)))
	}
	if n := spares(); n != 2 {
		t.Fatalf("2 pages were written while they were lent, %d are in spares", n)
	}
	second := borrow(t, d, 0, 64<<10)
	write(t, d, 8192, fill(4096, 77))
	first.Return()
	if n := spares(); n != 1 {
		t.Fatalf("%d pages in spares, want the one that the second loan has of it", n)
	}
	second.Return()
	if n := spares(); n != 0 {
		t.Fatalf("%d pages in spares without any loan", n)
	}
	if c.lent != 0 || c.loans != [chunkPages]uint16{} {
		t.Fatalf("without any loan %#x pages are lent, %v times", c.lent, c.loans)
	}
	third := borrow(t, d, 0, 64<<10)
	defer third.Return()
	if len(third.Data) != 1 || third.Data[0][8192] != 77 || third.Data[0][16384+512] != 9 || third.Data[0][16384] != 1 {
		t.Fatalf("%d segments, or other content than was written", len(third.Data))
	}
}

// What is unmapped while it is lent goes to the kernel when it is returned,
// and reads as zeroes at once and after it.
func TestUnmapOfALoan(t *testing.T) {
	d := newDevice(t, Config{SizeBytes: 1 << 20})
	write(t, d, 0, fill(64<<10, 1))
	loan := borrow(t, d, 0, 64<<10)
	if err := blockdev.Do(d, &blockdev.Request{Op: blockdev.OpUnmap, Length: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	got := fill(4096, 7)
	if err := blockdev.ReadAt(d, got, 4096); err != nil || !bytes.Equal(got, fill(4096, 0)) {
		t.Fatalf("an unmapped page holds %d (%v)", got[0], err)
	}
	if !bytes.Equal(bytes.Join(loan.Data, nil), fill(64<<10, 1)) {
		t.Fatal("the loan changed")
	}
	loan.Return()
	g, _ := d.find(0)
	if !bytes.Equal(g.home(0), fill(64<<10, 0)) {
		t.Fatal("the memory was not discarded")
	}
}

// Memory that is lent outlives the device.
func TestCloseLeavesLoans(t *testing.T) {
	d, err := New(Config{SizeBytes: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	const far = 128 << 20 // another region
	write(t, d, 0, fill(8192, 1))
	write(t, d, far, fill(8192, 2))
	a, b := borrow(t, d, 0, 8192), borrow(t, d, far, 4096)
	write(t, d, 0, fill(4096, 3)) // to a spare
	c := borrow(t, d, 0, 4096)
	b.Return()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if g, _ := d.find(far); g.mem != nil {
		t.Error("a region without loans was kept")
	}
	g, _ := d.find(0)
	if g.mem == nil || !bytes.Equal(bytes.Join(a.Data, nil), fill(8192, 1)) {
		t.Fatal("a region was freed while it was lent")
	}
	a.Return()
	if g.mem != nil {
		t.Error("the last loan did not free the region")
	}
	if !bytes.Equal(bytes.Join(c.Data, nil), fill(4096, 3)) {
		t.Error("the spare that was lent changed")
	}
	c.Return()
	r := &blockdev.Request{Op: blockdev.OpRead, Borrow: true, Length: 4096}
	if err := blockdev.Do(d, r); !errors.Is(err, blockdev.ErrGone) {
		t.Fatalf("a closed device lends: %v", err)
	}
}

// A page can be lent more often than is counted.
func TestMoreLoansThanCount(t *testing.T) {
	d := newDevice(t, Config{SizeBytes: 1 << 20})
	write(t, d, 0, fill(8192, 1))
	_, c := d.find(0)
	const more = 3
	loans := make([]*blockdev.Request, math.MaxUint16+more)
	for i := range loans {
		loans[i] = borrow(t, d, 512, 8192-512)
	}
	write(t, d, 0, fill(4096, 2))
	for i, r := range loans {
		if r.Data[0][0] != 1 {
			t.Fatalf("loan %d changed", i)
		}
		r.Return()
	}
	if c.lent != 0 || c.moved != nil {
		t.Fatalf("without any loan %#x pages are lent", c.lent)
	}
	got := make([]byte, 4096)
	if err := blockdev.ReadAt(d, got, 0); err != nil || !bytes.Equal(got, fill(4096, 2)) {
		t.Fatalf("read %d (%v)", got[0], err)
	}
}

func TestLoansDoNotAllocate(t *testing.T) {
	d := newDevice(t, Config{SizeBytes: 8 << 20})
	write(t, d, 0, fill(4<<20, 1))
	rd := &blockdev.Request{Op: blockdev.OpRead, Borrow: true, Done: func(*blockdev.Request) {}}
	wr := &blockdev.Request{Op: blockdev.OpWrite, Length: 4096, Data: [][]byte{fill(4096, 2)}, Done: func(*blockdev.Request) {}}
	reads, writes := []*blockdev.Request{rd}, []*blockdev.Request{wr}
	off := int64(0)
	n := testing.AllocsPerRun(1000, func() {
		off = (off + 68<<10) % (3 << 20)
		rd.Offset, rd.Length = off, 128<<10
		wr.Offset = off + 8192
		d.Submit(reads)
		d.Submit(writes)
		if rd.Err != nil || wr.Err != nil {
			t.Fatal(rd.Err, wr.Err)
		}
		rd.Return()
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBorrow4K(b *testing.B) {
	const size = 64 << 20
	d := newDevice(b, Config{SizeBytes: size})
	write(b, d, 0, fill(size, 1))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		r := &blockdev.Request{Op: blockdev.OpRead, Borrow: true, Length: 4096, Done: func(*blockdev.Request) {}}
		batch := []*blockdev.Request{r}
		x := uint64(1)
		for pb.Next() {
			x = x*6364136223846793005 + 1442695040888963407
			r.Offset = int64(x>>33) % (size / 4096) * 4096
			d.Submit(batch)
			r.Return()
		}
	})
}

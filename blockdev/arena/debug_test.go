//go:build arenadebug || race

package arena

import (
	"strings"
	"testing"
)

func TestUseAfterReleasePanicsWithTheReleaser(t *testing.T) {
	a := newArena(t, 2<<20)
	b := a.Get(100)
	b.Release()
	defer func() {
		msg, _ := recover().(string)
		if !strings.Contains(msg, "Bytes of a buffer after its Release") || !strings.Contains(msg, t.Name()) {
			t.Fatalf("panic %q", msg)
		}
	}()
	b.Bytes()
}

func TestReleasedMemoryIsPoisoned(t *testing.T) {
	a := newArena(t, 2<<20)
	b := a.Get(5000)
	p := b.Bytes()
	clear(p)
	b.Release()
	for i, v := range p {
		if v != poisonByte {
			t.Fatalf("byte %d is %#x after Release", i, v)
		}
	}
}

func TestWriteAfterReleaseIsFoundAtTheNextLoan(t *testing.T) {
	a := newArena(t, 2<<20)
	b := a.Get(MaxClass)
	p := b.Bytes()
	b.Release()
	p[70001] = 1
	defer func() {
		msg, _ := recover().(string)
		if !strings.Contains(msg, "byte 70001 of a free buffer") || !strings.Contains(msg, t.Name()) {
			t.Fatalf("panic %q", msg)
		}
		a.giveBack(b) // the loan that panicked had b already
	}()
	got := a.Get(MaxClass)
	t.Fatalf("lent %v", got)
}

func TestLeakedNamesTheBorrower(t *testing.T) {
	a := newArena(t, 4<<20)
	if l := a.Leaked(); len(l) != 0 {
		t.Fatalf("leaks in a new arena: %v", l)
	}
	b := a.Get(5000)
	l := a.Leaked()
	if len(l) != 1 || l[0].SizeBytes != 16<<10 || !strings.Contains(l[0].Stack, t.Name()) {
		t.Fatalf("leaks: %+v", l)
	}
	if err := a.Close(); err == nil || !strings.Contains(err.Error(), t.Name()) {
		t.Fatalf("Close: %v", err)
	}
	b.Release()
}

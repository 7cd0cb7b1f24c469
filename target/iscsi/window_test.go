package iscsi

import (
	"testing"

	"pgregory.net/rapid"
)

func TestWindowPlaces(t *testing.T) {
	for _, start := range []uint32{0, 1000, 0xfffffffe} {
		var w window
		w.init(start, 4)
		for d, want := range map[int32]place{-1: placeOutside, 0: placeNext, 1: placeAhead, 3: placeAhead, 4: placeOutside,
			1 << 30: placeOutside, -1 << 31: placeOutside} {
			if got := w.where(start + uint32(d)); got != want {
				t.Errorf("from %#x: %d off is in place %d, want %d", start, d, got, want)
			}
		}
		for range 4 {
			w.advance()
		}
		if w.where(start+4) != placeOutside {
			t.Error("a closed window takes a command")
		}
		w.open()
		if w.where(start+4) != placeNext || w.where(start+5) != placeOutside {
			t.Error("one place was to open")
		}
	}
}

// RFC 7143 §11.5.5: a command that an ABORT TASK names before it has come
// counts as received.
func TestSkippedNumbersCount(t *testing.T) {
	var w window
	w.init(10, 8)
	w.skip(12)
	w.skip(12)
	w.skip(11)
	if w.exp != 10 {
		t.Fatalf("ExpCmdSN %d moved before its command came", w.exp)
	}
	w.advance()
	if w.exp != 13 || len(w.gone) != 0 || w.max != 10+7+2 {
		t.Fatalf("ExpCmdSN %d MaxCmdSN %d, %v left; want 13, 19, none", w.exp, w.max, w.gone)
	}
	w.skip(13)
	if w.exp != 14 || w.max != 20 {
		t.Fatalf("ExpCmdSN %d MaxCmdSN %d, want 14, 20", w.exp, w.max)
	}
}

// The window never shrinks in front and never holds more than depth commands
// that were not counted as ended.
func TestWindowInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		depth := rapid.IntRange(1, 16).Draw(t, "depth")
		var w window
		w.init(rapid.Uint32().Draw(t, "start"), depth)
		inFlight := 0
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			oldExp, oldMax := w.exp, w.max
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				if w.where(w.exp) == placeNext {
					w.advance()
					inFlight++
				}
			case 1:
				if inFlight > 0 {
					w.open()
					inFlight--
				}
			case 2:
				if sn := w.exp + rapid.Uint32Range(0, 20).Draw(t, "sn"); w.where(sn) != placeOutside {
					w.skip(sn)
				}
			}
			if int32(w.exp-oldExp) < 0 || int32(w.max-oldMax) < 0 {
				t.Fatal("the window went backwards")
			}
			if room := int32(w.max - w.exp + 1); room < 0 || int(room)+inFlight != depth+0 && int(room)+inFlight > depth+len(w.gone) {
				t.Fatalf("room for %d with %d in flight of %d", room, inFlight, depth)
			}
		}
	})
}

package scsi

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/internal/clock"
)

// handClock is a clock that a test sets.
type handClock struct{ at atomic.Int64 }

func newHandClock() *handClock {
	c := &handClock{}
	c.advance(time.Hour)
	return c
}

func (c *handClock) Now() clock.Mono         { return clock.Mono(c.at.Load()) }
func (c *handClock) advance(d time.Duration) { c.at.Add(int64(d)) }

const tGroups = "a3 0a 00 00 00 00 00 00 00 40 00 00"

// A unit that is withdrawn from an initiator is unavailable to it: it is told by a unit attention, its
// commands end as SPC-4 §5.15.2.4.5 says, its port group is unavailable to it, for good. Others go on.
func TestWithdrawnUnit(t *testing.T) {
	hand := newHandClock()
	b := newClockedBed(t, hand)
	other := b.attach("iqn.host-b")
	under := b.prepare(b.nexus, 0, AttrSimple, fromHex("2a 00 00 00 00 00 00 00 01 00"), fill(bedBlock, 7))

	w := b.target.Withdraw(func(initiator string, unit UnitID) bool { return initiator == "iqn.host-a" && unit == bedUnit })
	if w.Units() != 1 {
		t.Fatalf("%d units are withdrawn, want 1", w.Units())
	}
	b.want("02/6/2a06", tTUR)
	for _, cdb := range []string{tTUR, tRead, "35 00 00 00 00 00 00 00 00 00"} {
		b.want("02/2/040c", cdb)
	}
	b.want("00", "12 00 00 00 ff 00") // INQUIRY
	if p := b.want("00", tGroups).data; AccessState(p[4]&0xf) != AccessUnavailable || p[9] != statusByTarget {
		t.Errorf("REPORT TARGET PORT GROUPS says %x", p)
	}
	b.want("02/4/670a", "a4 0a 00 00 00 00 00 00 00 08 00 00", fromHex("00000000 00 00 0001")...)
	b.want("02/2/040c", tTUR)

	b.nexus.Execute(under.Task)
	if r := under.wait(); r.String() != "00" || b.blocksAt(0, 1)[0] != 7 {
		t.Errorf("a write that was taken before: %v", r)
	}
	for cdb, want := range map[string]string{tTUR: "00", tRead: "00"} {
		if r := b.start(other, 0, AttrSimple, fromHex(cdb), nil).wait(); r.String() != want {
			t.Errorf("another initiator: %v, want %s", r, want)
		}
	}
	if p := b.start(other, 0, AttrSimple, fromHex(tGroups), nil).wait().data; AccessState(p[4]&0xf) != AccessOptimized {
		t.Errorf("REPORT TARGET PORT GROUPS says to another initiator %x", p)
	}
}

// An initiator has gone on when it has been quiet for a while since the unit was withdrawn, or it was refused
// last, and none of its commands is under way; who has ended its session is not waited for.
func TestWithdrawalRests(t *testing.T) {
	hand := newHandClock()
	b := newClockedBed(t, hand)
	idle := b.attach("iqn.host-b")
	under := b.prepare(b.nexus, 0, AttrSimple, fromHex(tRead), nil)
	w := b.target.Withdraw(func(string, UnitID) bool { return true })
	want := func(what string, rest time.Duration, left int) {
		t.Helper()
		if w.Rest() != rest || w.Left() != left {
			t.Errorf("%s: %v and %d are left, want %v and %d", what, w.Rest(), w.Left(), rest, left)
		}
	}
	want("at the begin", movedQuiet, 2)
	b.want("02/6/2a06", tRead)
	hand.advance(movedQuiet / 4)
	b.want("02/2/040c", tRead)
	hand.advance(movedQuiet * 3 / 4)
	want("one has asked for nothing", movedQuiet/4, 1)
	hand.advance(movedQuiet / 4)
	want("quiet, with a command under way", busyLook, 1)
	b.nexus.Execute(under.Task)
	under.wait()
	want("quiet", 0, 0)
	b.want("02/2/040c", tRead)
	want("a late command", movedQuiet, 1)
	b.nexus.Detach()
	want("who has gone", 0, 0)
	idle.Detach()

	if again := b.target.Withdraw(func(string, UnitID) bool { return false }); again.Rest() != 0 || again.Units() != 0 {
		t.Errorf("nothing was withdrawn: %v of %d", again.Rest(), again.Units())
	}
}

// Initiators look after their paths when they test them now and then, or ask for their state; not while
// they find out what is there, nor by reading and writing.
func TestTendedPaths(t *testing.T) {
	hand := newHandClock()
	b := newClockedBed(t, hand)
	tended := func() (out []string) {
		b.target.EachTended(func(initiator string, unit UnitID) {
			if unit != bedUnit {
				t.Errorf("unit %x", unit)
			}
			out = append(out, initiator)
		})
		return out
	}
	want := func(what string, names ...string) {
		t.Helper()
		if got := tended(); !slices.Equal(got, names) {
			t.Errorf("%s: %q, want %q", what, got, names)
		}
	}
	want("no look")
	hand.advance(tendedAfter - 1)
	b.want("00", tTUR)
	b.want("00", tGroups)
	want("looks of a scan")
	hand.advance(1)
	b.want("00", tRead)
	b.want("00", "12 00 00 00 ff 00")
	want("other commands")
	b.want("00", tTUR)
	want("a test", "iqn.host-a")
	hand.advance(tendedFor)
	want("a minute later", "iqn.host-a")
	hand.advance(1)
	want("more than a minute later")
	b.want("00", tGroups)
	want("the port groups", "iqn.host-a")
	hand.advance(tendedFor + 1)
	b.target.Withdraw(func(string, UnitID) bool { return true })
	b.want("02/6/2a06", tTUR)
	b.want("02/2/040c", tTUR)
	want("a test that failed")
	b.nexus.Detach()
	want("no session")
}

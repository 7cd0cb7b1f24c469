package lease

import (
	"bytes"
	"errors"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"blockd.dev/internal/clock"
)

// Epochs only grow, refusals change nothing, and a Table survives being
// written and read, whatever was done to it.
func TestTableModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table Table
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			v := VolumeID{rapid.ByteRange(0, 3).Draw(t, "volume")}
			owner := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "owner")
			incarnation := rapid.Uint64Range(0, 2).Draw(t, "incarnation")
			epoch := rapid.Uint64Range(0, 4).Draw(t, "epoch")
			was := table.Get(v)
			var next Table
			var err error
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				next, _, err = table.Grant(v, epoch, owner, incarnation)
				if err == nil && (epoch != was.Epoch || next.Get(v) != Entry{owner, incarnation, was.Epoch + 1}) {
					t.Fatalf("grant made %+v of %+v", next.Get(v), was)
				}
			case 1:
				next, err = table.Release(v, epoch, owner, incarnation)
				if err == nil && (was != Entry{owner, incarnation, epoch} || next.Get(v) != Entry{Epoch: epoch}) {
					t.Fatalf("release made %+v of %+v", next.Get(v), was)
				}
			case 2:
				next, _, err = table.Transfer(v, epoch, owner, incarnation, "c", 1)
				if err == nil && (was != Entry{owner, incarnation, epoch} || next.Get(v) != Entry{"c", 1, epoch + 1}) {
					t.Fatalf("transfer made %+v of %+v", next.Get(v), was)
				}
			case 3:
				next, err = table.Forget(v)
				if err == nil && was.Owner != "" {
					t.Fatalf("forgot %+v", was)
				}
			}
			if err != nil && next.Hash() != table.Hash() {
				t.Fatalf("refused with %v, and changed", err)
			}
			table = next
		}
		back, written := rewrite(t, table)
		if !maps.Equal(maps.Collect(back.All()), maps.Collect(table.All())) || back.Hash() != table.Hash() {
			t.Fatal("what was read is not what was written")
		}
		if _, again := rewrite(t, back); !bytes.Equal(again, written) {
			t.Fatal("equal tables wrote different bytes")
		}
	})
}

func rewrite(t *rapid.T, table Table) (Table, []byte) {
	var b bytes.Buffer
	if n, err := table.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("wrote %d of %d bytes: %v", n, b.Len(), err)
	}
	r := bytes.NewReader(append(bytes.Clone(b.Bytes()), "more"...))
	back, err := ReadTable(r)
	if err != nil || r.Len() != len("more") {
		t.Fatalf("%d bytes left: %v", r.Len(), err)
	}
	return back, b.Bytes()
}

func TestDamageIsFound(t *testing.T) {
	table, _, _ := Table{}.Grant(VolumeID{1}, 0, "node", 1)
	var b bytes.Buffer
	if _, err := table.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	for i := range b.Len() {
		bad := bytes.Clone(b.Bytes())
		bad[i] ^= 4
		if _, err := ReadTable(bytes.NewReader(bad)); err == nil {
			t.Errorf("a flipped bit in byte %d was not found", i)
		}
		if _, err := ReadTable(bytes.NewReader(b.Bytes()[:i])); err == nil {
			t.Errorf("%d of %d bytes were read as a table", i, b.Len())
		}
	}
}

func FuzzReadTable(f *testing.F) {
	table, _, _ := Table{}.Grant(VolumeID{1}, 0, "node", 1)
	var b bytes.Buffer
	if _, err := table.WriteTo(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		table, err := ReadTable(bytes.NewReader(in))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if _, err := table.WriteTo(&out); err != nil || !bytes.HasPrefix(in, out.Bytes()) {
			t.Fatalf("read %x, wrote %x: %v", in, out.Bytes(), err)
		}
	})
}

// A volume that its owner gave back, or whose owner's process started again,
// is free at once; one that the last leader may have renewed is not.
func TestWhenAVolumeIsFree(t *testing.T) {
	cfg := Config{}.withDefaults()
	table, e, _ := Table{}.Grant(VolumeID{1}, 0, "a", 3)
	l := NewLeader(cfg, 1000)
	at := l.FreeAt(2000, table, VolumeID{1})
	if at != clock.Mono(1000).Add(cfg.wait()) {
		t.Errorf("free at %d", at)
	}
	if l.Propose(at-1, table, VolumeID{1}) || !l.Propose(at, table, VolumeID{1}) {
		t.Error("the end of the wait is not when Propose says yes")
	}
	if l.Propose(at, table, VolumeID{1}) {
		t.Error("two grants of one volume were proposed at once")
	}
	l.Settled(at, table, VolumeID{1})
	l.Heard("a", 4)
	if at := l.FreeAt(2000, table, VolumeID{1}); at != 2000 {
		t.Errorf("the owner started again, yet the volume is free at %d", at)
	}
	released, err := table.Release(VolumeID{1}, e.Epoch, "a", 3)
	if err != nil {
		t.Fatal(err)
	}
	if at := NewLeader(cfg, 1000).FreeAt(2000, released, VolumeID{1}); at != 2000 {
		t.Errorf("it was given back, yet is free at %d", at)
	}
}

// An owner may hear of its grant before the leader has applied it; its claim
// is not refused then.
func TestALeaderBehindDoesNotRefuse(t *testing.T) {
	v := VolumeID{1}
	table, e, _ := Table{}.Grant(v, 0, "a", 1)
	h := NewHolder(Config{}, "a", 1)
	lease := h.Learn(v, e)
	l := NewLeader(Config{}, 1)
	if over, _ := h.Answered(l.Renew(10, Table{}, h.Renew(10))); len(over) != 0 || lease.Valid(10) {
		t.Fatalf("over %v, valid %t", over, lease.Valid(10))
	}
	h.Answered(l.Renew(20, table, h.Renew(15)))
	if want := clock.Mono(15).Add(h.cfg.Duration - h.cfg.Margin); lease.Deadline() != want {
		t.Fatalf("the lease ends at %d, want %d: it counts from before it was sent", lease.Deadline(), want)
	}
}

func TestValidDoesNotAllocate(t *testing.T) {
	l := &Lease{}
	if n := testing.AllocsPerRun(100, func() { l.Valid(5) }); n != 0 {
		t.Errorf("Valid allocates %g times", n)
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{{Duration: 1}, {Margin: -1}, {Margin: 4e9}, {DriftPPM: 300_000}, {DriftPPM: -1}} {
		if c.Validate() == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	table, _, _ := Table{}.Grant(VolumeID{1}, 0, "a", 1)
	_, _, err := table.Grant(VolumeID{1}, 0, "b", 1)
	if !errors.Is(err, ErrEpoch) {
		t.Errorf("got %v", err)
	}
	if _, err := table.Release(VolumeID{1}, 1, "b", 1); !errors.Is(err, ErrNotOwner) {
		t.Errorf("got %v", err)
	}
	if _, err := table.Forget(VolumeID{1}); !errors.Is(err, ErrOwned) {
		t.Errorf("got %v", err)
	}
}

// What was given back is over for good, also for who kept the Lease.
func TestGiveBackIsFinal(t *testing.T) {
	v := VolumeID{1}
	table, e, _ := Table{}.Grant(v, 0, "a", 1)
	h, l := NewHolder(Config{}, "a", 1), NewLeader(Config{}, 1)
	lease := h.Learn(v, e)
	first := l.Renew(10, table, h.Renew(10))
	second := l.Renew(20, table, h.Renew(20))
	h.Answered(second)
	until := lease.Deadline()
	if h.Answered(first); lease.Deadline() != until || !lease.Valid(until-1) || lease.Valid(until) {
		t.Fatalf("an answer that came late moved the end from %d to %d", until, lease.Deadline())
	}
	late := l.Renew(30, table, h.Renew(30))
	if _, ok := h.GiveBack(v); !ok || lease.Valid(0) {
		t.Fatal("a lease that was given back is valid")
	}
	if h.Answered(late); lease.Valid(0) || h.Learn(v, e) != nil || h.Next() != clock.Never {
		t.Fatal("a late answer or an old table brought it back")
	}
}

// After a node's process started again, the old one's leases are not renewed:
// they may be somebody else's at once.
func TestAnOldIncarnationIsRefused(t *testing.T) {
	v := VolumeID{1}
	table, _, _ := Table{}.Grant(v, 0, "a", 3)
	l := NewLeader(Config{}, 1)
	l.Heard("a", 4)
	a := l.Renew(10, table, Renewal{Node: "a", Incarnation: 3, Number: 1, Claims: []Claim{{v, 1}}})
	if a.Renewed[0] != Refused {
		t.Errorf("the verdict is %d", a.Renewed[0])
	}
}

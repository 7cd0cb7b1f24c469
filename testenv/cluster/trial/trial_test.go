package trial

import (
	"errors"
	"strings"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/ram"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/testenv/cluster"
	"blockd.dev/tools/blockbench/history"
)

func TestBlocksSayWhatTheyHold(t *testing.T) {
	b := make([]byte, blockBytes)
	for _, value := range []uint64{0, 1, 1 << 40} {
		fill(b, 7, value)
		if got, err := valueOf(b, 7); got != value || err != nil {
			t.Errorf("%d, %v, want %d", got, err, value)
		}
	}
	if _, err := valueOf(b, 8); !errors.Is(err, errTorn) {
		t.Errorf("another block's data: %v", err)
	}
	fill(b[:512], 7, 3)
	if _, err := valueOf(b, 7); !errors.Is(err, errTorn) {
		t.Errorf("a torn block: %v", err)
	}
}

// TestBlocksAreApart: no two are at the same place, and all are on the volume.
func TestBlocksAreApart(t *testing.T) {
	seen := map[int64]bool{}
	for block := range int64(windows * windowBlocks) {
		at := offset(block)
		if at%blockBytes != 0 || at < 0 || at+blockBytes > volumeBytes || seen[at] {
			t.Fatalf("block %d is at %d", block, at)
		}
		seen[at] = true
	}
}

// TestNeighbours: they are beside each other, in different regions, and every eighth time in different extents.
func TestNeighbours(t *testing.T) {
	pairs, borders := 0, 0
	for block := range int64(windows * windowBlocks) {
		from, count := neighbours(block)
		if count == 1 {
			if from != block || block%windowBlocks != 0 && block%windowBlocks != windowBlocks-1 {
				t.Errorf("block %d is alone, at %d", block, from)
			}
			continue
		}
		at, next := offset(from), offset(from+1)
		if from != block && from+1 != block || next != at+blockBytes || next%regionBytes != 0 || from/windowBlocks != (from+1)/windowBlocks {
			t.Errorf("blocks %d and %d, for %d, are at %d and %d", from, from+1, block, at, next)
		}
		if pairs++; next%extmap.UnitBytes == 0 {
			borders++
		}
	}
	if pairs != windows*(windowBlocks-2) || borders != windows*(windowBlocks/8-2) {
		t.Errorf("%d blocks have a neighbour, %d of them in another extent", pairs, borders)
	}
}

// What settle writes is no window's.
func TestScratchIsApart(t *testing.T) {
	if last := offset(windows*windowBlocks - 1); last+blockBytes > scratchAt || scratchAt+scratchUnits*extmap.UnitBytes > volumeBytes {
		t.Errorf("windows end at %d, and the rest begins at %d", last, scratchAt)
	}
}

// TestWhatHostsDoIsRecorded for each block, with what they were told.
func TestWhatHostsDoIsRecorded(t *testing.T) {
	disk, err := ram.New(ram.Config{SizeBytes: volumeBytes})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	dev := &told{Device: disk}
	tr := &Trial{rec: history.NewRecorder()}
	h := tr.newHost(0, dev)
	steps := []struct {
		err error
		do  func() error
	}{
		{nil, func() error { return h.writeRun(1, 2) }},
		{nil, func() error { return h.readRun(1, 2) }},
		{nil, func() error { return h.clear(blockdev.OpUnmap, 1, 1) }},
		{nil, func() error { return h.readRun(1, 2) }},
		{blockdev.ErrNoSpace, func() error { return h.writeRun(1, 2) }},
		{blockdev.ErrNoSpace, func() error { return h.compareAndWrite(1) }},
		{nil, func() error { return h.compareAndWrite(1) }},
		{nil, func() error { return h.clear(blockdev.OpWriteZeroes, 1, 4) }},
		{nil, func() error { return h.readRun(1, 2) }},
	}
	for i, s := range steps {
		dev.err = s.err
		if err := s.do(); !errors.Is(err, s.err) {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	ops, refused := tr.rec.Ops(), 0
	for _, o := range ops {
		if o.Refused {
			refused++
		}
	}
	if v := history.Check(ops); v.Err(ops) != nil || refused != 3 || len(ops) != 2+2+1+2+2+1+1+4+2 {
		t.Errorf("%d operations, %d refused: %v", len(ops), refused, v.Err(ops))
	}
}

// told is a device that refuses what it is told to.
type told struct {
	blockdev.Device
	err error
}

func (d *told) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		if d.err != nil {
			blockdev.Complete(r, blockdev.NewError(d.err, r, -1, nil))
			continue
		}
		d.Device.Submit([]*blockdev.Request{r})
	}
}

func TestCompare(t *testing.T) {
	block := func(value uint64) []byte {
		b := make([]byte, blockBytes)
		fill(b, 1, value)
		return b
	}
	for name, c := range map[string]struct {
		a, b, c map[int64][]byte
		want    string // in the error
	}{
		"alike":    {map[int64][]byte{0: block(1), 8192: block(2)}, map[int64][]byte{0: block(1), 8192: block(2)}, map[int64][]byte{0: block(1), 8192: block(2)}, ""},
		"nothing":  {},
		"differ":   {map[int64][]byte{0: block(1)}, map[int64][]byte{0: block(1)}, map[int64][]byte{0: block(2)}, "1 of the blocks"},
		"one less": {map[int64][]byte{0: block(1)}, nil, map[int64][]byte{0: block(1)}, "n2 zeroes"},
		"one more": {nil, nil, map[int64][]byte{4096: block(1)}, "at byte 4096"},
	} {
		_, err := compare([]copied{{"n1", c.a}, {"n2", c.b}, {"n3", c.c}})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	m, err := cluster.ParseMetrics(strings.NewReader("# HELP up a\nup{disk=\"a b\"} 1\nup{disk=\"c\"} 1\nup_to 5\nplain 2.5e3\n"))
	if err != nil || sum(m, "up") != 2 || sum(m, "plain") != 2500 || sum(m, "up_t") != 0 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := cluster.ParseMetrics(strings.NewReader("plain x\n")); err == nil {
		t.Error("x was taken for a number")
	}
}

func TestPauses(t *testing.T) {
	var p Pauses
	if p.At(0.5) != 0 {
		t.Error("a pause where there was none")
	}
	for i := range 100 {
		p = append(p, time.Duration(i+1)*time.Millisecond)
	}
	if s := p.String(); !strings.Contains(s, "p50 51ms, p99 100ms, longest 100ms") {
		t.Error(s)
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		pause, goal time.Duration
		want        string
	}{{time.Second, 0, ""}, {time.Second, time.Second, " (goal 1s: met)"}, {2 * time.Second, time.Second, " (goal 1s: missed)"}} {
		if got := Judge(c.pause, c.goal); got != c.want {
			t.Errorf("%v of %v: %q", c.pause, c.goal, got)
		}
	}
}

func TestInSync(t *testing.T) {
	copyOn := func(node, state string) *blockdv1.Replica { return &blockdv1.Replica{Node: node, State: state} }
	good := &blockdv1.Volume{Node: "n1", Replicas: []*blockdv1.Replica{copyOn("n1", "in-sync"), copyOn("n2", "in-sync"), copyOn("n3", "in-sync")}}
	if err := inSync(good); err != nil {
		t.Error(err)
	}
	bad := &blockdv1.Volume{Node: "n1", Replicas: []*blockdv1.Replica{copyOn("n1", "in-sync"), copyOn("n2", "rebuilding"), copyOn("n3", "in-sync")}}
	if err := inSync(bad); err == nil || !strings.Contains(err.Error(), "n2 is rebuilding") {
		t.Error(err)
	}
	good.Node = ""
	if inSync(good) == nil {
		t.Error("a volume that nobody owns is as it should be")
	}
}

// TestFaultsHaveNames that tell them apart, since they are chosen by name.
func TestFaultsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Faults {
		if f.Name == "" || seen[f.Name] || f.Begin == nil || f.Lasts < 0 {
			t.Errorf("%+v", f)
		}
		seen[f.Name] = true
	}
}

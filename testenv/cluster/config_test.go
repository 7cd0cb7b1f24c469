package cluster

import (
	"container/heap"
	"math"
	"path/filepath"
	"testing"
	"time"
)

// TestStateIsFoundAgain: what is saved is what another process loads, and not
// from another place.
func TestStateIsFoundAgain(t *testing.T) {
	dir := t.TempDir()
	c, err := Config{Dir: dir, BinDir: dir}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := newState(c, "bd123456")
	s.nodes()[1].Process = Process{PID: 1, Start: math.MaxUint64, Boot: "b"}
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	got, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Places) != 4 || got.nodes()[1].Process != s.nodes()[1].Process || got.nodes()[2].API != "10.77.0.3:7480" || got.Prefix != s.Prefix {
		t.Errorf("loaded %+v", got)
	}
	if _, err := got.find("n4"); err == nil {
		t.Error("found a node that there is not")
	}
	if _, err := got.pick([]string{HostName}); err == nil {
		t.Error("took the initiators' place for a node")
	}
	if _, err := load(filepath.Dir(dir)); err == nil {
		t.Error("found a cluster where there is none")
	}
}

// TestConfigIsChecked names what is wrong.
func TestConfigIsChecked(t *testing.T) {
	for name, c := range map[string]Config{
		"no directory":     {},
		"too many nodes":   {Dir: "/x", Nodes: nodesMax + 1},
		"too many disks":   {Dir: "/x", Disks: disksMax + 1},
		"tiny disk":        {Dir: "/x", DiskSize: 4096},
		"crooked disk":     {Dir: "/x", DiskSize: 1<<30 + 1},
		"MTU below IPv6's": {Dir: "/x", MTU: 1279},
		"no programs":      {Dir: "/x", BinDir: "/nowhere"},
	} {
		d, err := c.withDefaults()
		if err == nil {
			err = d.validate()
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestChance is of 2^32, which no random number reaches.
func TestChance(t *testing.T) {
	for percent, want := range map[float64]uint64{0: 0, 100: 1 << 32, 50: 1 << 31} {
		if got, err := chance(percent); err != nil || got != want {
			t.Errorf("chance(%v) = %d, %v; want %d", percent, got, err, want)
		}
	}
	for _, percent := range []float64{-1, 100.1, math.NaN()} {
		if _, err := chance(percent); err == nil {
			t.Errorf("chance(%v) was accepted", percent)
		}
	}
}

// TestLateFramesComeInOrder of their times, and as they came for equal times.
func TestLateFramesComeInOrder(t *testing.T) {
	at := time.Now()
	var h dueHeap
	for i, after := range []time.Duration{3, 1, 2, 1, 3} {
		heap.Push(&h, lateFrame{due: at.Add(after), nth: uint64(i)})
	}
	for i, want := range []uint64{1, 3, 2, 0, 4} {
		if got := heap.Pop(&h).(lateFrame).nth; got != want {
			t.Errorf("frame %d is number %d, want %d", i, got, want)
		}
	}
}

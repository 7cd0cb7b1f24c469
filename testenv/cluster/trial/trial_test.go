package trial

import (
	"errors"
	"strings"
	"testing"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
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

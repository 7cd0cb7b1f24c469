package cli

import (
	"strings"
	"testing"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

// What is to say of copies whose machines went down is in what `volume show` prints, and nothing of it of others.
func TestDoubtOfCopiesIsShown(t *testing.T) {
	v := viewVolume(&blockdv1.Volume{Name: "v", UnsureBytes: 64 << 20, Replicas: []*blockdv1.Replica{
		{Number: 1, State: "in-sync", Unproven: true, LostRegions: 3},
		{Number: 2, State: "in-sync", Awaited: true},
		{Number: 3, State: "in-sync", LostWrites: 7},
		{Number: 4, State: "in-sync"},
	}})
	var doubts []string
	for _, row := range volumeDetail(v) {
		if row[0] == "doubt" {
			doubts = append(doubts, row[1])
		}
	}
	got := strings.Join(doubts, "\n")
	for _, want := range []string{"disk 1 is unproven", "disk 1 is unproven: its machine went down, and it is yet to be held against other copies; it had lost 3 regions",
		"disk 2 is awaited", "disk 3 came back without about 7 writes"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if len(doubts) != 3 || v.Unsure != 64<<20 {
		t.Errorf("%d lines, %d bytes:\n%s", len(doubts), v.Unsure, got)
	}
}

package cli

import (
	"strings"
	"testing"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

// What keeps a copy out of sync is in what `volume show` prints while it is so, and in JSON also later.
func TestObstaclesOfCopiesAreShown(t *testing.T) {
	v := viewVolume(&blockdv1.Volume{Name: "v", Replicas: []*blockdv1.Replica{
		{Number: 1, State: "out", Obstacle: &blockdv1.Obstacle{What: "slow", Now: true, Times: 2, Since: when, TookMs: 350.04, OthersMs: 9.02, Again: "2026-03-04T05:06:39.5Z"}},
		{Number: 2, State: "rebuilding", Obstacle: &blockdv1.Obstacle{What: "full", Now: true, Times: 1, Since: when}},
		{Number: 3, State: "out", Obstacle: &blockdv1.Obstacle{What: "hung", Now: true, Times: 1, Since: when, TookMs: 1500}},
		{Number: 4, State: "in-sync", Obstacle: &blockdv1.Obstacle{What: "silent", Times: 1, Since: when, TookMs: 500}},
		{Number: 5, State: "in-sync"},
	}})
	var got []string
	for _, row := range volumeDetail(v) {
		if row[0] == "obstacle" {
			got = append(got, row[1])
		}
	}
	want := []string{
		"disk 1 is slow: hosts' writes took 350.040ms there, 9.020ms at most elsewhere, since 2026-03-04T05:06:07Z, tried again at 2026-03-04T05:06:39Z",
		"disk 2 is full: no space for what it is to have, since 2026-03-04T05:06:07Z",
		"disk 3 is hung: no answer for 1500.000ms, since 2026-03-04T05:06:07Z",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("shown:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if b := v.Replicas[3].Obstacle; b == nil || b.Times != 1 || v.Replicas[4].Obstacle != nil {
		t.Errorf("in JSON: %+v, %+v; want what was, and nothing", b, v.Replicas[4].Obstacle)
	}
}

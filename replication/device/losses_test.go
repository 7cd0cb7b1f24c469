package device

import (
	"maps"
	"testing"

	"blockd.dev/replication/volume"
)

// What owners have found adds up, and is told once, whatever is looked at while one follows another.
func TestLossesAddUp(t *testing.T) {
	owner := func(disks []uint16, regions ...int64) standing {
		s := standing{disks: disks}
		for _, n := range regions {
			s.Members = append(s.Members, volume.MemberStatus{LostRegions: n, LostWrites: uint64(2 * n)})
		}
		return s
	}
	var l losses
	var told Losses
	look := func(now standing, want Losses) {
		t.Helper()
		all := l.with(now)
		if more := all.Since(told); !maps.Equal(more, want) {
			t.Errorf("%v since %v, want %v", more, told, want)
		}
		told = all
	}
	first, second := owner([]uint16{7, 8}, 0, 3), owner([]uint16{8, 9}, 1, 2)
	look(standing{}, Losses{})
	look(first, Losses{8: {3, 6}})
	look(second, Losses{9: {2, 4}}) // the first drains yet
	l.add(first)
	look(second, Losses{8: {1, 2}})
	l.add(second)
	look(standing{}, Losses{})
	look(owner([]uint16{9}, 1), Losses{9: {1, 2}})
}

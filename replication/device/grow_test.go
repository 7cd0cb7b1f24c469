package device_test

import (
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/replication/device"
	"blockd.dev/replication/volume"
)

// A volume may grow before its owner is told who keeps the new extents, or get its owner with
// members of before. Both show in the catalog, and who makes the volume grow may have looked there later.
func TestVolumeGrowsBeforeItsMembersAreTold(t *testing.T) {
	members := func(revision uint64, extents int64) device.Members {
		return device.Members{View: volume.View{Revision: revision, Epoch: 1, Members: []volume.Member{{Sync: volume.InSync}}}, Disks: []uint16{10},
			Sets: func(extent int64) []int {
				if extent >= extents {
					return nil
				}
				return []int{0}
			}}
	}
	for _, c := range []struct {
		name  string
		steps func(s *stage)
	}{
		{"with an owner", func(s *stage) { s.ownAs(members(1, 2)); s.grow() }},
		{"without an owner", func(s *stage) { s.grow(); s.ownAs(members(1, 2)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, time.Hour)
			s.atOnce = true
			c.steps(s)
			s.v.View(members(2, 4))
			done := make(chan struct{})
			s.v.Submit([]*blockdev.Request{{Op: blockdev.OpWrite, Offset: volumeBytes, Length: 4096, Data: [][]byte{make([]byte, 4096)}, Done: func(r *blockdev.Request) {
				if r.Err != nil {
					t.Error(r.Err)
				}
				close(done)
			}}})
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Error("a write to what has grown waits for ever")
			}
		})
	}
}

func (s *stage) ownAs(m device.Members) {
	s.t.Helper()
	l := &testLease{}
	l.until.Store(int64(s.Now().Add(time.Hour)))
	if err := s.v.Own(l, 0, m, 0); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) grow() {
	s.t.Helper()
	if err := s.v.Grow(2*volumeBytes, appended{}); err != nil {
		s.t.Fatal(err)
	}
}

// appended is striped{2} and as much again behind it, on two more extents.
type appended struct{}

func (appended) SizeBytes() int64 { return 2 * volumeBytes }

func (appended) Locate(addr int64) (extent uint32, offset, run int64) {
	extent, offset, run = striped{2}.Locate(addr % volumeBytes)
	return extent + 2*uint32(addr/volumeBytes), offset, run
}

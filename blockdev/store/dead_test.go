package store

import (
	"bytes"
	"testing"

	"blockd.dev/blockdev/disk/sim"
)

// A volume that is deleted while a checkpoint goes on is there in what that commits, as it was when it began: what
// follows in the log, up to its end, is done once more after a crash.
func TestVolumeIsDeletedDuringACheckpoint(t *testing.T) {
	const bufs = 256
	d := sim.New(32<<20, sim.Options{})
	f := testFormat()
	f.LogBytes = 4 << 20 // the buffers are what the checkpoint is done for
	if err := Format(d, f); err != nil {
		t.Fatal(err)
	}
	opts := Options{DirtyBytes: bufs * BlockBytes, PagesMax: 64, InFlight: 3}
	s, err := Open(d, opts)
	if err != nil {
		t.Fatal(err)
	}
	id := VolumeID{9}
	v, err := s.OpenVolume(id)
	if err != nil {
		t.Fatal(err)
	}
	running := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.mu.ck.running
	}
	for i := int64(0); !running(); i++ {
		if err := write(s, v, 2*i*BlockBytes, fill(BlockBytes, uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	from := d.Events()
	s.CloseVolume(v)
	if err := s.DeleteVolume(id); err != nil {
		t.Fatal(err)
	}
	if !running() {
		t.Fatal("the checkpoint was over before the volume was: this tells nothing")
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	for n := from; n <= d.Events(); n++ {
		for policy := range sim.Policy(sim.Policies) {
			img := d.Cut(n, policy, 1)
			again, err := Open(img, opts)
			if err != nil {
				t.Fatalf("cut after %d of %d to %d events, %v: %v", n, from, d.Events(), policy, err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if r, err := Check(img, &out); err != nil || r.Problems > 0 {
				t.Fatalf("cut after %d events, %v: %v %s", n, policy, err, &out)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

package nvmetcp_test

import (
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/devtest"
	"blockd.dev/target/nvmetcp"
)

// The reader of a connection waits itself for what a read that is alone waits for; for
// nothing else.
func TestReaderAttendsReadsThatAreAlone(t *testing.T) {
	var dev *devtest.Attending
	b := newBedOf(t, nvmetcp.Limits{}, nil, func(d blockdev.Device) blockdev.Device {
		dev = &devtest.Attending{Device: d}
		return dev
	})
	n := b.namespace(b.dial(b.config()))
	p := make([]byte, 4096)
	p[0] = 7
	if err := blockdev.WriteAt(n, p, 4096); err != nil {
		t.Fatal(err)
	}
	if count, _ := dev.Attends(); count != 0 {
		t.Fatalf("a write was attended")
	}
	const reads = 20
	for range reads {
		clear(p)
		if err := blockdev.ReadAt(n, p, 4096); err != nil || p[0] != 7 {
			t.Fatalf("%d, %v", p[0], err)
		}
	}
	if count, _ := dev.Attends(); count != reads {
		t.Errorf("of %d reads one after the other %d were attended", reads, count)
	}
}

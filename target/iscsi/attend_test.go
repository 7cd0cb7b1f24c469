package iscsi

import (
	"testing"

	"blockd.dev/blockdev/devtest"
)

// The reader of a connection waits itself for what a read that is alone waits for; for
// nothing else.
func TestReaderAttendsReadsThatAreAlone(t *testing.T) {
	r := newRig(t, nil)
	dev := r.gate.Device.(*devtest.Attending)
	i := r.session().settle()
	data := pattern(512, 3)
	if resp := i.write10(5, data, 512); resp.Status != 0 {
		t.Fatalf("write: status %#x", resp.Status)
	}
	if count, _ := dev.Attends(); count != 0 {
		t.Fatalf("a write was attended")
	}
	const reads = 20
	for range reads {
		if got := i.read(5, 1); string(got) != string(data) {
			t.Fatal("other data was read than was written")
		}
	}
	if count, _ := dev.Attends(); count != reads {
		t.Fatalf("of %d reads one after the other %d were attended", reads, count)
	}
	a, b := i.command(rw10(opRead10, 5, 1), 512), i.command(rw10(opRead10, 6, 1), 512)
	a.Read, b.Read = true, true
	i.write(append(i.encode(a.Append(nil), nil), i.encode(b.Append(nil), nil)...))
	i.result(a)
	i.result(b)
	if count, _ := dev.Attends(); count != reads {
		t.Error("one of two reads that came together was attended")
	}
}

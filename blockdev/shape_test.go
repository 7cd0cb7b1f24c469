package blockdev_test

import (
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/ram"
)

// A Shape that is refreshed by a Watch tells what Geometry does.
func TestShapeFollowsADevice(t *testing.T) {
	d, err := ram.New(ram.Config{SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var s blockdev.Shape
	s.Refresh(d)
	stop := d.Watch(func(blockdev.Change) { s.Refresh(d) })
	defer stop()
	for _, change := range []func(){
		func() {},
		func() {
			if err := d.Resize(2 << 20); err != nil {
				t.Fatal(err)
			}
		},
		func() { d.SetReadOnly(true) },
		func() {
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		change()
		if got, want := *s.Get(), d.Geometry(); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

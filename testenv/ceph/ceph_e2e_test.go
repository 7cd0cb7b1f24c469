//go:build e2e

package ceph

import (
	"path/filepath"
	"testing"
	"time"
)

// TestRealCeph writes and reads an image of the installed Ceph.
func TestRealCeph(t *testing.T) {
	if err := Missing(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := Up(t.Context(), Config{Dir: filepath.Join(t.TempDir(), "ceph"), OSDSize: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.CreateImage(t.Context(), "bench", 64<<20); err != nil {
		t.Fatal(err)
	}
	for _, l := range []Load{
		{Write: true, Sequential: true, BlockBytes: 1 << 20, Depth: 4},
		{Write: true, BlockBytes: 4096, Depth: 1, Runtime: time.Second},
		{BlockBytes: 4096, Depth: 32, Runtime: time.Second},
	} {
		s, err := c.Run(t.Context(), "bench", l)
		if err != nil || s.P99 < s.P50 || s.P50 == 0 {
			t.Errorf("%+v: %+v, %v", l, s, err)
		}
		t.Logf("%+v: %+v", l, s)
	}
}

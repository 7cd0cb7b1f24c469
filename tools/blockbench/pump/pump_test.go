package pump

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Both ways move units of any size, in both directions, and end.
func TestPumpsMoveBytes(t *testing.T) {
	for _, spin := range []bool{false, true} {
		for i, s := range []Shape{{72, 4120, 1}, {72, 4120, 32}, {4168, 24, 16}, {72, 128<<10 + 24, 8}, {300 << 10, 1, 2}} {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- Serve(ctx, ln, s, int64(i)<<20, spin, func() {}) }()
			res, err := Run(ctx, Bare(ln.Addr().String(), s), s, 2, 50*time.Millisecond, spin)
			cancel()
			if err := <-served; err != nil {
				t.Error(err)
			}
			if err != nil || res.Ops < 2 || res.P50 <= 0 || res.P99 < res.P50 {
				t.Errorf("%+v, spinning %v: %+v, %v", s, spin, res, err)
			}
		}
	}
	if _, err := Run(t.Context(), Bare("127.0.0.1:1", Shape{}), Shape{}, 1, time.Second, false); err == nil {
		t.Error("an empty shape was taken")
	}
}

// Units are counted right however reads cut them.
func TestUnitsAreCounted(t *testing.T) {
	p := peer{in: 10}
	total := 0
	for _, n := range []int{3, 3, 3, 1, 25, 5, 0, 9, 1} {
		total += p.took(n)
	}
	if total != 5 || p.partial != 0 {
		t.Errorf("%d units, %d bytes left", total, p.partial)
	}
}

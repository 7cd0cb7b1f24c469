package rawbench

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/afxdp/netlab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open makes both ends of a veth pair, closed when the test ends.
func open(t testing.TB, mtu int, generic bool) (a, b *End) {
	t.Helper()
	lab, err := netlab.New(netlab.Config{MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lab.Close)
	for i, h := range []*netlab.Host{lab.A, lab.B} {
		c := Config{Interface: h.Device, Local: lab.A.IPv4, Peer: lab.B.IPv4, Port: 7701, Generic: generic}
		if i == 1 {
			c.Local, c.Peer = c.Peer, c.Local
		}
		var e *End
		if err := h.Do(func() (err error) { e, err = Open(c); return }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		a, b = b, e
	}
	return a, b
}

// TestMeasures: frames go to and fro, spinning and sleeping, and one way, in
// one chunk and in several, and the figures add up.
func TestMeasures(t *testing.T) {
	const d = 150 * time.Millisecond
	for _, generic := range []bool{false, true} {
		a, b := open(t, 9000, generic)
		for _, w := range []Wait{Spin, Sleep} {
			for _, n := range []int{64, 5000} {
				l, err := PingPong(a, b, n, w, d)
				if err != nil || l.Trips == 0 || l.P50 <= 0 || l.P50 > l.P99 {
					t.Errorf("generic %v, wait %v, %d bytes: %+v, %v", generic, w, n, l, err)
				}
				t.Logf("generic %v, wait %v, %d bytes: %+v", generic, w, n, l)
			}
		}
		for _, n := range []int{64, 9014} {
			r, err := Pump(a, b, n, d)
			if err != nil || r.Received == 0 || r.Received > r.Sent || r.Elapsed < d {
				t.Errorf("generic %v, %d bytes: %+v, %v", generic, n, r, err)
			}
			t.Logf("generic %v, %d bytes: %.3g Mpps, %.3g Gbit/s", generic, n, r.PacketsPerSecond()/1e6, r.BitsPerSecond()/1e9)
			// What is still on its way does not count for the next.
			if _, err := b.drain(1 << 20); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestFrameLengthsAreChecked(t *testing.T) {
	a, b := open(t, 1500, false)
	for _, n := range []int{0, 42, 1515} {
		if _, err := Pump(a, b, n, time.Millisecond); err == nil {
			t.Errorf("a frame of %d bytes was sent", n)
		}
	}
	if _, err := Open(Config{Interface: "no-such"}); err == nil || !strings.Contains(err.Error(), "no-such") {
		t.Error(err)
	}
}

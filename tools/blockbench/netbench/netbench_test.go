package netbench

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/internal/adaptive"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var here = netip.MustParseAddrPort("127.0.0.1:0")

// serve runs a server for as long as the test goes on.
func serve(t *testing.T, s Shape) netip.AddrPort {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() { ended <- Serve(ctx, s, nil, func(a netip.AddrPort) { ready <- a }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	select {
	case a := <-ready:
		return a
	case err := <-ended:
		t.Fatalf("server: %v", err)
	}
	return netip.AddrPort{}
}

// Every kind that needs no interface answers, at every depth that it can.
func TestEveryKindMeasures(t *testing.T) {
	for _, kind := range []string{"udp", "tcp", "tls", "udp-bare"} {
		t.Run(kind, func(t *testing.T) {
			s := Shape{Kind: kind, Local: here, Poll: adaptive.Interrupt, Request: 4096, Reply: 64, Key: "test"}
			addr := serve(t, s)
			for _, depth := range []int{1, 32} {
				l := Load{Peer: addr, Depth: depth, Warmup: 10 * time.Millisecond, Runtime: 50 * time.Millisecond}
				r, err := Run(context.Background(), s, l)
				if kind == "udp-bare" && depth > 1 {
					if err == nil {
						t.Error("datagrams that nobody repeats, 32 in flight")
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if r.Messages < 1 || r.All < r.Messages || r.P50 <= 0 || r.P50 > r.P99 || r.P99 > r.Max || r.PerSec <= 0 {
					t.Errorf("depth %d: %+v", depth, r)
				}
			}
		})
	}
}

func TestBulkMessages(t *testing.T) {
	for _, kind := range []string{"udp", "tcp", "tls"} {
		s := Shape{Kind: kind, Local: here, Request: 1 << 20, Reply: 64, Key: "test"}
		l := Load{Peer: serve(t, s), Depth: 8, Runtime: 50 * time.Millisecond}
		r, err := Run(context.Background(), s, l)
		if err != nil || r.Messages < 1 || r.MBps <= 0 {
			t.Errorf("%s: %v, %+v", kind, err, r)
		}
	}
}

// Ends whose sizes differ would wait for each other; they are told instead, and the server goes on.
func TestOtherSizesAreRefused(t *testing.T) {
	for _, kind := range []string{"tcp", "tls"} {
		s := Shape{Kind: kind, Local: here, Request: 4096, Reply: 64, Key: "test"}
		l := Load{Peer: serve(t, s), Depth: 1, Runtime: time.Millisecond}
		for _, other := range []Shape{
			{Kind: kind, Local: here, Request: 64, Reply: 64, Key: "test"},
			{Kind: kind, Local: here, Request: 4096, Reply: 128, Key: "test"},
		} {
			if r, err := Run(t.Context(), other, l); err == nil || !strings.Contains(err.Error(), "takes requests of 4096 bytes and replies with 64") {
				t.Errorf("%s, %d and %d bytes: %+v, %v", kind, other.Request, other.Reply, r, err)
			}
		}
		if _, err := Run(t.Context(), s, l); err != nil {
			t.Errorf("%s, after others: %v", kind, err)
		}
	}
}

func TestIdleIsMeasured(t *testing.T) {
	s := Shape{Kind: "udp", Local: here, Request: 64, Reply: 64, Key: "test"}
	r, err := Run(context.Background(), s, Load{Peer: serve(t, s), Depth: 1, Runtime: 50 * time.Millisecond, Idle: true})
	if err != nil || r.Messages != 0 || r.Elapsed < 50*time.Millisecond {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestShapeIsChecked(t *testing.T) {
	good := Shape{Kind: "udp", Request: 1, Reply: 1}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, s := range map[string]Shape{
		"no kind":       {Request: 1, Reply: 1},
		"no bytes":      {Kind: "udp", Reply: 1},
		"too many":      {Kind: "tcp", Request: 1 << 21, Reply: 1},
		"no interface":  {Kind: "xdp", Request: 1, Reply: 1},
		"long datagram": {Kind: "udp-bare", Request: 1 << 17, Reply: 1},
	} {
		if s.Validate() == nil {
			t.Errorf("%s: %+v is taken", name, s)
		}
	}
	if _, err := Run(context.Background(), good, Load{}); err == nil {
		t.Error("nothing in flight is taken")
	}
}

func TestGoalsCompareTheRightCases(t *testing.T) {
	r := Report{Raw: Raw{PingPong: 4 * time.Microsecond, MBps: 1000}}
	add := func(name, kind, poll string, change func(*Case)) {
		c := Case{Name: name, Result: Result{Kind: kind, Carrier: kind, Poll: poll}}
		change(&c)
		r.Cases = append(r.Cases, c)
	}
	add("one", "xdp", "busy", func(c *Case) { c.P50 = 8 * time.Microsecond })
	add("one", "tcp", "", func(c *Case) { c.P50 = 16 * time.Microsecond })
	add("many", "xdp", "adaptive", func(c *Case) { c.PerCPU = 300 })
	add("many", "tcp", "", func(c *Case) { c.PerCPU = 100 })
	add("idle", "udp", "adaptive", func(c *Case) { c.CPU, c.PeerCPU = 0.0625, 0.0375 })
	got := map[string]Goal{}
	for _, g := range goals(r) {
		got[g.Name] = g
	}
	for name, want := range map[string]Goal{
		"4 KiB round trip, xdp busy, of raw AF_XDP's":          {Value: 2, Met: true},
		"4 KiB round trip, xdp busy, of TCP's":                 {Value: 0.5, Met: false},
		"32 in flight, xdp, messages per CPU second, of TCP's": {Value: 3, Met: true},
		"idle connection, udp, both sides, of a core":          {Value: 0.1, Met: false},
		"1 MiB messages, xdp, of raw AF_XDP's rate":            {Value: 0, Met: false}, // not measured is not met
	} {
		if g, ok := got[name]; !ok || g.Value != want.Value || g.Met != want.Met {
			t.Errorf("%s: %+v, want %+v", name, g, want)
		}
	}
	r.Goals = goals(r)
	var out bytes.Buffer
	if err := WriteTable(&out, r); err != nil || !strings.Contains(out.String(), "NOT MET") || !strings.Contains(out.String(), "idle") {
		t.Errorf("%v: %s", err, out.String())
	}
}

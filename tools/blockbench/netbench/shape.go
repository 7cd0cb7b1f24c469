package netbench

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"blockd.dev/internal/adaptive"
	"blockd.dev/replication/wire"
)

// Kinds lists what can carry the requests: Links with the node wire on top,
// first, then the kernel's own.
var Kinds = []string{"xdp", "xdp-zerocopy", "xdp-copy", "xdp-generic", "udp", "tcp", "tls", "udp-bare"}

// Shape is what is measured, and how both sides are set up for it.
type Shape struct {
	Kind      string // one of Kinds
	Interface string // xdp: which has the address
	Local     netip.AddrPort
	Poll      adaptive.Mode // of the node wire
	NoOffload bool          // udp: one datagram per message to the kernel
	Request   int           // bytes
	Reply     int           // bytes
	// Key makes both sides' certificates. Who knows it can connect.
	Key string
}

// Load is what Run does.
type Load struct {
	Peer    netip.AddrPort
	Depth   int           // requests in flight
	Warmup  time.Duration // before the measurement
	Runtime time.Duration
	Idle    bool // instead: connect, ask nothing for Runtime, and say what it costs
}

// Result is what Run measured.
type Result struct {
	Kind     string        `json:"kind"`
	Carrier  string        `json:"carrier"` // what an xdp Link came to be
	Poll     string        `json:"poll,omitempty"`
	Depth    int           `json:"depth"`
	Request  int           `json:"request_bytes"`
	Reply    int           `json:"reply_bytes"`
	Messages int64         `json:"messages"`
	Elapsed  time.Duration `json:"elapsed_ns"`
	PerSec   float64       `json:"messages_per_second"`
	MBps     float64       `json:"megabytes_per_second"` // of requests
	P50      time.Duration `json:"p50_ns"`
	P90      time.Duration `json:"p90_ns"`
	P99      time.Duration `json:"p99_ns"`
	Max      time.Duration `json:"max_ns"`
	All      int64         `json:"all_messages"` // with those of the warm-up
	// CPU is what this side used in the measured time, of one core.
	CPU float64 `json:"cpu"`
	// PeerCPU is what the other side used; measured when idle only.
	PeerCPU float64 `json:"peer_cpu,omitempty"`

	Wire wire.Stats `json:"wire"` // of the node wire, for as long as it was up
	// Polling says how this side's pump waited: how often it saw what it polled
	// for, gave up, and was woken, and what it has learned to poll for.
	Polling adaptive.Stats `json:"polling"`
}

// Validate reports what is wrong with s.
func (s *Shape) Validate() error {
	switch {
	case !slices.Contains(Kinds, s.Kind):
		return fmt.Errorf("kind %q: give %s", s.Kind, strings.Join(Kinds, ", "))
	case s.Request < 1 || s.Request > wire.MessageMax || s.Reply < 1 || s.Reply > wire.MessageMax:
		return fmt.Errorf("requests of %d bytes and replies of %d: give 1 to %d", s.Request, s.Reply, wire.MessageMax)
	case s.isXDP() && s.Interface == "":
		return fmt.Errorf("kind %s needs an interface", s.Kind)
	case s.Kind == "udp-bare" && max(s.Request, s.Reply) > 60000:
		return fmt.Errorf("kind udp-bare sends single datagrams: give lengths up to 60000 bytes")
	}
	return nil
}

func (s *Shape) isXDP() bool { return strings.HasPrefix(s.Kind, "xdp") }

// isNode tells whether the node wire is on top.
func (s *Shape) isNode() bool { return s.isXDP() || s.Kind == "udp" }

// meter counts messages; one goroutine uses it.
type meter struct {
	start, end time.Time // of the measured time
	startCPU   time.Duration
	began      bool
	trips      *hdrhistogram.Histogram
	all        int64
	last       time.Time
}

func newMeter(l Load) *meter {
	start := time.Now().Add(l.Warmup)
	return &meter{start: start, end: start.Add(l.Runtime), trips: hdrhistogram.New(1, int64(time.Minute), 3)}
}

// done notes a message that was sent at the given time. It returns now, and
// whether to go on: until the time is over, and at least one was measured.
func (m *meter) done(sent time.Time) (now time.Time, goOn bool) {
	now = time.Now()
	m.all++
	if now.Before(m.start) {
		return now, true
	}
	if !m.began { // this one ends the warm-up
		m.began, m.start, m.startCPU = true, now, cpuTime()
		return now, true
	}
	_ = m.trips.RecordValue(min(int64(now.Sub(sent)), int64(time.Minute)))
	m.last = now
	return now, now.Before(m.end)
}

func (m *meter) result(s Shape, l Load) Result {
	elapsed := m.last.Sub(m.start)
	r := Result{
		Kind: s.Kind, Carrier: s.Kind, Depth: l.Depth, Request: s.Request, Reply: s.Reply,
		Messages: m.trips.TotalCount(), All: m.all, Elapsed: elapsed,
		P50: time.Duration(m.trips.ValueAtQuantile(50)), P90: time.Duration(m.trips.ValueAtQuantile(90)),
		P99: time.Duration(m.trips.ValueAtQuantile(99)), Max: time.Duration(m.trips.Max()),
	}
	if elapsed > 0 {
		r.PerSec = float64(r.Messages) / elapsed.Seconds()
		r.MBps = r.PerSec * float64(s.Request) / 1e6
		r.CPU = (cpuTime() - m.startCPU).Seconds() / elapsed.Seconds()
	}
	return r
}

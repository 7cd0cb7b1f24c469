package netbench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"blockd.dev/afxdp/netlab"
	"blockd.dev/afxdp/rawbench"
	"blockd.dev/bpf/fault"
)

// Suite compares all kinds over a veth pair between two network namespaces.
// It needs root.
type Suite struct {
	Self    string        // the blockbench binary
	MTU     int           // of the wire; default 9000
	Rounds  int           // of each case; the median counts
	Runtime time.Duration // of a round
	Logf    func(format string, args ...any)
}

// Report is what a Suite found.
type Report struct {
	MTU   int    `json:"mtu"`
	Raw   Raw    `json:"raw_af_xdp"`
	Cases []Case `json:"cases"`
	Goals []Goal `json:"goals"`
}

// Raw is what AF_XDP itself does on this wire, without headers or a transport.
type Raw struct {
	PingPong time.Duration `json:"ping_pong_p50_ns"` // one frame to and fro, both ends spinning
	Frame    int           `json:"frame_bytes"`      // of the ping-pong
	MBps     float64       `json:"megabytes_per_second"`
	Bulk     int           `json:"bulk_frame_bytes"`
	PerCPU   float64       `json:"bulk_frames_per_cpu_second"` // of both ends together
}

// Case is one measurement.
type Case struct {
	Name string `json:"name"`
	Result
	// PerCPU is messages per second of CPU time of both sides together.
	PerCPU float64 `json:"messages_per_cpu_second"`
}

// Goal is a ratio that should be reached.
type Goal struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Goal  float64 `json:"goal"`
	Most  bool    `json:"at_most"` // else at least
	Met   bool    `json:"met"`
}

// The cases' shapes.
const (
	small       = 4096
	answer      = 64
	bulk        = 1 << 20
	port        = 4429
	lossPercent = 1
)

// run is a case to be measured.
type run struct {
	name    string
	kind    string
	poll    string
	depth   int
	request int
	loss    bool
	idle    bool
	offload bool // leave to the kernel what it can do for UDP
	cut     bool // no packet is longer than the MTU: see netlab.Config.Cut
}

func cases() (all []run) {
	for _, k := range []struct{ kind, poll string }{
		{"xdp", "busy"}, {"xdp", "adaptive"}, {"udp", "busy"}, {"udp", "adaptive"}, {"tcp", ""}, {"tls", ""}, {"udp-bare", ""},
	} {
		all = append(all, run{name: "one", kind: k.kind, poll: k.poll, depth: 1, request: small, offload: true})
	}
	for _, k := range []struct{ kind, poll string }{
		{"xdp", "adaptive"}, {"xdp", "interrupt"}, {"udp", "adaptive"}, {"udp", "interrupt"}, {"tcp", ""}, {"tls", ""},
	} {
		all = append(all, run{name: "many", kind: k.kind, poll: k.poll, depth: 32, request: small, offload: true})
	}
	for _, k := range []struct{ kind, poll string }{{"udp", "adaptive"}, {"tcp", ""}, {"tls", ""}} {
		all = append(all, run{name: "many, cut", kind: k.kind, poll: k.poll, depth: 32, request: small, offload: true, cut: true})
	}
	for _, k := range []struct{ kind, poll string }{{"xdp", "adaptive"}, {"udp", "adaptive"}, {"tcp", ""}, {"tls", ""}} {
		all = append(all, run{name: "bulk", kind: k.kind, poll: k.poll, depth: 8, request: bulk, offload: true})
	}
	// Over a bridge, at one of whose ports datagrams get lost; both ways alike.
	for _, kind := range []string{"xdp", "udp"} {
		all = append(all,
			run{name: "lossless", kind: kind, poll: "adaptive", depth: 32, request: small},
			run{name: "loss", kind: kind, poll: "adaptive", depth: 32, request: small, loss: true})
	}
	for _, kind := range []string{"xdp", "udp"} {
		all = append(all, run{name: "idle", kind: kind, poll: "adaptive", depth: 1, request: small, idle: true, offload: true})
	}
	return all
}

// Run measures everything, and takes down what it has made.
func (s Suite) Run(ctx context.Context) (Report, error) {
	if s.MTU == 0 {
		s.MTU = 9000
	}
	report := Report{MTU: s.MTU}
	lab, err := netlab.New(netlab.Config{MTU: s.MTU})
	if err != nil {
		return report, err
	}
	defer lab.Close()
	s.Logf("raw AF_XDP")
	if report.Raw, err = s.raw(lab); err != nil {
		return report, err
	}
	bridged, err := netlab.New(netlab.Config{MTU: s.MTU, Bridge: true})
	if err != nil {
		return report, err
	}
	defer bridged.Close()
	cut, err := netlab.New(netlab.Config{MTU: s.MTU, Cut: true})
	if err != nil {
		return report, err
	}
	defer cut.Close()
	// Rounds of all cases in turn, so that what disturbs the machine for a
	// while disturbs all alike.
	all := cases()
	results := make([][]Case, len(all))
	for round := range s.Rounds {
		for i, r := range all {
			s.Logf("round %d: %s %s %s", round+1, r.name, r.kind, r.poll)
			on := lab
			switch {
			case r.loss || r.name == "lossless":
				on = bridged
			case r.cut:
				on = cut
			}
			c, err := s.measure(ctx, on, r)
			if err != nil {
				return report, fmt.Errorf("%s %s %s: %w", r.name, r.kind, r.poll, err)
			}
			results[i] = append(results[i], c)
		}
	}
	for _, c := range results {
		report.Cases = append(report.Cases, median(c))
	}
	report.Goals = goals(report)
	return report, nil
}

// median picks the round in the middle, by rate; idle ones have only CPU.
func median(rounds []Case) Case {
	slices.SortFunc(rounds, func(a, b Case) int {
		switch {
		case a.PerSec != b.PerSec:
			return cmpFloat(a.PerSec, b.PerSec)
		default:
			return cmpFloat(a.CPU, b.CPU)
		}
	})
	return rounds[len(rounds)/2]
}

func cmpFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// raw measures AF_XDP itself, the best of the rounds: it is the limit.
func (s Suite) raw(lab *netlab.Lab) (raw Raw, err error) {
	var ends [2]*rawbench.End
	hosts := [2]*netlab.Host{lab.A, lab.B}
	defer func() {
		for _, e := range ends {
			if e != nil {
				err = errors.Join(err, e.Close())
			}
		}
	}()
	for i, h := range hosts {
		if err := h.Do(func() (err error) {
			ends[i], err = rawbench.Open(rawbench.Config{Interface: h.Device, Local: h.IPv4, Peer: hosts[1-i].IPv4, Port: port})
			return err
		}); err != nil {
			return raw, err
		}
	}
	const headers = 14 + 20 + 8
	raw.Frame = small + headers + 64 // with room for a transport's header and tag
	raw.Bulk = min(ends[0].FrameMax, ends[1].FrameMax)
	for range s.Rounds {
		l, err := rawbench.PingPong(ends[0], ends[1], min(raw.Frame, raw.Bulk), rawbench.Spin, s.Runtime)
		if err != nil {
			return raw, err
		}
		if raw.PingPong == 0 || l.P50 < raw.PingPong {
			raw.PingPong = l.P50
		}
		used := cpuTime()
		r, err := rawbench.Pump(ends[0], ends[1], raw.Bulk, s.Runtime)
		if err != nil {
			return raw, err
		}
		if used = cpuTime() - used; used > 0 {
			raw.PerCPU = max(raw.PerCPU, float64(r.Received)/used.Seconds())
		}
		raw.MBps = max(raw.MBps, r.PacketsPerSecond()*float64(raw.Bulk-headers)/1e6)
	}
	return raw, nil
}

// measure runs both sides of one case, each a process on its host.
func (s Suite) measure(ctx context.Context, lab *netlab.Lab, r run) (_ Case, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.Runtime+30*time.Second)
	defer cancel()
	if r.loss {
		f, err := lossy(lab)
		if err != nil {
			return Case{}, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	args := func(verb string, h *netlab.Host) []string {
		a := []string{"net", verb, "--kind", r.kind, "--interface", h.Device,
			"--request", strconv.Itoa(r.request), "--reply", strconv.Itoa(answer), "--key", "suite"}
		if r.poll != "" {
			a = append(a, "--poll", r.poll)
		}
		if !r.offload {
			a = append(a, "--no-offload")
		}
		return a
	}
	server := exec.CommandContext(ctx, s.Self, append(args("serve", lab.B),
		"--local", netip.AddrPortFrom(lab.B.IPv4, port).String(), "--peer", lab.A.IPv4.String())...)
	var serverErr bytes.Buffer
	server.Stderr = &serverErr
	out, err := server.StdoutPipe()
	if err != nil {
		return Case{}, err
	}
	if err := lab.B.Do(server.Start); err != nil {
		return Case{}, err
	}
	stop := func() error {
		_ = server.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		if err := server.Wait(); err != nil {
			return fmt.Errorf("server: %w: %s", err, strings.TrimSpace(serverErr.String()))
		}
		return nil
	}
	if line, _ := bufio.NewReader(out).ReadString('\n'); !strings.HasPrefix(line, "listening") {
		return Case{}, errors.Join(fmt.Errorf("server says %q", line), stop())
	}
	more := []string{"--local", netip.AddrPortFrom(lab.A.IPv4, port).String(), "--depth", strconv.Itoa(r.depth),
		"--runtime", s.Runtime.String(), "-o", "json", netip.AddrPortFrom(lab.B.IPv4, port).String()}
	if r.idle {
		more = append([]string{"--idle"}, more...)
	}
	client := exec.CommandContext(ctx, s.Self, append(args("run", lab.A), more...)...)
	var clientOut, clientErr bytes.Buffer
	client.Stdout, client.Stderr = &clientOut, &clientErr
	if err := lab.A.Do(client.Start); err != nil {
		return Case{}, errors.Join(err, stop())
	}
	if err := client.Wait(); err != nil {
		return Case{}, errors.Join(fmt.Errorf("client: %w: %s", err, strings.TrimSpace(clientErr.String())), stop())
	}
	if err := stop(); err != nil {
		return Case{}, err
	}
	c := Case{Name: r.name}
	if err := json.Unmarshal(clientOut.Bytes(), &c.Result); err != nil {
		return Case{}, err
	}
	used := client.ProcessState.UserTime() + client.ProcessState.SystemTime() +
		server.ProcessState.UserTime() + server.ProcessState.SystemTime()
	c.PerCPU = float64(c.All) / used.Seconds()
	return c, nil
}

// lossy loses datagrams of both directions at the switch.
func lossy(lab *netlab.Lab) (f *fault.Fault, err error) {
	err = lab.Switch.Do(func() error {
		f, err = fault.Load(fault.Config{Interface: lab.Switch.Index, Seed: 1})
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, d := range []fault.Direction{fault.Arriving, fault.Leaving} {
		err = errors.Join(err, f.Set(fault.Match{Direction: d}, fault.Rates{Drop: lossPercent / 100.0}))
	}
	return f, err
}

package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/tools/blockbench/iscsihost"
	"blockd.dev/tools/blockbench/pump"
)

// Wire says how to measure a target against bare TCP in the same shape.
type Wire struct {
	Protocol string        // "nvme" or "iscsi"
	Blockd   string        // path of the blockd binary
	Self     string        // path of this program, which is the pump too
	Rounds   int           // of each side and case
	Runtime  time.Duration // of a round
	Logf     func(format string, args ...any)
}

// wireCase is one shape. The goals are those of the RAM device behind either
// protocol; 0 is none.
type wireCase struct {
	connections, depth int
	bytes              int
	write              bool
	goal, cpu, p50     float64
}

var wireCases = []wireCase{
	{connections: 1, depth: 1, bytes: 4096, p50: 1.3},
	{connections: 1, depth: 32, bytes: 4096, goal: 0.7, cpu: 1.4},
	{connections: 4, depth: 32, bytes: 4096, goal: 0.7, cpu: 1.4},
	{connections: 1, depth: 128, bytes: 4096, goal: 0.7, cpu: 1.4},
	{connections: 1, depth: 32, bytes: 4096, write: true},
	{connections: 1, depth: 8, bytes: 128 << 10},
}

func (c wireCase) name(protocol string) string {
	op := "read"
	if c.write {
		op = "write"
	}
	return fmt.Sprintf("%s RAM, rand%s %dk %dx%d", protocol, op, c.bytes>>10, c.connections, c.depth)
}

// flags are those of the pump's client for a target.
func (c wireCase) flags() []string {
	return []string{fmt.Sprintf("--connections=%d", c.connections), fmt.Sprintf("--depth=%d", c.depth), fmt.Sprintf("--bs=%d", c.bytes),
		fmt.Sprintf("--write=%v", c.write), fmt.Sprintf("--range=%d", wireBytes)}
}

// shape is what the protocol moves for one request without digests.
func (c wireCase) shape(protocol string) (s pump.Shape, err error) {
	a := pump.Access{Write: c.write, Bytes: c.bytes, Depth: c.depth, Range: wireBytes}
	if protocol == "iscsi" {
		_, s, err = pump.ISCSI(iscsihost.Config{}, a)
	} else {
		_, s, err = pump.NVMe("", "", 0, a)
	}
	return s, err
}

// wireBytes is how much of the volume is used.
const wireBytes = 256 << 20

// pumpMemory is where a pump's replies come from: one block, sent again and
// again from the processor's first cache, or random places of as much memory as
// is used of the volume. The second moves what a target moves; the first is the
// limit of the wire. A row is made for each, with the same goals.
var pumpMemory = []int64{0, wireBytes}

// Run measures every case: blockd and the pumps in turn, each asked by a client
// that blocks and by one that polls. It is the same client that asks either,
// client and server on a core each, so what differs is the server. A side's figures are
// those of the client that gets more from it; the p50 is that which the polling
// client sees.
func (w Wire) Run(ctx context.Context) (rows []Row, err error) {
	own, err := w.startBlockd(ctx)
	if err != nil {
		return nil, err
	}
	defer own.stop()
	for _, c := range wireCases {
		name := c.name(w.Protocol)
		w.Logf("%s", name)
		memory := pumpMemory
		if c.write {
			memory = memory[:1] // replies have no data
		}
		var a sides
		peers := make([]sides, len(memory))
		for range w.Rounds {
			for _, spin := range []bool{false, true} {
				x, err := w.client(ctx, own.process, spin, c.flags(), own.url)
				if err != nil {
					return rows, fmt.Errorf("%s: %w", name, err)
				}
				a.add(spin, x)
				for i, m := range memory {
					y, err := w.pump(ctx, c, m, spin)
					if err != nil {
						return rows, fmt.Errorf("%s: %w", name, err)
					}
					peers[i].add(spin, y)
				}
			}
		}
		for i, m := range memory {
			rows = append(rows, c.row(name, m, &a, &peers[i]))
		}
	}
	return rows, nil
}

// row compares blockd with the pump that has so much memory.
func (c wireCase) row(name string, memory int64, own, peer *sides) Row {
	what := peer.name() + " pump"
	if memory > 0 {
		what += fmt.Sprintf(", %d MiB", memory>>20)
	}
	r := newRow(name, what, c.goal, own.better(), peer.better())
	r.P50, r.PeerP50 = median(own.spinning).P50, median(peer.spinning).P50
	r.GoalCPU, r.GoalP50 = c.cpu, c.p50
	r.divide()
	return r
}

// sides are the rounds of one server with both kinds of client.
type sides struct{ blocking, spinning []Sample }

func (s *sides) add(spin bool, x Sample) {
	if spin {
		s.spinning = append(s.spinning, x)
	} else {
		s.blocking = append(s.blocking, x)
	}
}

func (s *sides) blocks() bool { return median(s.blocking).IOPS > median(s.spinning).IOPS }

func (s *sides) better() []Sample {
	if s.blocks() {
		return s.blocking
	}
	return s.spinning
}

func (s *sides) name() string {
	if s.blocks() {
		return "blocking"
	}
	return "spinning"
}

// ramVolume is a volume that a blockd of its own serves.
type ramVolume struct {
	*process
	url   string
	iscsi iscsihost.Config // by one protocol
	nvme  nvmehost.Config  // or the other
}

// startBlockd serves a RAM volume by the protocol alone, and fills the part of
// it that is used.
func (w Wire) startBlockd(ctx context.Context) (*ramVolume, error) {
	dir, err := os.MkdirTemp("", "blockbench-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	api, err := freePort()
	if err != nil {
		return nil, err
	}
	addr, apiAddr := fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.1:%d", api)
	args := []string{"dev", "--data", dir, "--media", "ram", "--api", apiAddr, "--discovery", ""}
	if w.Protocol == "nvme" {
		args = append(args, "--nvme", addr, "--iscsi", "127.0.0.1:0")
	} else {
		args = append(args, "--nvme", "", "--iscsi", addr)
	}
	// A core of its own, as the pump has; with the GOMAXPROCS of a machine that has one for the
	// client too, since readers poll only where something else can run beside them.
	p, err := start(ctx, "blockd ready", "taskset", append([]string{"-c", "1", "env", "GOMAXPROCS=2", w.Blockd}, args...)...)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	p.dir = dir
	var v struct {
		IQN  string `json:"iqn"`
		NQN  string `json:"nqn"`
		LUN  uint16 `json:"lun"`
		NSID uint32 `json:"nsid"`
	}
	ctl := strings.TrimSuffix(w.Blockd, "blockd") + "blockctl"
	out, err := output(ctx, ctl, "--api", apiAddr, "-o", "json", "volume", "show", "vol0")
	if err == nil {
		err = json.Unmarshal([]byte(out), &v)
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	r := &ramVolume{process: p}
	if w.Protocol == "iscsi" {
		r.url = fmt.Sprintf("iscsi://%s/%s/%d", addr, v.IQN, v.LUN)
		r.iscsi = iscsihost.Config{Address: addr, Target: v.IQN, LUN: v.LUN}
		err = fillISCSI(ctx, r.iscsi)
	} else {
		r.url = fmt.Sprintf("nvme://%s/%s/%d", addr, v.NQN, v.NSID)
		r.nvme = nvmehost.Config{Addr: addr, SubNQN: v.NQN, HostNQN: "nqn.2026-01.dev.blockd:bench"}
		err = fillNVMe(r.nvme, v.NSID)
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	return r, nil
}

func fillISCSI(ctx context.Context, cfg iscsihost.Config) error {
	s, err := iscsihost.Dial(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(fill(s), s.Close())
}

func fillNVMe(cfg nvmehost.Config, nsid uint32) error {
	h, err := nvmehost.Dial(cfg)
	if err != nil {
		return err
	}
	defer h.Close()
	n, err := h.Namespace(nsid)
	if err != nil {
		return err
	}
	return fill(n)
}

// fill writes what will be read, so that reads move data rather than find
// holes.
func fill(dev blockdev.Device) error {
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for off := int64(0); off < wireBytes; off += int64(len(block)) {
		if err := blockdev.WriteAt(dev, block, off); err != nil {
			return err
		}
	}
	return nil
}

// pump measures one round of bare TCP.
func (w Wire) pump(ctx context.Context, c wireCase, memory int64, spin bool) (Sample, error) {
	s, err := c.shape(w.Protocol)
	if err != nil {
		return Sample{}, err
	}
	flags := []string{fmt.Sprintf("--request=%d", s.Request), fmt.Sprintf("--reply=%d", s.Reply)}
	const ready = "listening on "
	server, err := start(ctx, ready, "taskset", append([]string{"-c", "1", w.Self, "pump", "serve", fmt.Sprintf("--spin=%v", spin), fmt.Sprintf("--memory=%d", memory)}, flags...)...)
	if err != nil {
		return Sample{}, err
	}
	defer server.stop()
	return w.client(ctx, server, spin, append(flags, c.flags()...), strings.TrimPrefix(server.said, ready))
}

// client measures one round of a server.
func (w Wire) client(ctx context.Context, server *process, spin bool, flags []string, to string) (Sample, error) {
	args := append([]string{"-c", "0", w.Self, "pump", "run", fmt.Sprintf("--spin=%v", spin), "--runtime=" + w.Runtime.String()}, flags...)
	before, err := server.cpuTime()
	if err != nil {
		return Sample{}, err
	}
	out, err := output(ctx, "taskset", append(args, to)...)
	if err != nil {
		return Sample{}, err
	}
	after, err := server.cpuTime()
	if err != nil {
		return Sample{}, err
	}
	var res pump.Result
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		return Sample{}, fmt.Errorf("blockbench pump printed %q: %w", out, err)
	}
	// A tenth of the time went by before the first reply counted.
	cpu := (after - before) * 10 / 11
	return Sample{IOPS: res.IOPS, CPUPerOp: cpu / time.Duration(max(res.Ops, 1)), P50: res.P50}, nil
}

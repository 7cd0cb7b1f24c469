package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/tools/blockbench/iscsihost"
	"blockd.dev/tools/blockbench/load"
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

// shape is what the protocol moves for one request without digests: NVMe/TCP
// has 72 bytes of command capsule and 24 of data header, the response being
// left out by the SUCCESS flag; iSCSI has 48 bytes of header both ways.
func (c wireCase) shape(protocol string) pump.Shape {
	request, reply := 72, 24
	if protocol == "iscsi" {
		request, reply = 48, 48
	}
	if c.write {
		request += c.bytes
	} else {
		reply += c.bytes
	}
	return pump.Shape{Request: request, Reply: reply, Depth: c.depth}
}

// wireBytes is how much of the volume is used.
const wireBytes = 256 << 20

// Run measures every case: blockd, the blocking pump and the spinning one, in
// turn. The peer of a row is the better of the two pumps; the p50 is compared
// with the spinning one's.
func (w Wire) Run(ctx context.Context) (rows []Row, err error) {
	own, target, err := w.startBlockd(ctx)
	if err != nil {
		return nil, err
	}
	defer own.stop()
	mem, err := arena.New(arena.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	if err := w.fill(ctx, target); err != nil {
		return nil, err
	}
	for _, c := range wireCases {
		name := c.name(w.Protocol)
		w.Logf("%s", name)
		var a, blocking, spinning []Sample
		for round := range w.Rounds {
			x, err := w.load(ctx, own, target, mem, c, uint64(round)+1)
			if err != nil {
				return rows, fmt.Errorf("%s: %w", name, err)
			}
			y, err := w.pump(ctx, c, false)
			if err != nil {
				return rows, err
			}
			z, err := w.pump(ctx, c, true)
			if err != nil {
				return rows, err
			}
			a, blocking, spinning = append(a, x), append(blocking, y), append(spinning, z)
		}
		peer, samples := "spinning pump", spinning
		if median(blocking).IOPS > median(spinning).IOPS {
			peer, samples = "blocking pump", blocking
		}
		r := newRow(name, peer, c.goal, a, samples)
		r.PeerP50 = median(spinning).P50
		r.GoalCPU, r.GoalP50 = c.cpu, c.p50
		rows = append(rows, r)
	}
	return rows, nil
}

// dialer makes a connection to the volume and what ends it.
type dialer func(context.Context, int) (dev blockdev.Device, end func(), err error)

// startBlockd serves a RAM volume by the protocol alone.
func (w Wire) startBlockd(ctx context.Context) (*process, dialer, error) {
	dir, err := os.MkdirTemp("", "blockbench-")
	if err != nil {
		return nil, nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, nil, err
	}
	api, err := freePort()
	if err != nil {
		return nil, nil, err
	}
	addr, apiAddr := fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.1:%d", api)
	args := []string{"dev", "--data", dir, "--media", "ram", "--api", apiAddr, "--discovery", ""}
	if w.Protocol == "nvme" {
		args = append(args, "--nvme", addr, "--iscsi", "127.0.0.1:0")
	} else {
		args = append(args, "--nvme", "", "--iscsi", addr)
	}
	p, err := start(ctx, "blockd ready", w.Blockd, args...)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, nil, err
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
		return nil, nil, err
	}
	if w.Protocol == "iscsi" {
		return p, func(ctx context.Context, _ int) (blockdev.Device, func(), error) {
			s, err := iscsihost.Dial(ctx, iscsihost.Config{Address: addr, Target: v.IQN, LUN: v.LUN})
			if err != nil {
				return nil, nil, err
			}
			return s, func() { _ = s.Close() }, nil // the measurement is over
		}, nil
	}
	return p, func(_ context.Context, depth int) (blockdev.Device, func(), error) {
		h, err := nvmehost.Dial(nvmehost.Config{Addr: addr, SubNQN: v.NQN, HostNQN: "nqn.2026-01.dev.blockd:bench", Depth: max(depth, 32) + 1,
			SpinMax: -1}) // on one machine it would take the core of the target's wake-up
		if err != nil {
			return nil, nil, err
		}
		n, err := h.Namespace(v.NSID)
		if err != nil {
			h.Close()
			return nil, nil, err
		}
		return n, h.Close, nil
	}, nil
}

// fill writes what will be read, so that reads move data rather than find
// holes.
func (w Wire) fill(ctx context.Context, dial dialer) error {
	dev, end, err := dial(ctx, 1)
	if err != nil {
		return err
	}
	defer end()
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

// load measures one round of blockd.
func (w Wire) load(ctx context.Context, own *process, dial dialer, mem *arena.Arena, c wireCase, seed uint64) (Sample, error) {
	var devs []blockdev.Device
	for range c.connections {
		dev, end, err := dial(ctx, c.depth)
		if err != nil {
			return Sample{}, err
		}
		defer end()
		devs = append(devs, dev)
	}
	reads := 100
	if c.write {
		reads = 0
	}
	spec := load.Spec{ReadPercent: reads, BlockBytes: c.bytes, Depth: c.depth, RangeBytes: wireBytes, Runtime: w.Runtime, Seed: seed}
	if _, err := load.RunAll(ctx, devs, mem, warmup(spec, w.Runtime/10)); err != nil {
		return Sample{}, err
	}
	before, err := own.cpuTime()
	if err != nil {
		return Sample{}, err
	}
	res, err := load.RunAll(ctx, devs, mem, spec)
	if err = errors.Join(err, res.Err()); err != nil {
		return Sample{}, err
	}
	after, err := own.cpuTime()
	return Sample{IOPS: res.IOPS, CPUPerOp: (after - before) / time.Duration(max(res.Ops, 1)), P50: res.P50}, err
}

func warmup(s load.Spec, d time.Duration) load.Spec {
	s.Runtime = d
	return s
}

// pump measures one round of bare TCP, each side on a core of its own.
func (w Wire) pump(ctx context.Context, c wireCase, spin bool) (Sample, error) {
	s := c.shape(w.Protocol)
	args := []string{w.Self, "pump", "serve", fmt.Sprintf("--request=%d", s.Request), fmt.Sprintf("--reply=%d", s.Reply),
		fmt.Sprintf("--depth=%d", s.Depth), fmt.Sprintf("--spin=%v", spin)}
	const ready = "listening on "
	server, err := start(ctx, ready, "taskset", append([]string{"-c", "1"}, args...)...)
	if err != nil {
		return Sample{}, err
	}
	defer server.stop()
	args[2] = "run"
	args = append(args, fmt.Sprintf("--connections=%d", c.connections), "--runtime="+w.Runtime.String(), strings.TrimPrefix(server.said, ready))
	before, err := server.cpuTime()
	if err != nil {
		return Sample{}, err
	}
	out, err := exec.CommandContext(ctx, "taskset", append([]string{"-c", "0"}, args...)...).Output()
	if err != nil {
		return Sample{}, fmt.Errorf("pump: %w", err)
	}
	after, err := server.cpuTime()
	if err != nil {
		return Sample{}, err
	}
	var res pump.Result
	if err := json.Unmarshal(out, &res); err != nil {
		return Sample{}, fmt.Errorf("pump printed %q: %w", out, err)
	}
	// A tenth of the time went by before the first reply counted.
	cpu := (after - before) * 10 / 11
	return Sample{IOPS: res.IOPS, CPUPerOp: cpu / time.Duration(max(res.Ops, 1)), P50: res.P50}, nil
}

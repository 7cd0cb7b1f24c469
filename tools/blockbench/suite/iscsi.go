package suite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// ISCSI says how to measure the iSCSI target.
type ISCSI struct {
	Blockd  string        // path of the blockd binary
	Rounds  int           // of each side and case
	Runtime time.Duration // of a round
	Logf    func(format string, args ...any)
}

// iscsiVolumeBytes is the size of `blockd dev`'s first volume, and of the
// peer's.
const iscsiVolumeBytes = 1 << 30

// endpoint is a served LUN and the process that serves it.
type endpoint struct {
	*process
	url string
}

// iscsiCase is one client and shape.
type iscsiCase struct {
	name string
	goal float64
	run  func(ctx context.Context, url string, d time.Duration) (ops int64, elapsed time.Duration, err error)
}

var iscsiCases = []iscsiCase{
	{"iSCSI RAM, iscsi-perf randread 4k qd1", 1.5, iscsiPerf(1, 8)},
	{"iSCSI RAM, iscsi-perf randread 4k qd32", 3, iscsiPerf(32, 8)},
	{"iSCSI RAM, iscsi-perf randread 128k qd32", 1, iscsiPerf(32, 256)},
	{"iSCSI RAM, qemu-img bench read 4k qd32", 1, qemuBench(32, 4096, 150_000, false)},
	{"iSCSI RAM, qemu-img bench write 4k qd32", 1, qemuBench(32, 4096, 100_000, true)},
	{"iSCSI RAM, qemu-img bench read 128k qd32", 1, qemuBench(32, 128<<10, 10_000, false)},
}

// Run measures every case against tgt, both serving from memory.
func (s ISCSI) Run(ctx context.Context) ([]Row, error) {
	own, err := s.startBlockd(ctx)
	if err != nil {
		return nil, err
	}
	defer own.stop()
	peer, err := startTgt(ctx)
	if err != nil {
		return nil, err
	}
	defer peer.stop()

	var rows []Row
	for _, c := range iscsiCases {
		s.Logf("%s", c.name)
		var a, b []Sample
		for range s.Rounds {
			x, err := measure(ctx, own, c, s.Runtime)
			if err != nil {
				return rows, err
			}
			y, err := measure(ctx, peer, c, s.Runtime)
			if err != nil {
				return rows, err
			}
			a, b = append(a, x), append(b, y)
		}
		rows = append(rows, newRow(c.name, "tgt", c.goal, a, b))
	}
	return rows, nil
}

func measure(ctx context.Context, e *endpoint, c iscsiCase, d time.Duration) (Sample, error) {
	before, err := e.cpuTime()
	if err != nil {
		return Sample{}, err
	}
	ops, elapsed, err := c.run(ctx, e.url, d)
	if err != nil {
		return Sample{}, err
	}
	after, err := e.cpuTime()
	if err != nil {
		return Sample{}, err
	}
	return Sample{IOPS: float64(ops) / elapsed.Seconds(), CPUPerOp: (after - before) / time.Duration(max(ops, 1))}, nil
}

// startBlockd serves a RAM volume with the development defaults.
func (s ISCSI) startBlockd(ctx context.Context) (*endpoint, error) {
	dir, err := os.MkdirTemp("", "blockbench-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p, err := start(ctx, "blockd ready", s.Blockd, "dev", "--data", dir, "--media", "ram",
		"--iscsi", fmt.Sprintf("127.0.0.1:%d", port), "--nvme", "127.0.0.1:0", "--discovery", "127.0.0.1:0", "--api", "127.0.0.1:0", "--nvme", "", "--discovery", "")
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	p.dir = dir
	url, err := discover(ctx, port)
	if err != nil {
		p.stop()
		return nil, err
	}
	return &endpoint{p, url}, fillVolume(ctx, url)
}

// fillVolume writes the whole volume, so that reads move data rather than find
// holes.
func fillVolume(ctx context.Context, url string) error {
	_, err := output(ctx, "qemu-io", "-f", "raw", "-c", fmt.Sprintf("write -P 0x5a 0 %d", iscsiVolumeBytes), url)
	return err
}

var iscsiLine = regexp.MustCompile(`Target:(\S+)`)

// discover asks a portal for its target and returns the URL of LUN 0.
func discover(ctx context.Context, port int) (string, error) {
	portal := fmt.Sprintf("iscsi://127.0.0.1:%d", port)
	out, err := output(ctx, "iscsi-ls", portal)
	if err != nil {
		return "", err
	}
	m := iscsiLine.FindStringSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("iscsi-ls %s named no target:\n%s", portal, out)
	}
	return portal + "/" + m[1] + "/0", nil
}

// startTgt serves a file in /dev/shm with Debian's tgt, on a port and control
// number of its own.
func startTgt(ctx context.Context) (*endpoint, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	backing := filepath.Join("/dev/shm", fmt.Sprintf("blockbench-tgt-%d", os.Getpid()))
	f, err := os.Create(backing)
	if err != nil {
		return nil, err
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = 0x5a
	}
	for range iscsiVolumeBytes >> 20 {
		if _, err := f.Write(block); err != nil {
			return nil, err
		}
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	control := strconv.Itoa(10000 + port%20000)
	p, err := start(ctx, "", "tgtd", "-f", "-C", control, "--iscsi", fmt.Sprintf("portal=127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	const iqn = "iqn.2026-01.dev.blockd:bench-peer"
	admin := func(args ...string) error {
		_, err := output(ctx, "tgtadm", append([]string{"-C", control, "--lld", "iscsi", "--op"}, args...)...)
		return err
	}
	err = waitListening(ctx, port)
	for _, args := range [][]string{
		{"new", "--mode", "target", "--tid", "1", "-T", iqn},
		{"new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", backing},
		{"bind", "--mode", "target", "--tid", "1", "-I", "ALL"},
	} {
		if err == nil {
			err = admin(args...)
		}
	}
	// tgtd has the file open; nothing stays behind when it ends.
	_ = os.Remove(backing)
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("set up tgt: %w\n%s", err, p.log.String())
	}
	return &endpoint{p, fmt.Sprintf("iscsi://127.0.0.1:%d/%s/1", port, iqn)}, nil
}

var perfLine = regexp.MustCompile(`iops average (\d+)`)

// iscsiPerf runs libiscsi's load generator for random reads.
func iscsiPerf(depth, blocks int) func(context.Context, string, time.Duration) (int64, time.Duration, error) {
	return func(ctx context.Context, url string, d time.Duration) (int64, time.Duration, error) {
		out, err := output(ctx, "iscsi-perf", "-i", "iqn.2026-01.dev.blockd:bench", "-m", strconv.Itoa(depth),
			"-b", strconv.Itoa(blocks), "-t", strconv.Itoa(max(1, int(d.Seconds()))), "-r", url)
		if err != nil {
			return 0, 0, err
		}
		all := perfLine.FindAllStringSubmatch(out, -1)
		if all == nil {
			return 0, 0, fmt.Errorf("iscsi-perf printed no average:\n%s", out)
		}
		iops, err := strconv.ParseInt(all[len(all)-1][1], 10, 64)
		return iops * int64(max(1, int(d.Seconds()))), time.Duration(max(1, int(d.Seconds()))) * time.Second, err
	}
}

var benchLine = regexp.MustCompile(`Run completed in ([0-9.]+) seconds`)

// qemuBench runs QEMU's own initiator over consecutive blocks, wrapping at the
// end of the volume.
func qemuBench(depth, size, count int, write bool) func(context.Context, string, time.Duration) (int64, time.Duration, error) {
	return func(ctx context.Context, url string, _ time.Duration) (int64, time.Duration, error) {
		args := []string{"bench", "-f", "raw", "-t", "none", "-c", strconv.Itoa(count), "-d", strconv.Itoa(depth),
			"-s", strconv.Itoa(size), "-S", strconv.Itoa(size)}
		if write {
			args = append(args, "-w")
		}
		out, err := output(ctx, "qemu-img", append(args, url)...)
		if err != nil {
			return 0, 0, err
		}
		m := benchLine.FindStringSubmatch(out)
		if m == nil {
			return 0, 0, fmt.Errorf("qemu-img bench printed no time:\n%s", out)
		}
		secs, err := strconv.ParseFloat(m[1], 64)
		return int64(count), time.Duration(secs * float64(time.Second)), err
	}
}

package suite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/internal/adaptive"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/tools/blockbench/iscsihost"
)

// Idle says how to measure what connections cost that do nothing.
type Idle struct {
	Blockd string // path of the blockd binary
	Logf   func(format string, args ...any)
}

const (
	idleFew  = 64     // connections whose CPU time is measured
	idleMany = 10_000 // and whose memory
	// idleSettle is how long connections are left alone first: by then they
	// have given up what they needed to come up.
	idleSettle = 8 * time.Second
	idleWatch  = 10 * time.Second
)

// Run measures, for both protocols, the CPU time of blockd with few idle
// connections and the memory of many. Each NVMe host has one connection for
// its admin queue and the others for I/O queues.
func (i Idle) Run(ctx context.Context) (gauges []Gauge, err error) {
	if err := raiseFiles(idleMany + 1000); err != nil {
		return nil, err
	}
	for _, protocol := range []string{"nvme", "iscsi"} {
		more, err := i.measure(ctx, protocol)
		gauges = append(gauges, more...)
		if err != nil {
			return gauges, fmt.Errorf("idle %s: %w", protocol, err)
		}
	}
	return gauges, nil
}

// raiseFiles lets this process, and those it starts, have n open files.
func raiseFiles(n uint64) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	if l.Cur >= n {
		return nil
	}
	l.Cur, l.Max = n, max(l.Max, n)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("%d connections take %d open files: %w; run as root or raise `ulimit -Hn`", idleMany, n, err)
	}
	return nil
}

func (i Idle) measure(ctx context.Context, protocol string) ([]Gauge, error) {
	own, err := Wire{Protocol: protocol, Blockd: i.Blockd}.startBlockd(ctx)
	if err != nil {
		return nil, err
	}
	defer own.stop()
	var open idlers
	defer open.close()
	i.Logf("%s, %d idle connections", protocol, idleFew)
	if err := open.dial(ctx, own, idleFew); err != nil {
		return nil, err
	}
	if err := pass(ctx, idleSettle); err != nil {
		return nil, err
	}
	before, err := own.cpuTime()
	if err != nil {
		return nil, err
	}
	if err := pass(ctx, idleWatch); err != nil {
		return nil, err
	}
	after, err := own.cpuTime()
	if err != nil {
		return nil, err
	}
	gauges := []Gauge{{Case: fmt.Sprintf("%s, %d idle connections: CPU", protocol, idleFew), Unit: "% of a core",
		Value: 100 * (after - before).Seconds() / idleWatch.Seconds(), Limit: 1}}

	i.Logf("%s, %d idle connections", protocol, idleMany)
	least, err := own.residentBytes()
	if err != nil {
		return gauges, err
	}
	if err := open.dial(ctx, own, idleMany); err != nil {
		return gauges, err
	}
	if err := pass(ctx, idleSettle); err != nil {
		return gauges, err
	}
	most, err := own.residentBytes()
	if err != nil {
		return gauges, err
	}
	return append(gauges, Gauge{Case: fmt.Sprintf("%s, %d idle connections: memory of each", protocol, idleMany), Unit: "KiB",
		Value: float64(most-least) / idleMany / 1024, Limit: 32}), nil
}

// pass waits for d.
func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// residentBytes is the physical memory that the process has.
func (p *process) residentBytes() (int64, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return 0, errors.New("/proc/PID/statm has no resident size")
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// idlers are connections that do nothing.
type idlers struct {
	hosts    []*nvmehost.Host
	sessions []*iscsihost.Session
}

func (l *idlers) close() {
	for _, h := range l.hosts {
		h.Close()
	}
	for _, s := range l.sessions {
		_ = s.Close() // the measurement is over
	}
}

// queuesMax is how many I/O queues an idle NVMe host connects.
const queuesMax = 99

// dial makes n connections more.
func (l *idlers) dial(ctx context.Context, to *ramVolume, n int) error {
	poll := adaptive.Config{Mode: adaptive.Interrupt}
	if to.iscsi.Address != "" {
		for range n {
			cfg := to.iscsi
			cfg.Initiator = fmt.Sprintf("%s-%d", iscsihost.DefaultInitiator, len(l.sessions))
			cfg.Poll = poll
			s, err := iscsihost.Dial(ctx, cfg)
			if err != nil {
				return err
			}
			l.sessions = append(l.sessions, s)
		}
		return nil
	}
	for n > 0 && ctx.Err() == nil {
		queues := max(1, min(n-1, queuesMax))
		cfg := to.nvme
		cfg.HostNQN = fmt.Sprintf("%s-%d", cfg.HostNQN, len(l.hosts))
		cfg.Queues, cfg.Depth, cfg.Poll = queues, 32, poll
		h, err := nvmehost.Dial(cfg)
		if err != nil {
			return err
		}
		l.hosts = append(l.hosts, h)
		n -= 1 + queues
	}
	return ctx.Err()
}

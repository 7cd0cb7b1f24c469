// Package node starts bin/blockd for tests: with ports and a data directory of
// its own, waits until it is ready, and kills, restarts and stops it. Volumes
// and hosts are made with bin/blockctl, as an administrator would.
//
// Each running blockd has one goroutine that copies its output to a log, and
// one that waits for it to end; both are gone when Kill or Stop has returned.
package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config says how to start blockd. The zero value of each field means its
// default.
type Config struct {
	// BinDir holds blockd and blockctl. Default: bin at the root of the module.
	BinDir string
	// DataDir keeps the data; it must exist and is the caller's to remove.
	// Required.
	DataDir string
	// Media is "disk" or "ram". Default "disk".
	Media string
	// DiskSize is the size of the disk that blockd makes in DataDir, as blockd
	// takes it. Default "2GiB"; blockd's own default fills much of a small
	// machine.
	DiskSize string
	// Portals is the number of iSCSI portals. Default 1.
	Portals int
	// Args are further arguments.
	Args []string
	// ReadyTimeout bounds the wait for the portals. Default 30 s.
	ReadyTimeout time.Duration
}

// Node is one blockd, running or not. Its methods are for one goroutine.
type Node struct {
	config Config
	iscsi  []string // addresses, host:port, the same over restarts
	nvme   []string // the same, of the NVMe/TCP ports; the last is discovery's
	api    string

	process *exec.Cmd
	ended   chan struct{} // closed when process has ended
	waitErr error         // valid once ended is closed
	log     logBuffer
}

// Start starts a new blockd on free ports and returns when it is ready.
func Start(ctx context.Context, c Config) (*Node, error) {
	if c.DataDir == "" {
		return nil, errors.New("node: DataDir is empty; want a directory of the test's own")
	}
	if c.BinDir == "" {
		dir, err := defaultBinDir()
		if err != nil {
			return nil, err
		}
		c.BinDir = dir
	}
	if c.Media == "" {
		c.Media = "disk"
	}
	if c.DiskSize == "" {
		c.DiskSize = "2GiB"
	}
	if c.ReadyTimeout == 0 {
		c.ReadyTimeout = 30 * time.Second
	}
	if c.Portals == 0 {
		c.Portals = 1
	}
	ports, err := freePorts(2 + 2*c.Portals)
	if err != nil {
		return nil, err
	}
	n := &Node{config: c, api: ports[0], iscsi: ports[1 : 1+c.Portals], nvme: ports[1+c.Portals:]}
	if err := n.Restart(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// defaultBinDir finds bin/ beside the go.mod above the working directory.
func defaultBinDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("node: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("node: no go.mod above the working directory; set BinDir")
		}
		dir = filepath.Dir(dir)
	}
	bin := filepath.Join(dir, "bin")
	for _, name := range []string{"blockd", "blockctl"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return "", fmt.Errorf("node: %w; run make build", err)
		}
	}
	return bin, nil
}

// freePorts returns n addresses of 127.0.0.1 that nobody listens on. They are
// below the ports that the system gives to connections: while blockd is down, a
// connection made meanwhile, such as a host's attempt to reach blockd, could take
// one of those, and blockd could not start again. Another process that wants
// just these ports may still take one; then the start fails and says so. This process
// gives no port out twice: a node of another test would take that of one that is
// being restarted.
func freePorts(n int) ([]string, error) {
	low, err := lowestEphemeral()
	if err != nil {
		return nil, err
	}
	const lowest, attempts = 10000, 1000
	if low <= lowest {
		return nil, fmt.Errorf("node: connections take their ports from %d on (ip_local_port_range); want more than %d", low, lowest)
	}
	var addrs []string
	for range attempts {
		if len(addrs) == n {
			return addrs, nil
		}
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(low-lowest)))
		if err != nil {
			continue // somebody has it
		}
		defer func() { _ = l.Close() }()
		if addr := l.Addr().String(); given.first(addr) {
			addrs = append(addrs, addr)
		}
	}
	return nil, fmt.Errorf("node: found %d free ports in %d attempts between %d and %d, want %d", len(addrs), attempts, lowest, low, n)
}

// given is what freePorts has given out.
var given portsGiven

type portsGiven struct {
	mu    sync.Mutex
	addrs map[string]bool
}

// first notes an address, and is false when it was noted before.
func (p *portsGiven) first(addr string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addrs[addr] {
		return false
	}
	if p.addrs == nil {
		p.addrs = map[string]bool{}
	}
	p.addrs[addr] = true
	return true
}

// lowestEphemeral is the lowest port that the system gives to a connection.
func lowestEphemeral() (int, error) {
	const file = "/proc/sys/net/ipv4/ip_local_port_range"
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("node: %w", err)
	}
	var low int
	if _, err := fmt.Sscan(string(text), &low); err != nil {
		return 0, fmt.Errorf("node: %s: %w in %q", file, err, text)
	}
	return low, nil
}

// Portal is the address of iSCSI portal i, from 0, as host:port.
func (n *Node) Portal(i int) string { return n.iscsi[i] }

// NVMePort is the TCP port of NVMe/TCP port i, from 0. There are as many as
// iSCSI portals.
func (n *Node) NVMePort(i int) string {
	_, port, _ := net.SplitHostPort(n.nvme[i]) // it came from a listener's address
	return port
}

// DiscoveryPort is the TCP port of the NVMe discovery controller.
func (n *Node) DiscoveryPort() string { return n.NVMePort(len(n.nvme) - 1) }

// Port is the port of iSCSI portal i.
func (n *Node) Port(i int) string {
	_, port, _ := net.SplitHostPort(n.iscsi[i]) // it came from a listener's address
	return port
}

// API is the address of the control API, host:port.
func (n *Node) API() string { return n.api }

// Log returns what blockd printed so far, over all restarts.
func (n *Node) Log() string { return n.log.String() }

// Restart starts blockd again, with the same data and the same addresses,
// after Kill or Stop. It returns when blockd is ready.
func (n *Node) Restart(ctx context.Context) error {
	if n.process != nil {
		return errors.New("node: blockd is running; stop or kill it first")
	}
	args := []string{"--data", n.config.DataDir, "--iscsi", strings.Join(n.iscsi, ","), "--nvme", strings.Join(n.nvme[:len(n.nvme)-1], ","),
		"--discovery", n.nvme[len(n.nvme)-1], "--api", n.api, "--media", n.config.Media,
		"--disk-size", n.config.DiskSize}
	cmd := exec.Command(filepath.Join(n.config.BinDir, "blockd"), append(args, n.config.Args...)...)
	cmd.SysProcAttr = dieWithParent()
	cmd.Stderr = &n.log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("node: start blockd: %w", err)
	}
	ready := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		n.readOutput(stdout, ready)
		n.waitErr = cmd.Wait()
		close(ended)
	}()
	n.process, n.ended = cmd, ended

	timeout := time.NewTimer(n.config.ReadyTimeout)
	defer timeout.Stop()
	select {
	case <-ready:
		return nil
	case <-ended:
		n.process = nil
		return fmt.Errorf("node: blockd ended before it was ready: %w\n%s", n.waitErr, n.Log())
	case <-timeout.C:
		err = fmt.Errorf("node: blockd is not ready after %v\n%s", n.config.ReadyTimeout, n.Log())
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, n.Kill())
}

// readOutput copies blockd's standard output to the log until it ends, and
// closes ready at the line that the command contract promises.
func (n *Node) readOutput(from io.Reader, ready chan<- struct{}) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	isReady := false
	for lines.Scan() {
		_, _ = n.log.Write(append(lines.Bytes(), '\n'))
		if !isReady && lines.Text() == "blockd ready" {
			isReady = true
			close(ready)
		}
	}
	_, _ = io.Copy(&n.log, from)
}

// Kill ends blockd with SIGKILL, as a crash would, and waits until it is gone.
// A blockd that does not run is left alone.
func (n *Node) Kill() error {
	if n.process == nil {
		return nil
	}
	if err := n.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("node: kill blockd: %w", err)
	}
	<-n.ended
	n.process = nil
	return nil
}

// StopMax is how long blockd may take to end by SIGTERM. It gives hosts 4 s to let go, and
// closes its disks after that, on a machine that may be busy; what it should not wait for,
// requests that it keeps without an owner, holds it up for 15 s and more.
const StopMax = 14 * time.Second

// Stop asks blockd to end, and fails when it takes longer than grace or does
// not end with status 0. It is gone either way.
func (n *Node) Stop(grace time.Duration) error {
	if n.process == nil {
		return nil
	}
	if err := n.process.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(fmt.Errorf("node: stop blockd: %w", err), n.Kill())
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-n.ended:
		n.process = nil
		if n.waitErr != nil {
			return fmt.Errorf("node: blockd did not end cleanly: %w\n%s", n.waitErr, n.Log())
		}
		return nil
	case <-timer.C:
		return errors.Join(fmt.Errorf("node: blockd is still there %v after SIGTERM\n%s", grace, n.Log()), n.Kill())
	}
}

// Running tells whether blockd runs.
func (n *Node) Running() bool {
	if n.process == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// Ctl runs blockctl against this node and returns what it printed.
func (n *Node) Ctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(n.config.BinDir, "blockctl"), append([]string{"--api", n.api}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("node: blockctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Volume is what blockctl shows of a volume, as far as the command contract
// promises it.
type Volume struct {
	Name      string `json:"name"`
	ID        string `json:"id"`
	SizeBytes int64  `json:"size_bytes"`
	BlockSize int    `json:"block_size"`
	IQN       string `json:"iqn"`
	LUN       int    `json:"lun"`
	NQN       string `json:"nqn"`
	NSID      int    `json:"nsid"`
	UUID      string `json:"uuid"`
	State     string `json:"state"`
}

// CreateVolume makes a volume, maps it to every host, and returns it as
// `volume show` does.
func (n *Node) CreateVolume(ctx context.Context, name, size string, blockSize int) (Volume, error) {
	if _, err := n.Ctl(ctx, "volume", "create", name, "--size", size, "--block-size", fmt.Sprint(blockSize)); err != nil {
		return Volume{}, err
	}
	if _, err := n.Ctl(ctx, "map", name, "any"); err != nil {
		return Volume{}, err
	}
	return n.ShowVolume(ctx, name)
}

// ShowVolume returns what `blockctl volume show` says.
func (n *Node) ShowVolume(ctx context.Context, name string) (Volume, error) {
	var v Volume
	out, err := n.Ctl(ctx, "-o", "json", "volume", "show", name)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return v, fmt.Errorf("node: blockctl volume show %s -o json: %w in %s", name, err, out)
	}
	if v.IQN == "" {
		return v, fmt.Errorf("node: blockctl volume show %s -o json has no iqn: %s", name, out)
	}
	return v, nil
}

// URL is the volume by portal i, as libiscsi's tools want it.
func (n *Node) URL(i int, v Volume) string {
	return fmt.Sprintf("iscsi://%s/%s/%d", n.iscsi[i], v.IQN, v.LUN)
}

// logBuffer is a buffer that several goroutines may write to and read.
type logBuffer struct {
	mu struct {
		sync.Mutex
		text bytes.Buffer
	}
}

const logMax = 4 << 20

// Write appends p while the log is shorter than its bound, and takes all of it
// either way.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if room := logMax - l.mu.text.Len(); room > 0 {
		l.mu.text.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// String returns the log.
func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.text.String()
}

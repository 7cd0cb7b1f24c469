//go:build e2e

package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(processVariable); text != "" {
		os.Exit(runProcess(text))
	}
	goleak.VerifyTestMain(m)
}

// processVariable makes the test binary a blockd with the settings in it.
const processVariable = "BLOCKD_TEST_PROCESS"

func runProcess(text string) int {
	var cfg Config
	err := json.Unmarshal([]byte(text), &cfg)
	if err == nil {
		err = Run(cfg, os.Stdout, zap.NewNop(), make(chan os.Signal))
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// process is blockd in a process of its own.
type process struct {
	t   *testing.T
	cfg Config
	cmd *exec.Cmd
}

// start returns before the node is ready; ready waits for that.
func (p *process) start() (ready func()) {
	p.t.Helper()
	text, err := json.Marshal(p.cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), processVariable+"="+string(text))
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	return func() {
		p.t.Helper()
		if !lines.Scan() || !strings.Contains(lines.Text(), "ready") {
			p.t.Errorf("%s did not become ready: %q", p.cfg.Name, lines.Text())
		}
	}
}

// kill is what a power cut is to the process.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it says that it was killed
}

// Three processes, of which one after the other is killed while hosts are
// created through whichever answers. What was acknowledged is there in the end, once,
// on every node; a request that was tried again took effect once.
func TestNoAcknowledgedChangeIsLost(t *testing.T) {
	a, nodes := threeNodes(t)
	var processes []*process
	for _, n := range nodes {
		n.stop()
		cfg := n.cfg
		cfg.ArenaSize, cfg.ScrubRate = arenaSizeMin, 0
		processes = append(processes, &process{t: t, cfg: cfg})
	}
	var readies []func()
	for _, p := range processes {
		readies = append(readies, p.start())
		t.Cleanup(p.kill)
	}
	for _, ready := range readies {
		ready()
	}
	client := a.client()

	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	var work sync.WaitGroup
	for w := range 3 {
		work.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("h-%d-%d", w, i)
				if createHost(ctx, t, client, processes, name) {
					mu.Lock()
					acknowledged[name] = true
					mu.Unlock()
				}
			}
		})
	}
	for range 6 {
		before := len(snapshotOf(&mu, acknowledged))
		victim := processes[rand.IntN(len(processes))]
		victim.kill()
		until(t, "changes are made without it", func() bool { return len(snapshotOf(&mu, acknowledged)) > before+3 })
		victim.start()()
	}
	stop()
	work.Wait()

	for _, p := range processes {
		hosts := blockdv1connect.NewHostServiceClient(client, "https://"+p.cfg.API)
		// A node that is slow, or was away just now, may come to know of the last ones only later.
		until(t, p.cfg.Name+" has every host that was acknowledged", func() bool {
			list, err := hosts.ListHosts(t.Context(), connect.NewRequest(&blockdv1.ListHostsRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			seen, all := map[string]int{}, true
			for _, h := range list.Msg.GetHosts() {
				seen[h.GetName()]++
			}
			for name := range acknowledged {
				if seen[name] > 1 {
					t.Fatalf("%s has host %s %d times", p.cfg.Name, name, seen[name])
				}
				all = all && seen[name] == 1
			}
			return all
		})
	}
	t.Logf("%d hosts were created, with 6 kills", len(acknowledged))
}

func snapshotOf(mu *sync.Mutex, m map[string]bool) []string {
	mu.Lock()
	defer mu.Unlock()
	var out []string
	for k := range m {
		out = append(out, k)
	}
	return out
}

// createHost tries one node after another with one request id, until one has done it.
func createHost(ctx context.Context, t *testing.T, client connect.HTTPClient, processes []*process, name string) bool {
	for try := rand.IntN(len(processes)); ctx.Err() == nil; try++ {
		tctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := blockdv1connect.NewHostServiceClient(client, "https://"+processes[try%len(processes)].cfg.API).CreateHost(tctx,
			connect.NewRequest(&blockdv1.CreateHostRequest{Name: name, Iqn: "iqn.2026-01.dev.blockd:" + name, RequestId: name}))
		cancel()
		switch code := connect.CodeOf(err); {
		case err == nil:
			return true
		case code == connect.CodeAlreadyExists, code == connect.CodeInvalidArgument, code == connect.CodeFailedPrecondition:
			t.Errorf("%s: a request that is tried again was taken for another: %v", name, err)
			return false
		}
	}
	return false
}

package group

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"blockd.dev/raftmeta/pki"
)

// A node as a process of its own: the test binary, started again with this in
// its environment. It reads requests as lines of JSON and answers in kind.
const nodeEnv = "BLOCKD_GROUP_TEST_NODE"

type nodeSetup struct {
	Dir, PKI, ID, Address string
	Bootstrap             bool
	Join                  map[string]string
}

type nodeRequest struct {
	Op   string // apply, counts
	ID   RequestID
	Name string
}

type nodeAnswer struct {
	ID    RequestID
	Err   string
	Hash  string
	Count map[string]int
}

// runAsNode plays a node when this process is one.
func runAsNode() bool {
	text := os.Getenv(nodeEnv)
	if text == "" {
		return false
	}
	if err := playNode(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func playNode(text string) error {
	var s nodeSetup
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	m, err := pki.Files{Dir: s.PKI}.Load()
	if err != nil {
		return err
	}
	creds, err := pki.NewCredentials(m.Certificate, m.Key, m.Bundle)
	if err != nil {
		return err
	}
	inner, err := net.Listen("tcp", s.Address)
	if err != nil {
		return err
	}
	l, err := NewListener(inner, creds)
	if err != nil {
		return err
	}
	led := newLedger()
	g, err := Open(Config{Dir: s.Dir, Cluster: "test", NodeID: s.ID, Address: s.Address, Listener: l, FSM: led,
		Bootstrap: s.Bootstrap, Incarnation: 1, Heartbeat: testHeartbeat, SnapshotEvery: 64, TrailingLogs: 16, segmentBytes: 16 << 10})
	if err != nil {
		return err
	}
	ctx := context.Background()
	if len(s.Join) > 0 {
		if err := g.Join(ctx, s.Join); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	answer := func(a nodeAnswer) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(a)
	}
	answer(nodeAnswer{})
	in := json.NewDecoder(os.Stdin)
	for {
		var r nodeRequest
		if err := in.Decode(&r); err != nil {
			return g.Close() // the test has ended
		}
		go func() {
			limit := patience
			if r.Op == "apply" { // it is tried again elsewhere
				limit = 10 * time.Second
			}
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			a := nodeAnswer{ID: r.ID}
			var err error
			if r.Op == "apply" {
				_, err = g.Apply(ctx, Command{Version: 1, Request: r.ID, Data: []byte(r.Name)})
			} else if err = g.Barrier(ctx); err == nil {
				a.Count = led.counts()
				a.Hash = fmt.Sprintf("%x", led.Snapshot().Hash())
			}
			if err != nil {
				a.Err = err.Error()
			}
			answer(a)
		}()
	}
}

// proc is a running node process.
type proc struct {
	setup  nodeSetup
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	dead   chan struct{}
	mu     sync.Mutex
	waits  map[RequestID]chan nodeAnswer
	ready  chan struct{}
	stderr strings.Builder
}

func launch(setup nodeSetup) (*proc, error) {
	text, err := json.Marshal(setup)
	if err != nil {
		return nil, err
	}
	p := &proc{setup: setup, cmd: exec.Command(os.Args[0]), dead: make(chan struct{}), ready: make(chan struct{}), waits: map[RequestID]chan nodeAnswer{}}
	p.cmd.Env = append(os.Environ(), nodeEnv+"="+string(text))
	p.cmd.Stderr = &p.stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		in := json.NewDecoder(bufio.NewReader(stdout))
		for {
			var a nodeAnswer
			if in.Decode(&a) != nil {
				break
			}
			if a.ID == (RequestID{}) {
				close(p.ready)
				continue
			}
			p.mu.Lock()
			w := p.waits[a.ID]
			delete(p.waits, a.ID)
			p.mu.Unlock()
			w <- a
		}
		_ = p.cmd.Wait()
		close(p.dead)
	}()
	return p, nil
}

func (p *proc) ask(r nodeRequest) (nodeAnswer, error) {
	w := make(chan nodeAnswer, 1)
	p.mu.Lock()
	p.waits[r.ID] = w
	err := json.NewEncoder(p.stdin).Encode(r)
	p.mu.Unlock()
	if err != nil {
		return nodeAnswer{}, err
	}
	select {
	case a := <-w:
		if a.Err != "" {
			return a, fmt.Errorf("%s", a.Err)
		}
		return a, nil
	case <-p.dead:
		return nodeAnswer{}, fmt.Errorf("node %s was killed", p.setup.ID)
	}
}

func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.dead
}

// Processes of a group are killed at arbitrary moments, one, two or all three
// at once, under load. What was acknowledged is there afterwards, nothing is there
// twice, and the states are equal.
func TestKillProcesses(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{"n1", "n2", "n3"}
	procs := make([]*proc, len(ids))
	var mu sync.Mutex // guards procs
	get := func(i int) *proc {
		mu.Lock()
		defer mu.Unlock()
		return procs[i]
	}
	begin := func(i int, setup nodeSetup) {
		t.Helper()
		p, err := launch(setup)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.ready:
		case <-p.dead:
			t.Fatalf("%s: %s", setup.ID, p.stderr.String())
		}
		mu.Lock()
		procs[i] = p
		mu.Unlock()
	}
	defer func() {
		for _, p := range procs {
			if p != nil {
				p.kill()
			}
		}
	}()
	for i, id := range ids {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		setup := nodeSetup{Dir: filepath.Join(dir, id), PKI: filepath.Join(dir, id+"-pki"), ID: id, Address: l.Addr().String(), Bootstrap: i == 0}
		l.Close()
		if i > 0 {
			setup.Join = map[string]string{"n1": procs[0].setup.Address}
		}
		who := pki.Identity{Cluster: "test", Node: id}
		key, csr, err := pki.NewRequest(who)
		if err != nil {
			t.Fatal(err)
		}
		der, err := ca.Sign(csr, who, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := (pki.Files{Dir: setup.PKI}).Save(pki.Member{Certificate: cert, Key: key, Bundle: pki.NewBundle(ca.Certificate()), Keyring: pki.NewKeyring()}); err != nil {
			t.Fatal(err)
		}
		begin(i, setup)
	}

	// Clients try again, elsewhere, with the same request id, until it is acknowledged.
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	var acked []string
	progress := make(chan struct{}, 1)
	for c := range 4 {
		clients.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				r := nodeRequest{Op: "apply", ID: NewRequestID(), Name: fmt.Sprintf("c%d-%d", c, n)}
				for try := c; ctx.Err() == nil; try++ {
					if _, err := get(try % len(ids)).ask(r); err == nil {
						mu.Lock()
						acked = append(acked, r.Name)
						mu.Unlock()
						select {
						case progress <- struct{}{}:
						default:
						}
						break
					}
				}
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acked) }
	more := func(n int) {
		t.Helper()
		timeout := time.After(patience)
		for from := count(); count() < from+n; {
			select {
			case <-progress:
			case <-timeout:
				t.Fatalf("no more commands after %d", count())
			}
		}
	}
	more(20)
	for round, victims := range [][]int{{0}, {1}, {2}, {0, 1}, {0, 1, 2}, {1, 2}} {
		var killing sync.WaitGroup
		for _, v := range victims {
			killing.Go(func() { get(v).kill() })
		}
		killing.Wait()
		for _, v := range victims {
			setup := get(v).setup
			setup.Bootstrap, setup.Join = false, nil
			begin(v, setup)
		}
		more(20 + round)
	}
	cancel()
	clients.Wait() // the nodes answer each in time

	hash := ""
	for i, id := range ids {
		a, err := get(i).ask(nodeRequest{Op: "counts", ID: NewRequestID()})
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		for _, name := range acked {
			if a.Count[name] != 1 {
				t.Errorf("%s: %s was acknowledged and is there %d times", id, name, a.Count[name])
			}
		}
		for name, n := range a.Count {
			if n != 1 {
				t.Errorf("%s: %s was applied %d times", id, name, n)
			}
		}
		if hash == "" {
			hash = a.Hash
		} else if hash != a.Hash {
			t.Errorf("%s: another state", id)
		}
	}
	t.Logf("%d commands acknowledged, through 10 kills", len(acked))
}

package pulse

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/membership"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// since is a clock of simulated time.
type since struct{ start time.Time }

func (s since) Now() clock.Mono { return clock.Mono(1 + time.Since(s.start)) }

// noCatalog has no volumes, for ever.
type noCatalog struct{}

func (noCatalog) State() *catalog.State { return &catalog.State{} }
func (noCatalog) Wait(ctx context.Context, _ uint64) (*catalog.State, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Pulses come in time, those that hang keep no others from going out, and one that
// failed is tried again soon.
func TestPulsesGoOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var sent []time.Duration
		hang := false
		n, err := New(Config{Node: me, Incarnation: 1, Clock: since{start}, Catalog: noCatalog{}, Events: &told{},
			Leader: func() (group.Leader, <-chan struct{}) { return group.Leader{ID: other}, nil },
			Call: func(ctx context.Context, _ group.Leader, req *blockdv1.PulseRequest) (*blockdv1.PulseResponse, error) {
				mu.Lock()
				sent = append(sent, time.Since(start))
				stuck := hang
				mu.Unlock()
				switch {
				case stuck:
					<-ctx.Done()
					return nil, ctx.Err()
				case req.GetNumber() == 1:
					return nil, ErrNotLeading
				}
				return &blockdv1.PulseResponse{Number: req.GetNumber(), Nodes: []*blockdv1.NodeLife{{Node: other, State: "suspect", Reason: "r", RttNano: 5}}}, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = n.Run(ctx); close(done) }()
		time.Sleep(Defaults.Every + retryAfter + time.Millisecond) // sleep: simulated time
		synctest.Wait()
		if fmt.Sprint(sent) != fmt.Sprint([]time.Duration{0, retryAfter, retryAfter + Defaults.Every}) {
			t.Errorf("pulses at %v", sent)
		}
		if m := n.Members(); len(m) != 1 || m[0].State != membership.Suspect || m[0].Reason != "r" || m[0].RTT != 5 {
			t.Errorf("%+v", m)
		}
		mu.Lock()
		sent, hang = nil, true
		mu.Unlock()
		time.Sleep(4 * Defaults.Every) // sleep: simulated time
		synctest.Wait()
		if len(sent) != 4 {
			t.Errorf("%d pulses while none is answered", len(sent))
		}
		cancel()
		<-done
	})
}

func TestIncarnationsGrow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "starts")
	for want := uint64(1); want <= 3; want++ {
		if got, err := NextIncarnation(path); err != nil || got != want {
			t.Fatalf("%d, %v; want %d", got, err, want)
		}
	}
	if err := os.WriteFile(path, []byte("three"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NextIncarnation(path); err == nil || !strings.Contains(err.Error(), "higher than any before") {
		t.Errorf("a damaged file counts: %v", err)
	}
}

type server struct{}

func (server) Pulse(context.Context, string, *blockdv1.PulseRequest) (*blockdv1.PulseResponse, error) {
	return &blockdv1.PulseResponse{}, nil
}

// Who has shown no certificate of a node sends no pulse, for no node. That
// nodes may is tested with real ones, in package director.
func TestPulseNeedsACertificate(t *testing.T) {
	for _, node := range []string{"", me} {
		_, err := Serve(server{}).Pulse(t.Context(), connect.NewRequest(&blockdv1.PulseRequest{Node: node}))
		if connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("from nobody for %q: %v", node, err)
		}
	}
}

func TestConfig(t *testing.T) {
	good := Config{Node: me, Incarnation: 1, Catalog: noCatalog{}, Events: &told{},
		Leader: func() (group.Leader, <-chan struct{}) { return group.Leader{}, nil },
		Call: func(context.Context, group.Leader, *blockdv1.PulseRequest) (*blockdv1.PulseResponse, error) {
			return nil, nil
		}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"Node":        func(c *Config) { c.Node = "n1" },
		"Incarnation": func(c *Config) { c.Incarnation = 0 },
		"Catalog":     func(c *Config) { c.Call = nil },
		"Times.Every": func(c *Config) { c.Times = Times{Every: time.Second, Lease: Defaults.Lease} },
	} {
		c := good
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

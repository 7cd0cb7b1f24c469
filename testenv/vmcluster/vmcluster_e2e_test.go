//go:build e2e

package vmcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/testenv/cluster"
	"blockd.dev/testenv/node"
	"blockd.dev/testenv/vm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNVMe: native multipath by the ports of all nodes.
func TestNVMe(t *testing.T) { start(t, false).script(t, restarts, byNVMe...) }

// TestISCSI: dm-multipath by the portals of all nodes.
func TestISCSI(t *testing.T) { start(t, false).script(t, restarts, byISCSI...) }

// TestFaultsNVMe and TestFaultsISCSI: the same hosts under the faults that replicated volumes promise to
// survive. make vm-faults runs them, which is more than make test has time for.
func TestFaultsNVMe(t *testing.T) { start(t, true).script(t, faults, byNVMe...) }

// TestFaultsISCSI: see TestFaultsNVMe.
func TestFaultsISCSI(t *testing.T) { start(t, true).script(t, faults, byISCSI...) }

var (
	byNVMe  = []string{"vmtest/scripts/nvme", "vmcluster/scripts/load", "vmcluster/scripts/nvme"}
	byISCSI = []string{"vmcluster/scripts/load", "vmcluster/scripts/iscsi"}
)

// Trials are what happens in the guest, by functions of scripts/load.sh. SILENCE is for how long a host bears
// with a target that says nothing: 5 s is what Linux does unless told otherwise, and 30 s
// outlasts what a busy machine does to a guest.
var (
	restarts = map[string]string{"TRIALS": "trials", "SILENCE": "30"}
	faults   = map[string]string{"TRIALS": "faults", "SILENCE": "5", "ONLY": os.Getenv("BLOCKD_E2E_FAULTS")}
)

// TestClock: the clock of three nodes is set forward and back while changes are made. They
// run in the guest, whose clock is not the host's, and which is too slow for I/O besides.
func TestClock(t *testing.T) {
	bin := filepath.Join("..", "..", "bin")
	run(t, vm.Config{
		Programs: []string{filepath.Join(bin, "blockd"), filepath.Join(bin, "blockctl")}, MemoryMiB: 2048,
		Env: map[string]string{"PORT": "3260", "NVME_PORT": "4420", "DISCOVERY_PORT": "8009", "IQN": "", "NODES": "n1 n2 n3"},
	}, "vmtest/scripts/nvme", "vmcluster/scripts/clock")
}

// volumeName is of the one volume, of three copies.
const volumeName = "v"

// nodes of the cluster.
var nodes = []string{"n1", "n2", "n3"}

// volume is what blockctl says of it.
type volume struct {
	IQN, NQN, UUID, State, Reason, Node string
	LUN, NSID                           int
}

// lab is a cluster with a volume.
type lab struct{ *cluster.Cluster }

// start makes them; volatile disks lose what was not synced when their node is killed.
func start(t *testing.T, volatile bool) lab {
	t.Helper()
	l := lab{cluster.New(t, cluster.Config{DiskSize: 512 << 20, Volatile: volatile})}
	for _, args := range [][]string{
		{"pool", "create", "safe", "--replicas", "3"},
		{"volume", "create", volumeName, "--pool", "safe", "--size", "96MiB", "--block-size", "4096"},
		{"map", volumeName, "any"},
	} {
		if _, err := l.Ctl(t.Context(), cluster.HostName, args...); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func (l lab) show(ctx context.Context) (v volume, err error) {
	out, err := l.Ctl(ctx, cluster.HostName, "-o", "json", "volume", "show", volumeName)
	if err == nil {
		err = json.Unmarshal([]byte(out), &v)
	}
	return v, err
}

// patience bounds what a cluster does by itself: choosing an owner, copying what a
// node has missed.
const patience = 2 * time.Minute

const stopMax = node.StopMax

// await asks about the volume until it is as wanted.
func (l lab) await(ctx context.Context, what string, wanted func(volume) (bool, error)) (v volume, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		v, err = l.show(ctx)
		if err == nil {
			var ok bool
			if ok, err = wanted(v); ok && err == nil {
				return v, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return v, errors.Join(fmt.Errorf("%s: not within %v; the volume is %s: %s", what, patience, v.State, v.Reason), err)
		}
	}
}

// owner waits until a node that runs serves the volume.
func (l lab) owner(ctx context.Context) (volume, error) {
	return l.await(ctx, "an owner that runs", func(v volume) (bool, error) {
		status, err := l.Status()
		for _, n := range status.Nodes {
			if n.Name == v.Node {
				return n.State == "running", err
			}
		}
		return false, err
	})
}

// healthy waits until all three copies are in sync.
func (l lab) healthy(ctx context.Context) (volume, error) {
	return l.await(ctx, "three copies in sync", func(v volume) (bool, error) { return v.State == "online", nil })
}

// leader is the node that leads the Raft group.
func (l lab) leader(ctx context.Context) (string, error) {
	out, err := l.Ctl(ctx, cluster.HostName, "-o", "json", "cluster", "status")
	var s struct{ Leader string }
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	if err == nil && s.Leader == "" {
		err = errors.New("there is no leader")
	}
	return s.Leader, err
}

// call answers `host WORDS` in the guest: owner, leader, healthy, kill NODES, stop NODE, start NODES, pause NODE,
// resume NODE, partition NODE (from the other nodes), apart (all nodes), loss PERCENT (between nodes), heal (the network), disk-fails NODE,
// disk-heals NODE.
func (l lab) call(ctx context.Context, words []string) (string, error) {
	verb, node := words[0], strings.Join(words[1:], " ")
	switch verb {
	case "leader":
		return l.leader(ctx)
	case "pause":
		return "", l.Pause(node)
	case "resume":
		return "", l.Resume(node)
	case "partition":
		return "", l.Partition([]string{node}, slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == node }))
	case "apart":
		var errs []error
		for i, n := range nodes[1:] {
			errs = append(errs, l.Partition([]string{n}, nodes[:i+1]))
		}
		return "", errors.Join(errs...)
	case "loss":
		percent, err := strconv.ParseFloat(node, 64)
		if err == nil {
			err = l.Loss(percent, nodes, nodes)
		}
		return "", err
	case "heal":
		return "", l.Heal()
	case "disk-fails":
		return "", l.DiskFaults(node, "write err=EIO")
	case "disk-heals":
		// The node has given the disk up, and takes it again when it starts.
		return "", errors.Join(l.DiskFaults(node), l.Restart(ctx, node))
	case "owner":
		v, err := l.owner(ctx)
		return v.Node, err
	case "healthy":
		_, err := l.healthy(ctx)
		return "", err
	case "kill":
		return "", l.Kill(words[1:]...)
	case "stop":
		began := time.Now()
		err := l.Stop(patience, node)
		took := time.Since(began)
		if err == nil && took > stopMax {
			err = fmt.Errorf("%s took %v to end by SIGTERM, want at most %v", node, took, stopMax)
		}
		return fmt.Sprintf("%s ended after %.1f s", node, took.Seconds()), err
	case "start":
		return "", l.Restart(ctx, words[1:]...)
	}
	return "", fmt.Errorf("no such call: %q", words)
}

// script runs the parts, files of testenv, one after the other in a guest.
func (l lab) script(t *testing.T, trials map[string]string, parts ...string) {
	t.Helper()
	v, err := l.healthy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"PORT": "3260", "NVME_PORT": "4420", "DISCOVERY_PORT": "8009", "NODES": strings.Join(nodes, " "), "NETWORK": "10.77.0",
		"IQN": v.IQN, "LUN": strconv.Itoa(v.LUN), "NQN": v.NQN, "NSID": strconv.Itoa(v.NSID), "UUID": v.UUID,
	}
	maps.Copy(env, trials)
	run(t, vm.Config{
		Env: env,
		Command: func(ctx context.Context, argv ...string) (*exec.Cmd, error) {
			return l.Command(ctx, cluster.HostName, argv...)
		},
		OnCall: l.call,
	}, parts...)
}

// run runs the parts, files of testenv, one after the other in the guest that c is.
func run(t *testing.T, c vm.Config, parts ...string) {
	t.Helper()
	var text strings.Builder
	for _, part := range append([]string{"vmtest/scripts/prelude"}, parts...) {
		b, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(part)+".sh"))
		if err != nil {
			t.Fatal(err)
		}
		text.Write(b)
	}
	failed := ""
	c.Script = text.String()
	c.Timeout = 25 * time.Minute // it takes two or three when the machine has nothing else to do, with all faults six
	c.OnLine = func(line string) {
		t.Log(line)
		if strings.HasPrefix(line, "FAILED: ") && failed == "" {
			failed = "; " + line
		}
	}
	result, err := vm.Run(t.Context(), c)
	t.Logf("boot %.1f s, whole run %.1f s", result.Boot.Seconds(), result.Elapsed.Seconds())
	if err != nil {
		t.Errorf("%v%s", err, failed)
	}
}

//go:build e2e

package mixed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/testenv/calls"
	"blockd.dev/testenv/cluster"
	"blockd.dev/testenv/cluster/trial"
)

var nodes = []string{"n1", "n2", "n3"}

// stopGrace is how long a node may take to give its volumes away and end.
const stopGrace = 20 * time.Second

// upgrade is a cluster on its way from the landed version to this one.
type upgrade struct {
	t        *testing.T
	c        *cluster.Cluster
	st       cluster.Status
	tr       *trial.Trial
	load     *calls.Load
	old, new string         // blockd
	oldCtl   string         // blockctl
	hashes   map[string]int // how often each node has said that its state is the leader's
}

// TestRollingUpgrade: nodes of a cluster that is in use are replaced by this version one
// at a time, one of them goes back once, and the other two follow. Commands and writes go
// on, none that was acknowledged is lost, states are equal at each step, and what the old version does not know
// is refused until all nodes are new. Then there is no way back, in words; if both versions know the same
// commands, there is.
func TestRollingUpgrade(t *testing.T) {
	u := start(t)
	u.step("all are old")
	from := u.version("n1")

	u.replace("n1", u.new)
	u.own("n1")
	u.step("n1 is new, and owns the volume")
	u.replace("n1", u.old)
	u.step("n1 is old again")
	u.replace("n1", u.new)
	u.replace("n2", u.new)
	u.own("n3")
	u.step("n1 and n2 are new, and n3 owns the volume")
	if got := u.version("n1"); got.GetFormatVersion() != from.GetFormatVersion() {
		t.Errorf("version %d is in use while n3 is old", got.GetFormatVersion())
	}
	before := u.backup("n3")

	u.replace("n3", u.new)
	to := u.gateOpens()
	t.Logf("from version %d of commands to version %d", from.GetFormatVersion(), to)
	u.step("all are new")
	if newCommand == nil {
		// There is nothing to try.
	} else if out, err := u.c.Ctl(t.Context(), cluster.HostName, newCommand...); err != nil {
		t.Errorf("a command that only the new version has, with all nodes new: %v %s", err, out)
	}
	gated := to > from.GetFormatVersion()
	if gated {
		u.noWayBack()
	} else {
		u.replace("n2", u.old)
		u.step("all are new but n2, which went back")
		u.replace("n2", u.new)
	}
	u.step("all are new, and one was old for a moment")
	u.finish()
	u.restores(before, gated)
}

// newCommand is one that the landed version does not have; nil if there is no such command: what
// came in with version 4 only owners of volumes say.
var newCommand []string

// start brings a cluster of the landed version up, with a volume, hosts and clients.
func start(t *testing.T) *upgrade {
	commit, bin := landed(t)
	t.Logf("the landed version is %s", commit)
	u := &upgrade{t: t, old: filepath.Join(bin, "blockd"), oldCtl: filepath.Join(bin, "blockctl"), hashes: map[string]int{}}
	u.c = cluster.New(t, cluster.Config{Blockd: u.old})
	var err error
	if u.st, err = u.c.Status(); err != nil {
		t.Fatal(err)
	}
	u.new = filepath.Join(u.st.BinDir, "blockd")
	if u.tr, err = trial.New(t.Context(), u.c); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("calls have seed %d", seed)
	if u.load, err = calls.Start(calls.Config{Nodes: nodes, Client: u.c.Client, Pool: "trial", Clients: 3, Names: 8,
		Think: 20 * time.Millisecond, Seed: seed, ToldByName: commit == "98aa773"}); err != nil {
		t.Fatal(err)
	}
	return u
}

// replace has a node run another program, under the load of hosts, which get on
// before, while it is away, and after.
func (u *upgrade) replace(node, program string) {
	u.t.Helper()
	u.run(trial.Fault{Name: node + " is replaced", Begin: func(context.Context, *trial.Trial) (func(context.Context) error, error) {
		err := errors.Join(u.c.Stop(stopGrace, node), u.c.Install(program, node))
		return func(ctx context.Context) error { return u.c.Restart(ctx, node) }, err
	}})
}

// own has a node own the volume, under load.
func (u *upgrade) own(node string) {
	u.t.Helper()
	u.run(trial.Fault{Name: "the volume moves to " + node, Begin: func(ctx context.Context, tr *trial.Trial) (func(context.Context) error, error) {
		if owner, err := tr.Owner(ctx); err != nil || owner == node {
			return func(context.Context) error { return nil }, err
		}
		_, err := u.c.Ctl(ctx, cluster.HostName, "lease", "move", "trial", node)
		return func(ctx context.Context) error {
			return tr.AwaitOwner(ctx, "the volume to move", func(owner string) bool { return owner == node })
		}, err
	}})
}

func (u *upgrade) run(f trial.Fault) {
	u.t.Helper()
	began := time.Now()
	r, err := u.tr.Run(u.t.Context(), f)
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		u.t.Fatalf("%s: %v", f.Name, err)
	}
	u.t.Logf("%s: %d operations of hosts, %d open, the longest took %v; %v in all", f.Name, r.Ops, r.Open,
		r.Pause.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}

// step checks what must be so with any mixture: clients get on, both versions of
// blockctl understand all nodes, all nodes have the same state, and what not all
// understand is refused.
func (u *upgrade) step(what string) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	if err := u.load.Progress(ctx); err != nil {
		u.t.Fatalf("%s: %v", what, err)
	}
	for _, node := range nodes {
		for _, args := range [][]string{{"volume", "show", "trial"}, {"cluster", "status"}, {"node", "list"}, {"disk", "list"}, {"lease", "list"}} {
			u.understood(ctx, what, node, func() error {
				_, err := u.c.Ctl(ctx, node, args...)
				return err
			})
			u.understood(ctx, what, node, func() error {
				cmd, err := u.c.Command(ctx, node, append([]string{u.oldCtl}, args...)...)
				if err != nil {
					return err
				}
				if out, err := cmd.CombinedOutput(); err != nil {
					return fmt.Errorf("the old blockctl %v at %s: %w: %s", args, node, err, out)
				}
				return nil
			})
		}
		if v := u.version(node); v.GetFormatVersion() < v.GetFormatVersionSupported() {
			u.refused(ctx, what, node)
		}
	}
	u.sameStates(ctx, what)
}

// understood checks that a node does what it is asked. On a busy machine leaders change by
// themselves; a node that says that there is none just then is asked when there is one.
func (u *upgrade) understood(ctx context.Context, what, node string, ask func() error) {
	u.t.Helper()
	err := ask()
	for err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "knows no leader") {
		u.version(node) // which waits for a leader
		err = ask()
	}
	if err != nil {
		u.t.Errorf("%s: %v", what, err)
	}
}

// refused checks that a node refuses what not all nodes understand, in words.
func (u *upgrade) refused(ctx context.Context, what, node string) {
	u.t.Helper()
	if newCommand == nil {
		return
	}
	_, err := u.c.Ctl(ctx, node, newCommand...)
	if err == nil || !strings.Contains(err.Error(), "upgrade") {
		u.t.Errorf("%s: a command that not all understand, at %s: %v", what, node, err)
	}
}

// version is what a node says of the versions of commands.
func (u *upgrade) version(node string) *blockdv1.Cluster {
	u.t.Helper()
	h, address, err := u.c.Client(node)
	if err != nil {
		u.t.Fatal(err)
	}
	defer h.CloseIdleConnections()
	r, err := blockdv1connect.NewClusterServiceClient(h, address).GetCluster(u.t.Context(), connect.NewRequest(&blockdv1.GetClusterRequest{Linearizable: true}))
	if err != nil {
		u.t.Fatal(err)
	}
	return r.Msg.GetCluster()
}

// backup writes a backup at a node. It also has the node write a snapshot, from which
// its next start begins, and a leader compare states.
func (u *upgrade) backup(node string) (path string) {
	u.t.Helper()
	path = filepath.Join(u.t.TempDir(), node+".backup")
	if _, err := u.c.Ctl(u.t.Context(), node, "cluster", "backup", path); err != nil {
		u.t.Fatal(err)
	}
	return path
}

// sameStates has the states of all nodes compared, and waits until each has said that
// its own is the leader's. One whose state differs stops instead.
func (u *upgrade) sameStates(ctx context.Context, what string) {
	u.t.Helper()
	for _, node := range nodes {
		u.hashes[node] = u.said(node, "state is the leader's at index")
	}
	for _, node := range nodes {
		u.backup(node)
	}
	for _, node := range nodes {
		for u.said(node, "state is the leader's at index") == u.hashes[node] {
			if u.said(node, `"event":"cluster.stopped"`) > 0 {
				u.t.Fatalf("%s: %s has stopped; its log is below", what, node)
			}
			select {
			case <-ctx.Done():
				u.t.Fatalf("%s: %s has not compared its state: %v", what, node, ctx.Err())
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// said counts lines in a node's log.
func (u *upgrade) said(node, text string) int {
	u.t.Helper()
	for _, n := range u.st.Nodes {
		if n.Name == node {
			log, err := os.ReadFile(n.LogPath)
			if err != nil {
				u.t.Fatal(err)
			}
			return strings.Count(string(log), text)
		}
	}
	u.t.Fatalf("there is no %s", node)
	return 0
}

// gateOpens waits until all versions are in use, and returns the newest.
func (u *upgrade) gateOpens() uint32 {
	u.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		v := u.version("n3")
		if v.GetFormatVersion() == v.GetFormatVersionSupported() {
			return v.GetFormatVersion()
		}
		if time.Now().After(deadline) {
			u.t.Fatalf("version %d of commands is in use after a minute, and all understand %d", v.GetFormatVersion(), v.GetFormatVersionSupported())
		}
	}
}

// noWayBack: the old version refuses the data of a node that uses the new one, and
// nothing is lost by having tried.
func (u *upgrade) noWayBack() {
	u.t.Helper()
	t, node := u.t, "n2"
	before := u.said(node, "install the newer release")
	if err := errors.Join(u.c.Stop(stopGrace, node), u.c.Install(u.old, node)); err != nil {
		t.Fatal(err)
	}
	err := u.c.Restart(t.Context(), node)
	if err == nil {
		t.Errorf("the old version started with data of the new one")
	}
	if u.said(node, "install the newer release") == before {
		t.Errorf("the old version does not say what to do: %v", err)
	}
	if err := errors.Join(u.c.Install(u.new, node), u.c.Restart(t.Context(), node)); err != nil {
		t.Fatal(err)
	}
	if _, err := u.tr.AwaitSync(t.Context()); err != nil {
		t.Error(err)
	}
}

// finish judges all answers to clients.
func (u *upgrade) finish() {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	r, err := u.load.Stop(ctx)
	if err != nil {
		u.t.Error(err)
	}
	u.t.Logf("%d calls of clients, %d open, %d by several nodes: linearizable", r.Calls, r.Open, r.Again)
}

// restores: this version restores a backup of the old one, and the old one refuses a
// backup of this one if it has new commands in it.
func (u *upgrade) restores(before string, gated bool) {
	u.t.Helper()
	after := u.backup("n1")
	keys := filepath.Join(u.st.Nodes[0].DataDir, "pki", "cluster.keys")
	restore := func(program, backup string) (string, error) {
		out, err := exec.CommandContext(u.t.Context(), program, "meta", "restore", backup, "--data", filepath.Join(u.t.TempDir(), "data"), "--keys", keys).CombinedOutput()
		return string(out), err
	}
	for _, backup := range []string{before, after} {
		if out, err := restore(u.new, backup); err != nil {
			u.t.Errorf("restore %s: %v: %s", backup, err, out)
		}
	}
	switch out, err := restore(u.old, after); {
	case gated && (err == nil || !strings.Contains(out, "install the newer release")):
		u.t.Errorf("the old version restores a backup of the new one: %v: %s", err, out)
	case !gated && err != nil:
		u.t.Errorf("the old version does not restore a backup of the new one, which has the same commands: %v: %s", err, out)
	}
}

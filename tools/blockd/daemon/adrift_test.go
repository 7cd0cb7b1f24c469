package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/tools/blockbench/iscsihost"
)

// What a node said of paths counts when it is silent: not when it answers, when its process has ended,
// or when that was long ago.
func TestPathsOfSilentNodes(t *testing.T) {
	c := &steps{}
	c.forward(time.Hour)
	a := &away{c, map[catalog.ID]toldPaths{}}
	nodes := [2]catalog.Node{{ID: catalog.ID{1}}, {ID: catalog.ID{2}}}
	paths := [2]path{{"iqn.a", catalog.ID{9}}, {"nqn.b", catalog.ID{9}}}
	type answers = []peerAnswer[[]path]
	says := func(i int) peerAnswer[[]path] { return peerAnswer[[]path]{nodes[i], paths[i : i+1], nil} }
	fails := func(i int, err error) peerAnswer[[]path] { return peerAnswer[[]path]{nodes[i], nil, err} }
	silent := fmt.Errorf("ask: %w", context.DeadlineExceeded)
	refused := connect.NewError(connect.CodeUnavailable, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})
	want := func(what string, got answers, want ...path) {
		t.Helper()
		a.learn(got)
		through := a.through(got)
		if len(through) != len(want) {
			t.Errorf("%s: %v, want %v", what, through, want)
		}
		for _, p := range want {
			if !through[p] {
				t.Errorf("%s: %v, want %v", what, through, want)
			}
		}
	}
	want("who never answered", answers{fails(0, silent)})
	want("who answers", answers{says(0), says(1)})
	want("one is silent", answers{says(0), fails(1, silent)}, paths[1])
	want("both are", answers{fails(0, silent), fails(1, silent)}, paths[:]...)
	want("the process of one has ended", answers{fails(0, refused), fails(1, silent)}, paths[1])
	want("it is silent later", answers{fails(0, silent), fails(1, silent)}, paths[1])
	c.forward(pathsKept)
	want("for as long as it counts", answers{fails(1, silent)}, paths[1])
	c.forward(1)
	want("for too long", answers{fails(1, silent)})
}

// A node whose lease has ended, and that learns of no other, sends the hosts with paths to nodes that are
// silent there, with what they are waiting for; all others wait. When it is the owner again it serves
// all, and when it is not for a while, all wait.
func TestHostsOfANodeThatIsCutOff(t *testing.T) {
	t.Parallel()
	late := &lateClock{}
	a, nodes := nodesOf(t, 3, func(c *Config) { c.hostClock = late })
	id := sharedVolumeOn(t, a, nodes, "v")
	mapToAny(t, a, nodes[0], "v")
	node := ownerOf(t, nodes, id)
	owner := node.Daemon()
	other := nodes[slices.IndexFunc(nodes, func(n *testNode) bool { return n != node })].Daemon()
	state := owner.catalog.State()

	const bothIQN, singleIQN = "iqn.2026-01.dev.blockd:both", "iqn.2026-01.dev.blockd:single"
	const bothNQN, singleNQN = "nqn.2026-01.dev.blockd:both", "nqn.2026-01.dev.blockd:single"
	login := func(d *Daemon, name string) *iscsihost.Session {
		s, err := iscsihost.Dial(t.Context(), iscsihost.Config{Address: d.ISCSIAddresses()[0], Target: state.IQN, Initiator: name})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	connectTo := func(d *Daemon, name string) *nvmehost.Namespace {
		h, err := nvmehost.Dial(nvmehost.Config{Addr: d.nvme.ports[0].Addr().String(), SubNQN: state.NQN, HostNQN: name, HostID: [16]byte{name[len(name)-1]}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Close)
		ns, err := h.Namespace(1)
		if err != nil {
			t.Fatal(err)
		}
		return ns
	}
	tended := login(other, bothIQN)
	connectTo(other, bothNQN)
	late.ahead.Add(int64(30 * time.Second))
	if r, err := tended.Command(make([]byte, 6), nil, false); err != nil || r.Err() != nil {
		t.Fatal(err, r.Err())
	}
	scsi := map[string]*iscsihost.Session{bothIQN: login(owner, bothIQN), singleIQN: login(owner, singleIQN)}
	nvmes := map[string]*nvmehost.Namespace{bothNQN: connectTo(owner, bothNQN), singleNQN: connectTo(owner, singleNQN)}
	read := func(name string) error {
		if ns := nvmes[name]; ns != nil {
			return blockdev.ReadAt(ns, make([]byte, 4096), 0)
		}
		for {
			r, err := scsi[name].Command([]byte{0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, make([]byte, 4096), false)
			switch {
			case err != nil:
				return err
			case r.Sense.Key != 6: // a unit attention
				return r.Err()
			}
		}
	}
	s := owner.shared.Load()
	w := s.newSender()
	var answers []peerAnswer[[]path]
	until(t, "the other node says whom it serves", func() bool {
		answers = w.look(t.Context(), s.leased())
		told := w.known.told[other.plane.id()].paths
		return slices.Contains(told, path{bothIQN, id}) && slices.Contains(told, path{bothNQN, id})
	})
	if n := len(w.known.told[other.plane.id()].paths); n != 2 || len(w.known.through(answers)) != 0 {
		t.Errorf("it has told of %d paths, want 2; of silent ones there are %v, want none", n, w.known.through(answers))
	}
	w.ask = func(context.Context, []catalog.ID) (out []peerAnswer[[]path]) {
		for _, r := range answers {
			out = append(out, peerAnswer[[]path]{node: r.node, err: context.DeadlineExceeded})
		}
		return out
	}

	// The lease ends, and nobody can be asked. The other nodes answer the node's own sender,
	// which does nothing therefore.
	s.mu.Lock()
	held := s.leases[id]
	s.mu.Unlock()
	s.Lost(id)
	ended := map[string]chan error{}
	for _, name := range []string{bothIQN, singleIQN, bothNQN, singleNQN} {
		c := make(chan error, 1)
		ended[name] = c
		go func() { c <- read(name) }()
	}
	v := s.sharedVolume(id)
	until(t, "four reads to wait for an owner", func() bool { return v.Status().Waiting == 4 })
	alone := w.ask
	w.ask = func(context.Context, []catalog.ID) []peerAnswer[[]path] {
		out := alone(t.Context(), nil)
		i := slices.IndexFunc(out, func(r peerAnswer[[]path]) bool { return r.node.ID != other.plane.id() })
		out[i].err = nil
		return out
	}
	w.divert(t.Context())
	if n := v.Status().Waiting; n != 4 {
		t.Errorf("%d reads wait while a majority of the nodes is heard, want 4", n)
	}
	w.ask = alone
	done := make(chan struct{})
	go func() { w.divert(t.Context()); close(done) }()
	for name, c := range map[string]chan error{bothIQN: ended[bothIQN], bothNQN: ended[bothNQN]} {
		if err := <-c; !sentAway(err) {
			t.Errorf("%s, which has another path: %v", name, err)
		}
		if err := read(name); !sentAway(err) {
			t.Errorf("%s comes again: %v", name, err)
		}
	}
	if n := v.Status().Waiting; n != 2 {
		t.Errorf("%d reads of hosts without other paths wait, want 2", n)
	}
	s.Acquired(held.Lease, held.waits)
	<-done
	for name, c := range map[string]chan error{singleIQN: ended[singleIQN], singleNQN: ended[singleNQN]} {
		if err := <-c; err != nil {
			t.Errorf("%s, which has waited: %v", name, err)
		}
	}
	for _, name := range []string{bothIQN, bothNQN} {
		until(t, name+" to be served again", func() bool { return read(name) == nil })
	}

	// Nobody is the owner again.
	s.Lost(id)
	w.divert(t.Context())
	if left := w.adrift(); len(left) != 0 {
		t.Errorf("hosts are to be sent away again, for %v", left)
	}
	for _, name := range []string{bothIQN, bothNQN} {
		go func() { ended[name] <- read(name) }()
	}
	until(t, "hosts to wait here again", func() bool { return v.Status().Waiting == 2 })
	s.Acquired(held.Lease, held.waits)
	for _, name := range []string{bothIQN, bothNQN} {
		if err := <-ended[name]; err != nil {
			t.Errorf("%s, which has waited: %v", name, err)
		}
	}
}

// sentAway reports whether a host was told to go by another path.
func sentAway(err error) bool {
	var scsi *iscsihost.StatusError
	var nvm *nvmehost.StatusError
	switch {
	case errors.As(err, &scsi):
		return scsi.Sense == unavailable
	case errors.As(err, &nvm):
		return nvme.Status(nvm.Status).Code() == nvme.ANAInaccessibleStatus
	}
	return false
}

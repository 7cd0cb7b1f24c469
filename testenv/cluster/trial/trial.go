package trial

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/testenv/cluster"
	"blockd.dev/tools/blockbench/history"
	"blockd.dev/tools/blockbench/iscsihost"
	"blockd.dev/tools/blockbench/multipath"
)

const (
	poolName   = "trial"
	volumeName = "trial"
	copies     = 3
)

// Cluster is what the trial needs: a node that is killed loses what its disks have not synced.
// Nodes have two disks, so that the extents of a volume are on different ones, and there is room
// when one is lost. They are as small as disks can be, so that checkpoints go on all the time, and one can be filled.
var Cluster = cluster.Config{Volatile: true, Disks: 2, DiskSize: 256 << 20}

// volumeBytes is a full row of extents, which take turns.
const volumeBytes = extmap.WidthMax * extmap.ShardBytes

// Timings of the hosts. Linux waits for 5 s and more until it gives up a path that
// is silent. Nodes begin no write that is older than 3 s; hosts that wait for
// less than that are not safe, and more has the trial see less.
const (
	silence       = 4 * time.Second // until a path is given up
	watcherQuiet  = 2 * time.Minute // the same for watchers, who stay through a pause
	hostPatience  = 90 * time.Second
	syncPatience  = 2 * time.Minute // until all copies are good again
	readyPatience = 90 * time.Second
	pollEvery     = 50 * time.Millisecond
	callTimeout   = 5 * time.Second // of one call to a node's API
)

// Trial is a volume of three copies on a cluster, and its hosts' history.
type Trial struct {
	c     *cluster.Cluster
	nodes []cluster.NodeStatus
	nqn   string
	nsid  uint32
	iqn   string
	lun   uint16

	rec     *history.Recorder
	again   resent
	round   int // how many faults there have been
	blocks  map[int64]bool
	load    *load // of the fault that goes on
	fillers int   // how many volumes were made to fill disks
}

// New makes a replicated volume on a cluster of three nodes or more.
func New(ctx context.Context, c *cluster.Cluster) (*Trial, error) {
	st, err := c.Status()
	if err != nil {
		return nil, err
	}
	t := &Trial{c: c, nodes: st.Nodes, rec: history.NewRecorder(), blocks: map[int64]bool{}}
	if len(t.nodes) < copies {
		return nil, fmt.Errorf("trial: %d nodes: want at least %d", len(t.nodes), copies)
	}
	for _, args := range [][]string{
		{"pool", "create", poolName, "--replicas", fmt.Sprint(copies)},
		{"volume", "create", volumeName, "--pool", poolName, "--size", fmt.Sprint(volumeBytes)},
		{"map", volumeName, "any"},
		{"pool", "create", fillerPool},
	} {
		if _, err := c.Ctl(ctx, cluster.HostName, args...); err != nil {
			return nil, err
		}
	}
	if _, err := t.AwaitSync(ctx); err != nil {
		return nil, err
	}
	v, err := t.volumeNamed(ctx, volumeName)
	if err != nil {
		return nil, err
	}
	t.nqn, t.nsid, t.iqn, t.lun = v.GetNqn(), v.GetNsid(), v.GetIqn(), uint16(v.GetLun())
	return t, nil
}

// names are the nodes'.
func (t *Trial) names() (out []string) {
	for _, n := range t.nodes {
		out = append(out, n.Name)
	}
	return out
}

// others are the nodes but those.
func (t *Trial) others(names ...string) []string {
	return slices.DeleteFunc(t.names(), func(n string) bool { return slices.Contains(names, n) })
}

// ask calls the nodes' APIs, each for a while, until one gives an answer that
// f likes, as long as patience lasts.
func (t *Trial) ask(ctx context.Context, what string, patience time.Duration, f func(ctx context.Context, client connect.HTTPClient, address string) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		for _, name := range t.names() {
			client, address, err := t.c.Client(name)
			if err != nil {
				return err
			}
			call, done := context.WithTimeout(ctx, callTimeout)
			err = f(call, client, address)
			done()
			client.CloseIdleConnections()
			if err == nil {
				return nil
			}
			last = fmt.Errorf("%s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("trial: waited %v for %s: %w", patience, what, last)
		case <-tick.C:
		}
	}
}

// volumeNamed is what the first node says of a volume that answers.
func (t *Trial) volumeNamed(ctx context.Context, name string) (v *blockdv1.Volume, err error) {
	err = t.ask(ctx, "a node that knows the volume", readyPatience, func(ctx context.Context, client connect.HTTPClient, address string) error {
		r, err := blockdv1connect.NewVolumeServiceClient(client, address).GetVolume(ctx, connect.NewRequest(&blockdv1.GetVolumeRequest{Name: name}))
		if err == nil {
			v = r.Msg.GetVolume()
		}
		return err
	})
	return v, err
}

// Owner waits until a node owns the volume.
func (t *Trial) Owner(ctx context.Context) (name string, err error) {
	err = t.ask(ctx, "an owner of the volume", readyPatience, func(ctx context.Context, client connect.HTTPClient, address string) error {
		r, err := blockdv1connect.NewVolumeServiceClient(client, address).GetVolume(ctx, connect.NewRequest(&blockdv1.GetVolumeRequest{Name: volumeName}))
		if err != nil {
			return err
		}
		if name = r.Msg.GetVolume().GetNode(); name == "" {
			return errors.New("nobody owns it")
		}
		return nil
	})
	return name, err
}

// AwaitOwner waits until the owner is one that is wanted.
func (t *Trial) AwaitOwner(ctx context.Context, what string, wanted func(string) bool) error {
	return t.ask(ctx, what, readyPatience, func(ctx context.Context, _ connect.HTTPClient, _ string) error {
		owner, err := t.Owner(ctx)
		if err == nil && !wanted(owner) {
			err = fmt.Errorf("%s owns it", owner)
		}
		return err
	})
}

// disks are those of all nodes.
func (t *Trial) disks(ctx context.Context) (disks []*blockdv1.Disk, err error) {
	err = t.ask(ctx, "the list of disks", readyPatience, func(ctx context.Context, client connect.HTTPClient, address string) error {
		r, err := blockdv1connect.NewNodeServiceClient(client, address).ListDisks(ctx, connect.NewRequest(&blockdv1.ListDisksRequest{}))
		if err == nil {
			disks = r.Msg.GetDisks()
		}
		return err
	})
	return disks, err
}

// diskAt finds a disk by the name of its file.
func (t *Trial) diskAt(ctx context.Context, node, file string) (*blockdv1.Disk, error) {
	disks, err := t.disks(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(disks, func(d *blockdv1.Disk) bool { return d.GetNode() == node && filepath.Base(d.GetPath()) == file })
	if i < 0 {
		return nil, fmt.Errorf("trial: %s has no %s", node, file)
	}
	return disks[i], nil
}

// awaitDisk waits until a disk is as an administrator wants it.
func (t *Trial) awaitDisk(ctx context.Context, uuid, service string) error {
	return t.ask(ctx, "the disk to be "+service, syncPatience, func(ctx context.Context, client connect.HTTPClient, address string) error {
		r, err := blockdv1connect.NewNodeServiceClient(client, address).ListDisks(ctx, connect.NewRequest(&blockdv1.ListDisksRequest{}))
		if err != nil {
			return err
		}
		for _, d := range r.Msg.GetDisks() {
			if d.GetUuid() == uuid && d.GetService() != service {
				return fmt.Errorf("disk %s is %s", d.GetName(), d.GetService())
			}
		}
		return nil
	})
}

// Leader waits until the nodes have one.
func (t *Trial) Leader(ctx context.Context) (name string, err error) {
	err = t.ask(ctx, "a leader", readyPatience, func(ctx context.Context, client connect.HTTPClient, address string) error {
		r, err := blockdv1connect.NewClusterServiceClient(client, address).GetCluster(ctx,
			connect.NewRequest(&blockdv1.GetClusterRequest{Linearizable: true}))
		if err != nil {
			return err
		}
		if name = r.Msg.GetCluster().GetLeader(); name == "" {
			return errors.New("there is none")
		}
		return nil
	})
	return name, err
}

// AwaitSync waits until every node says that all copies are in sync and who
// owns the volume, and tells how long that took.
func (t *Trial) AwaitSync(ctx context.Context) (took time.Duration, err error) {
	began := time.Now()
	for _, n := range t.nodes {
		err := t.ask(ctx, "all copies to be in sync", syncPatience, func(ctx context.Context, _ connect.HTTPClient, _ string) error {
			client, address, err := t.c.Client(n.Name)
			if err != nil {
				return err
			}
			defer client.CloseIdleConnections()
			r, err := blockdv1connect.NewVolumeServiceClient(client, address).GetVolume(ctx, connect.NewRequest(&blockdv1.GetVolumeRequest{Name: volumeName}))
			if err != nil {
				return err
			}
			return inSync(r.Msg.GetVolume())
		})
		if err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// inSync is nil if the volume is as it should be.
func inSync(v *blockdv1.Volume) error {
	if len(v.GetReplicas()) < copies || v.GetNode() == "" {
		return fmt.Errorf("it is on %d disks, owner %q", len(v.GetReplicas()), v.GetNode())
	}
	for _, r := range v.GetReplicas() {
		if r.GetState() != "in-sync" {
			return fmt.Errorf("the copy on %s is %s", r.GetNode(), r.GetState())
		}
	}
	return nil
}

// outOfSync is one of the copies on these nodes that is not in sync; nil if all are.
func outOfSync(v *blockdv1.Volume, nodes ...string) *blockdv1.Replica {
	for _, r := range v.GetReplicas() {
		if slices.Contains(nodes, r.GetNode()) && r.GetState() != "in-sync" {
			return r
		}
	}
	return nil
}

// protocol is what a host speaks.
type protocol string

const (
	overNVMe  protocol = "NVMe/TCP"
	overISCSI protocol = "iSCSI"
)

// path is how a host connects to a node. Sockets are where the cluster's initiators are.
func (t *Trial) path(speaks protocol, host byte, quiet time.Duration, n *cluster.NodeStatus) func(context.Context) (multipath.Session, error) {
	within := func(f func() error) error { return t.c.Do(cluster.HostName, f) }
	name := fmt.Sprintf("2026-01.dev.blockd:trial-%d", host)
	if speaks == overISCSI {
		return multipath.ISCSI(iscsihost.Config{Address: n.ISCSI[0], Target: t.iqn, LUN: t.lun, Initiator: "iqn." + name, Timeout: quiet}, within)
	}
	return multipath.NVMe(nvmehost.Config{Addr: n.NVMe[0], SubNQN: t.nqn, HostNQN: "nqn." + name, HostID: [16]byte{0: host, 15: 1},
		Depth: 64, KeepAlive: quiet, Timeout: quiet}, t.nsid, within)
}

// connectTo makes a device of the paths to some nodes.
func (t *Trial) connectTo(ctx context.Context, speaks protocol, host byte, quiet time.Duration, config multipath.Config, nodes ...string) (*multipath.Device, error) {
	tell := config.Again
	config.Again = func(r *blockdev.Request, why error) {
		t.again.note(r, why)
		if tell != nil {
			tell(r, why)
		}
	}
	for i := range t.nodes {
		if n := &t.nodes[i]; slices.Contains(nodes, n.Name) {
			config.Paths = append(config.Paths, t.path(speaks, host, quiet, n))
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readyPatience, fmt.Errorf("no path to %v over %s after %v", nodes, speaks, readyPatience))
	defer cancel()
	return multipath.New(ctx, config)
}

// A Result is what came of one fault.
type Result struct {
	Fault string
	Ops   int
	Open  int           // operations whose outcome the host was never told
	Pause time.Duration // the longest time that an operation took that was acknowledged
	From  time.Time     // when that began
	Sync  time.Duration // from the end of the load until all copies were good again
	// Refused are the operations that hosts were told there was no space for.
	Refused int
	Errors  []string // that hosts were told, other than unknown outcomes and those
	// Goal is what the pause should not exceed; 0: there is none.
	Goal time.Duration
	history.Verdict
	ops []history.Op
}

// Judge says whether a pause is within its goal; nothing where there is none. A miss is no error: who else uses the
// machine counts as well.
func Judge(pause, goal time.Duration) string {
	switch {
	case goal == 0:
		return ""
	case pause <= goal:
		return fmt.Sprintf(" (goal %v: met)", goal)
	default:
		return fmt.Sprintf(" (goal %v: missed)", goal)
	}
}

// Err is nil if nothing is wrong.
func (r *Result) Err() error {
	err := r.Verdict.Err(r.ops)
	if len(r.Errors) > 0 {
		err = errors.Join(err, fmt.Errorf("trial: %d I/O errors, the first: %s", len(r.Errors), r.Errors[0]))
	}
	return err
}

// Events is what the nodes logged from shortly before until shortly after a pause.
func (t *Trial) Events(from time.Time, pause time.Duration) ([]cluster.Event, error) {
	events, err := t.c.Events(from.Add(-around))
	until := from.Add(pause + around)
	return slices.DeleteFunc(events, func(e cluster.Event) bool { return e.Time.After(until) }), err
}

// Run does one fault to the cluster under load and judges what hosts saw.
func (t *Trial) Run(ctx context.Context, f Fault) (Result, error) {
	r := Result{Fault: f.Name, Goal: f.Goal}
	l, err := t.startLoad(ctx)
	if err != nil {
		return r, err
	}
	t.load = l
	err = t.during(ctx, f, l)
	if stopped := l.stop(); err == nil {
		err = stopped
	}
	r.Pause, r.From, r.Refused, r.Errors = l.slowest, l.from, l.refused, l.errors
	if r.Refused > 0 && !f.Full {
		r.Errors = append(r.Errors, fmt.Sprintf("%d operations were told that there is no space, and no disk was full", r.Refused))
	}
	if err != nil {
		return r, fmt.Errorf("trial: %s: %w", f.Name, err)
	}
	if r.Sync, err = t.AwaitSync(ctx); err != nil {
		return r, fmt.Errorf("trial: after %s: %w", f.Name, err)
	}
	if err := t.readAll(ctx); err != nil {
		return r, fmt.Errorf("trial: after %s: %w", f.Name, err)
	}
	r.ops = t.rec.Ops()
	r.Verdict = history.Check(r.ops)
	for _, o := range r.ops {
		if o.Call == 0 {
			continue // of before, see Recorder.Next
		}
		r.Ops++
		if o.Open {
			r.Open++
		}
	}
	t.rec = t.rec.Next()
	t.round++
	return r, nil
}

// during begins the fault, has it last, ends it, and has the hosts go on.
func (t *Trial) during(ctx context.Context, f Fault, l *load) (err error) {
	if err := l.progress(ctx); err != nil {
		return fmt.Errorf("before it: %w", err)
	}
	end, err := f.Begin(ctx, t)
	if err != nil {
		return err
	}
	if !f.Stuck {
		if err := l.progress(ctx); err != nil {
			err = fmt.Errorf("while it lasts: %w", err)
			return errors.Join(err, end(ctx))
		}
	}
	pass(ctx, f.Lasts)
	if err := end(ctx); err != nil {
		return err
	}
	if err := l.progress(ctx); err != nil {
		return fmt.Errorf("when it is over: %w", err)
	}
	return nil
}

// pass lets time pass, or ends with ctx.
func pass(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// readAll reads every block that was ever written by the path of each node.
func (t *Trial) readAll(ctx context.Context) error {
	for i, n := range t.nodes {
		dev, err := t.connectTo(ctx, overNVMe, byte(readerHost+i), silence, multipath.Config{Patience: hostPatience}, n.Name)
		if err != nil {
			return err
		}
		blocks := slices.Collect(maps.Keys(t.blocks))
		err = t.parallel(dev, int64(len(blocks)), func(h *host, i int64) error {
			err := h.read(blocks[i])
			if err != nil {
				err = fmt.Errorf("by the path of %s: block %d: %w", n.Name, blocks[i], err)
			}
			return err
		})
		if err := errors.Join(err, dev.Close()); err != nil {
			return err
		}
	}
	return nil
}

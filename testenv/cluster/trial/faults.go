package trial

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/testenv/cluster"
)

// A Fault is something that happens to a cluster.
type Fault struct {
	Name string
	// Lasts is how long it goes on once hosts have got over its begin; 0 for what is over by itself.
	Lasts time.Duration
	// Stuck says that hosts may not get on while it lasts, mostly since no majority of the nodes
	// is there.
	Stuck bool
	// Full says that hosts may be told that there is no space.
	Full bool
	// Goal is what the longest pause should not exceed on a machine that is not busy; 0: there is none.
	Goal time.Duration
	// Long says that it is left out of `make test`, which has little time; `testenv cluster trial` does it.
	Long bool
	// Begin does it, and returns what ends it.
	Begin func(context.Context, *Trial) (end func(context.Context) error, err error)
}

// lasts is for faults without a reason to last otherwise: leases have ended by then, and
// the copies differ in thousands of writes.
const lasts = 3 * time.Second

// pauseLasts is how long an owner is paused: longer than everything else that
// has a time in the cluster.
const pauseLasts = 30 * time.Second

// Faults are what Run can do.
var Faults = []Fault{
	// Whoever is killed loses what its disk had not made durable: see Cluster.
	{Name: "owner killed", Lasts: lasts, Begin: onOwner(killed)},
	{Name: "another node killed", Lasts: lasts, Begin: onReplica(killed)},
	{Name: "Raft leader killed", Lasts: lasts, Begin: onLeader(killed)},
	{Name: "owner and one more killed", Lasts: lasts, Stuck: true, Begin: onOwner(func(t *Trial, owner string) ending {
		return killAll(t, owner, t.others(owner)[0])
	})},
	{Name: "power of all nodes fails", Lasts: time.Second, Stuck: true, Begin: func(_ context.Context, t *Trial) (func(context.Context) error, error) {
		return killAll(t, t.names()...)()
	}},
	{Name: "owner paused for 30 s", Lasts: pauseLasts, Begin: onOwner(func(t *Trial, owner string) ending {
		return simple(func() error { return t.c.Pause(owner) }, func() error { return t.c.Resume(owner) })
	})},
	{Name: "owner paused until hosts give it up", Lasts: time.Second, Begin: onOwner(func(t *Trial, owner string) ending {
		return simple(func() error { return t.c.Pause(owner) }, func() error { return t.c.Resume(owner) })
	})},
	{Name: "owner cut off from the nodes", Lasts: lasts, Begin: onOwner(func(t *Trial, owner string) ending {
		return cut(t, func() error { return t.c.Partition([]string{owner}, t.others(owner)) })
	})},
	{Name: "owner cut off from all, hosts too", Lasts: lasts, Begin: onOwner(func(t *Trial, owner string) ending {
		return cut(t, func() error { return t.c.Partition([]string{owner}, append(t.others(owner), cluster.HostName)) })
	})},
	{Name: "owner and Raft leader apart", Lasts: lasts, Begin: ownerAndLeaderApart},
	{Name: "another node cut off", Lasts: lasts, Begin: onReplica(func(t *Trial, name string) ending {
		return cut(t, func() error { return t.c.Partition([]string{name}, t.others(name)) })
	})},
	{Name: "owner not heard by the nodes", Lasts: lasts, Begin: onOwner(func(t *Trial, owner string) ending {
		return cut(t, func() error { return t.c.PartitionOneWay([]string{owner}, t.others(owner)) })
	})},
	{Name: "owner hears no node", Lasts: lasts, Begin: onOwner(func(t *Trial, owner string) ending {
		return cut(t, func() error { return t.c.PartitionOneWay(t.others(owner), []string{owner}) })
	})},
	{Name: "another node not heard by the nodes", Lasts: lasts, Long: true, Begin: onReplica(func(t *Trial, name string) ending {
		return cut(t, func() error { return t.c.PartitionOneWay([]string{name}, t.others(name)) })
	})},
	{Name: "another node hears no node", Lasts: lasts, Long: true, Begin: onReplica(func(t *Trial, name string) ending {
		return cut(t, func() error { return t.c.PartitionOneWay(t.others(name), []string{name}) })
	})},
	{Name: "Raft leader alone cut off, not the owner", Lasts: lasts, Long: true, Begin: leaderAlone},
	{Name: "all nodes apart", Lasts: lasts, Stuck: true, Begin: func(_ context.Context, t *Trial) (func(context.Context) error, error) {
		return cut(t, func() error { return t.c.Partition(t.names(), t.names()) })()
	}},
	{Name: "hosts cut off from the owner only", Lasts: lasts, Begin: onOwner(func(t *Trial, owner string) ending {
		return cut(t, func() error { return t.c.Partition([]string{cluster.HostName}, []string{owner}) })
	})},
	{Name: "owner does not hear the hosts", Lasts: lasts, Long: true, Begin: onOwner(func(t *Trial, owner string) ending {
		return cut(t, func() error { return t.c.PartitionOneWay([]string{cluster.HostName}, []string{owner}) })
	})},
	{Name: "hosts do not hear the owner", Lasts: lasts, Long: true, Begin: onOwner(func(t *Trial, owner string) ending {
		return cut(t, func() error { return t.c.PartitionOneWay([]string{owner}, []string{cluster.HostName}) })
	})},
	{Name: "owner and hosts cut off from the other nodes", Lasts: lasts, Stuck: true, Begin: onOwner(func(t *Trial, owner string) ending {
		return cut(t, func() error { return t.c.Partition([]string{owner, cluster.HostName}, t.others(owner)) })
	})},
	{Name: "5% of the frames between nodes lost", Lasts: lasts, Begin: func(_ context.Context, t *Trial) (func(context.Context) error, error) {
		return cut(t, func() error { return t.c.Loss(5, t.names(), t.names()) })()
	}},
	{Name: "hosts' connections reset all the time", Lasts: lasts, Begin: func(_ context.Context, t *Trial) (func(context.Context) error, error) {
		return resets(t, []string{cluster.HostName}, t.names())()
	}},
	{Name: "connections between nodes reset all the time", Lasts: lasts, Begin: func(_ context.Context, t *Trial) (func(context.Context) error, error) {
		return resets(t, t.names(), t.names())()
	}},
	{Name: "all nodes' clocks set forward and back all the time", Lasts: lasts, Begin: clocksJump},
	{Name: "owner's clock 400 days ahead", Lasts: renewLooks, Begin: onOwner(wrongClock)},
	{Name: "another node's disk fails writes", Lasts: lasts, Begin: onReplica(failingWrites)},
	{Name: "owner's disk fails writes", Lasts: lasts, Begin: onOwner(failingWrites)},
	{Name: "owner's disks can't read 30% of the time", Lasts: lasts, Long: true, Begin: onOwner(failingReads("read err=EIO p=0.3"))},
	{Name: "owner's disks flip a bit in 30% of the reads", Lasts: lasts, Begin: onOwner(failingReads("read flip p=0.3"))},
	{Name: "owner's disk writes a fifth of it wrong, or elsewhere, until a scrub", Lasts: time.Second, Begin: onOwner(wrongWrites)},
	{Name: "another node's disks take 50 ms for everything", Lasts: lasts, Long: true, Begin: onReplica(slowDisk)},
	{Name: "another node's disks take 200 ms, and the third copy is brought back", Begin: onReplica(slowAndNeeded)},
	{Name: "another node's disks full", Lasts: lasts, Full: true, Begin: onReplica(func(t *Trial, name string) ending { return full(t, name) })},
	{Name: "owner's disks full", Lasts: lasts, Full: true, Long: true, Begin: onOwner(func(t *Trial, owner string) ending { return full(t, owner) })},
	{Name: "disks of all nodes full", Lasts: lasts, Full: true, Long: true, Begin: func(_ context.Context, t *Trial) (func(context.Context) error, error) {
		return full(t, t.names()...)()
	}},
	{Name: "a disk of the owner is lost for good", Begin: onOwner(lostDisk)},
	{Name: "owner drained, stopped, started, resumed, as for an upgrade", Lasts: time.Second, Goal: drainGoal, Begin: onOwner(upgraded)},
	{Name: "nodes restarted one after the other", Begin: rollingRestart},
}

// An ending begins a fault and returns what ends it.
type ending func() (func(context.Context) error, error)

// simple is a fault that two calls make.
func simple(begin, end func() error) ending {
	return func() (func(context.Context) error, error) {
		return func(context.Context) error { return end() }, begin()
	}
}

// cut is a fault of the network, which has to lose something.
func cut(t *Trial, begin func() error) ending {
	return func() (func(context.Context) error, error) {
		before, err := t.dropped()
		if err == nil {
			err = begin()
		}
		return func(context.Context) error {
			now, err := t.dropped()
			if err == nil && now == before {
				err = errors.New("no frame was lost")
			}
			return errors.Join(err, t.c.Heal())
		}, err
	}
}

// dropped is how many frames were lost so far.
func (t *Trial) dropped() (frames uint64, err error) {
	wires, err := t.c.Wires()
	for _, w := range wires {
		frames += w.Dropped
	}
	return frames, err
}

// resetEvery is long enough for hosts to connect again, and to work until the next reset.
const resetEvery = 100 * time.Millisecond

// resets ends all TCP connections between places again and again, in turns at one end and the
// other: which of them forgets what it had not delivered.
func resets(t *Trial, a, b []string) ending {
	return func() (func(context.Context) error, error) {
		count := 0
		return again(resetEvery, func() error {
			n, err := t.c.Reset(a, b)
			count += n
			a, b = b, a
			return err
		}, func(context.Context) error {
			if count < 10 {
				return fmt.Errorf("only %d connections were reset", count)
			}
			return nil
		}), nil
	}
}

// Clocks may differ by an hour. These are set by up to half of it, so that no two differ by more.
const (
	jumpEvery = 100 * time.Millisecond
	jumpMax   = 30 * 60 // seconds
)

// clocksJump sets the clock of one node after the other, forward or back.
func clocksJump(_ context.Context, t *Trial) (func(context.Context) error, error) {
	turn := 0
	return again(jumpEvery, func() error {
		turn++
		ahead := time.Duration(rand.IntN(2*jumpMax)-jumpMax) * time.Second
		return t.c.SetClock(ahead, t.names()[turn%len(t.nodes)])
	}, func(context.Context) error { return t.c.SetClock(0, t.names()...) }), nil
}

// renewLooks is until a node has seen that its certificate has ended, which it looks for every 10 s, and
// has made itself one that is not valid yet by the clocks of the others.
const renewLooks = 12 * time.Second

// wrongClock is of a node by whose clock all certificates have ended.
func wrongClock(t *Trial, name string) ending {
	return simple(func() error { return t.c.SetClock(400*24*time.Hour, name) }, func() error { return t.c.SetClock(0, name) })
}

// again does something every so often, until what it returns is called, which then calls after.
func again(every time.Duration, f func() error, after func(context.Context) error) func(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	var going sync.WaitGroup
	var err error
	going.Go(func() {
		for ctx.Err() == nil && err == nil {
			err = f()
			pass(ctx, every)
		}
	})
	return func(ctx context.Context) error {
		cancel()
		going.Wait()
		return errors.Join(err, after(ctx))
	}
}

func killed(t *Trial, name string) ending { return killAll(t, name) }

// killAll kills nodes at once, and starts them together.
func killAll(t *Trial, names ...string) ending {
	return func() (func(context.Context) error, error) {
		return func(ctx context.Context) error { return t.c.Restart(ctx, names...) }, t.c.Kill(names...)
	}
}

// lostDisk is a disk that answers nothing any more, and whose copies an administrator has
// others take. It lasts until they have them. After it, the disk is as good as new.
func lostDisk(t *Trial, node string) ending {
	return func() (func(context.Context) error, error) {
		ctx, cancel := context.WithTimeout(context.Background(), syncPatience)
		defer cancel()
		const path = "disk1"
		disk, err := t.diskAt(ctx, node, path)
		if err == nil {
			err = t.c.DiskFaults(node+"/"+path, "any err=EIO")
		}
		if err == nil {
			_, err = t.c.Ctl(ctx, cluster.HostName, "disk", "drain", disk.GetName())
		}
		if err == nil {
			err = t.awaitDisk(ctx, disk.GetUuid(), "drained")
		}
		return func(ctx context.Context) error {
			err := errors.Join(t.c.DiskFaults(node+"/"+path), t.c.Restart(ctx, node))
			if err == nil {
				_, err = t.c.Ctl(ctx, cluster.HostName, "disk", "resume", disk.GetName())
			}
			return err
		}, err
	}
}

// stopGrace is how long a node may take to stop.
const stopGrace = 10 * time.Second

// rollingRestart is an upgrade: one node after the other is stopped as an administrator would,
// started, and left alone until its copy is in sync.
func rollingRestart(ctx context.Context, t *Trial) (func(context.Context) error, error) {
	for _, name := range t.names() {
		err := t.c.Stop(stopGrace, name)
		if err == nil {
			err = t.c.Restart(ctx, name)
		}
		if err == nil {
			_, err = t.AwaitSync(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("restart of %s: %w", name, err)
		}
	}
	return func(context.Context) error { return nil }, nil
}

// drainGoal is what hosts may wait for a planned change of owner.
const drainGoal = 200 * time.Millisecond

// upgraded is a node that an administrator stops for an upgrade, in the order of docs/OPERATIONS.md.
func upgraded(t *Trial, name string) ending {
	return func() (func(context.Context) error, error) {
		ctx, cancel := context.WithTimeout(context.Background(), syncPatience)
		defer cancel()
		_, err := t.c.Ctl(ctx, cluster.HostName, "node", "drain", name, "--for", "upgrade", "--wait")
		if err == nil {
			var owner string
			if owner, err = t.Owner(ctx); err == nil && owner == name {
				err = fmt.Errorf("%s is drained, and owns the volume", name)
			}
		}
		if err == nil {
			err = t.c.Stop(stopGrace, name)
		}
		if err == nil {
			err = t.c.Restart(ctx, name)
		}
		return func(ctx context.Context) error {
			_, err := t.c.Ctl(ctx, cluster.HostName, "node", "resume", name)
			return err
		}, err
	}
}

type beginning = func(context.Context, *Trial) (func(context.Context) error, error)

// onOwner does it to the owner of the volume.
func onOwner(f func(*Trial, string) ending) beginning { return on((*Trial).Owner, f) }

// onLeader does it to the leader of the Raft group.
func onLeader(f func(*Trial, string) ending) beginning { return on((*Trial).Leader, f) }

func on(find func(*Trial, context.Context) (string, error), f func(*Trial, string) ending) beginning {
	return func(ctx context.Context, t *Trial) (func(context.Context) error, error) {
		name, err := find(t, ctx)
		if err != nil {
			return nil, err
		}
		return f(t, name)()
	}
}

// onReplica does it to a node that is not the owner, and if it can be not the
// leader.
func onReplica(f func(*Trial, string) ending) beginning {
	return func(ctx context.Context, t *Trial) (func(context.Context) error, error) {
		owner, leader, err := t.ownerAndLeader(ctx)
		if err != nil {
			return nil, err
		}
		return f(t, t.others(owner, leader)[0])()
	}
}

func (t *Trial) ownerAndLeader(ctx context.Context) (owner, leader string, err error) {
	if owner, err = t.Owner(ctx); err == nil {
		leader, err = t.Leader(ctx)
	}
	return owner, leader, err
}

// ownerAndLeaderApart: the third node hears both, and they don't hear each other.
func ownerAndLeaderApart(ctx context.Context, t *Trial) (func(context.Context) error, error) {
	owner, leader, err := t.leaderBesideOwner(ctx)
	if err != nil {
		return nil, err
	}
	return cut(t, func() error { return t.c.Partition([]string{owner}, []string{leader}) })()
}

// leaderAlone: the owner and the third node are the majority.
func leaderAlone(ctx context.Context, t *Trial) (func(context.Context) error, error) {
	_, leader, err := t.leaderBesideOwner(ctx)
	if err != nil {
		return nil, err
	}
	return cut(t, func() error { return t.c.Partition([]string{leader}, t.others(leader)) })()
}

// leaderBesideOwner has a node lead that does not own the volume.
func (t *Trial) leaderBesideOwner(ctx context.Context) (owner, leader string, err error) {
	owner, leader, err = t.ownerAndLeader(ctx)
	if err == nil && leader == owner {
		leader = t.others(owner)[0]
		err = t.transfer(ctx, leader)
	}
	return owner, leader, err
}

// transfer makes a node the leader.
func (t *Trial) transfer(ctx context.Context, to string) error {
	return t.ask(ctx, "another leader", readyPatience, func(ctx context.Context, client connect.HTTPClient, address string) error {
		r, err := blockdv1connect.NewClusterServiceClient(client, address).TransferLeadership(ctx,
			connect.NewRequest(&blockdv1.TransferLeadershipRequest{RequestId: fmt.Sprintf("trial-%d", time.Now().UnixNano()), To: to}))
		if err == nil && r.Msg.GetLeader() != to {
			err = fmt.Errorf("the leader is %s, not %s", r.Msg.GetLeader(), to)
		}
		return err
	})
}

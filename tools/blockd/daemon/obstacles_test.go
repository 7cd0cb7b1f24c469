package daemon

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/faulty"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/director"
	replicated "blockd.dev/replication/volume"
)

// What is in the way of a copy is told in words, with what is to be done, until it is not any more.
func TestObstaclesInWords(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for name, c := range map[string]struct {
		of                    replicated.Obstacle
		because, next, advice string
	}{
		"slow": {replicated.Obstacle{What: replicated.Slow, Now: true, Times: 1, Ago: 2 * time.Second, Took: 350_044 * time.Microsecond, Others: 9_021 * time.Microsecond, Wait: 32 * time.Second},
			"disk 7 is slow: hosts' writes to volume v took 350ms there, and 9.02ms at most on its other disks (2026-03-04 05:06:05 UTC)",
			"not copied to it before 2026-03-04 05:06:39 UTC", "`blockctl disk drain 7`"},
		"slow where nothing is known of others": {replicated.Obstacle{What: replicated.Slow, Now: true, Times: 1, Took: 350 * time.Millisecond},
			"took 350ms there (", "", "`blockctl volume latency v`"},
		"hung": {replicated.Obstacle{What: replicated.Hung, Now: true, Times: 3, Took: 1500 * time.Millisecond},
			"kept a request for volume v for 1.5s", "", "`blockctl disk drain 7`"},
		"silent": {replicated.Obstacle{What: replicated.Silent, Now: true, Times: 1, Took: 500 * time.Millisecond},
			"answered nothing that volume v asked of it for 500ms", "", "`blockctl node list`"},
		"full":      {replicated.Obstacle{What: replicated.Full, Now: true, Times: 1, Wait: time.Second}, "disk 7 is full", "there may be space by then", "fstrim"},
		"was full":  {replicated.Obstacle{What: replicated.Full, Times: 1}, "", "", ""},
		"never was": {replicated.Obstacle{}, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			told := &blockdv1.Volume{Replicas: []*blockdv1.Replica{{Number: 7, Obstacle: obstacleOf(&c.of, now)}, {Number: 8}}}
			var e director.Explanation
			(&sharing{}).addObstacles(&e, &catalog.State{}, &catalog.Volume{Name: "v"}, told)
			for _, of := range []struct {
				words []string
				want  string
			}{{e.Because, c.because}, {e.Next, c.next}, {e.Advice, c.advice}} {
				if got := strings.Join(of.words, "\n"); !strings.Contains(got, of.want) || (of.want == "") != (got == "") {
					t.Errorf("%q, want %q", got, of.want)
				}
			}
		})
	}
}

// A disk whose writes hang: an event tells that it is why a copy is out, each node explains it, and shows it with the copy;
// when the disk is well, and the copy in sync, it is over.
func TestASlowDiskIsToldOf(t *testing.T) {
	t.Parallel()
	a, nodes, faults := threeOfTwo(t, func(c *Config) { c.RebuildAfter, c.patience = time.Hour, 2*time.Second })
	o := &outage{t: t, admin: a, nodes: nodes}
	id := sharedVolumeOn(t, a, nodes, "v")
	owner := ownerOf(t, nodes, id)
	until(t, "all copies are in sync", func() bool { return inSync(owner, id) == 3 })
	slow := nodes[slices.IndexFunc(nodes, func(n *testNode) bool { return n != owner })]
	path, name := o.diskOf(slow, id)

	writing, stop := sync.WaitGroup{}, make(chan struct{})
	writing.Go(func() {
		dev, data := volumeDevice(t, owner.Daemon(), "v"), make([]byte, 4096)
		for {
			select {
			case <-stop:
				return
			default:
				if err := writeAsHosts(dev, data, 0); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	stopped := sync.OnceFunc(func() { close(stop); writing.Wait() })
	defer stopped()
	faults.of(path).Add(faulty.Rule{Op: disk.Write, Delay: 5 * time.Second})

	o.told("disk.slow", "disk "+name, "volume v", "blockctl disk drain "+name)
	for _, n := range nodes {
		until(t, n.cfg.Name+" explains it", func() bool {
			e := opsAt(a, n).explained(t, "v")
			return strings.Contains(strings.Join(e.GetBecause(), "\n"), "disk "+name) && strings.Contains(strings.Join(e.GetAdvice(), "\n"), "blockctl disk drain "+name)
		})
		until(t, n.cfg.Name+" shows it with the copy", func() bool { return obstacleShown(t, a, n, slow).GetNow() })
	}
	faults.of(path).Clear()
	stopped()
	until(t, "all copies are in sync again", func() bool { return inSync(owner, id) == 3 })
	for _, n := range nodes {
		until(t, "it is over at "+n.cfg.Name, func() bool {
			return !obstacleShown(t, a, n, slow).GetNow() && !strings.Contains(strings.Join(opsAt(a, n).explained(t, "v").GetBecause(), "\n"), "disk "+name)
		})
	}
}

// obstacleShown is what n shows of the copy on another node.
func obstacleShown(t *testing.T, a admin, n, of *testNode) *blockdv1.Obstacle {
	t.Helper()
	v := must[blockdv1.GetVolumeResponse](t)(opsAt(a, n).volume.GetVolume(t.Context(), connect.NewRequest(&blockdv1.GetVolumeRequest{Name: "v"}))).GetVolume()
	for _, r := range v.GetReplicas() {
		if r.GetNode() == of.cfg.Name {
			return r.GetObstacle()
		}
	}
	t.Fatalf("no copy on %s in %v", of.cfg.Name, v)
	return nil
}

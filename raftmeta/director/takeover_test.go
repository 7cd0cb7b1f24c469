package director

import (
	"testing"
	"testing/synctest"
	"time"

	"blockd.dev/raftmeta/catalog"
)

const takeoverVolumes = 9

// The volumes of a killed owner have another within a second and a half, and the leases of others go
// on. When it led the group as well, an election comes before that: here one of 0.4 to 1 s.
func TestTakeoverTakesNoLonger(t *testing.T) {
	for seed := uint64(1); seed <= simSeeds; seed++ {
		synctest.Test(t, func(t *testing.T) { takeOver(t, seed) })
	}
}

// takeOver kills a follower that owns volumes, and then the leader, in a bubble of synctest.
func takeOver(t *testing.T, seed uint64) {
	w, end := begin(t, seed, &world{calm: true}, 3)
	defer end()
	for _, cmd := range nodesAndPool(3) {
		w.insist(cmd)
	}
	time.Sleep(3 * time.Second) // sleep: simulated time, in which all are heard
	for i := 1; i <= takeoverVolumes; i++ {
		w.insist(volumeCmd(i, 3))
	}
	w.untilHeld(nil)
	for _, n := range w.nodes {
		if has := len(w.epochs(n)); has != takeoverVolumes/3 {
			t.Errorf("seed %d: node %d owns %d volumes of %d", seed, n.number, has, takeoverVolumes)
		}
	}

	leader := w.nodes[w.leaderNumber()-1]
	victim, other := w.nodes[leader.number%3], w.nodes[(leader.number+1)%3]
	before := []map[catalog.ID]uint64{w.epochs(leader), w.epochs(other)}
	victim.kill()
	asFollower := w.untilHeld(victim)
	for i, n := range []*simNode{leader, other} {
		now := w.epochs(n)
		for v, epoch := range before[i] {
			if now[v] != epoch {
				t.Errorf("seed %d: the lease of node %d for volume %s was of epoch %d, and now is of %d", seed, n.number, v, epoch, now[v])
			}
		}
	}

	victim.boot()
	time.Sleep(5 * time.Second) // sleep: simulated time, in which it comes back
	leader = w.nodes[w.leaderNumber()-1]
	leader.kill()
	asLeader := w.untilHeld(leader)
	t.Logf("seed %d: all volumes have owners again %v after the end of one of three, and %v after the end of another that led", seed, asFollower, asLeader)
	if limit := 1500 * time.Millisecond; asFollower > limit || asLeader > limit {
		t.Errorf("seed %d: that is more than %v", seed, limit)
	}
}

// untilHeld returns how long it took until all volumes had an owner other than not.
func (w *world) untilHeld(not *simNode) time.Duration {
	w.t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) { // sleep: simulated time
		held := 0
		for _, n := range w.held() {
			if n != not {
				held++
			}
		}
		took := time.Since(begin)
		if held == takeoverVolumes {
			return took
		}
		if took > time.Minute {
			w.t.Fatalf("%d volumes of %d have an owner after %v", held, takeoverVolumes, took)
		}
	}
}

// epochs are those of the leases that a node holds.
func (w *world) epochs(n *simNode) map[catalog.ID]uint64 {
	held := w.held()
	w.mu.Lock()
	defer w.mu.Unlock()
	epochs := map[catalog.ID]uint64{}
	for v, l := range n.leases {
		if held[v] == n {
			epochs[v] = l.Epoch
		}
	}
	return epochs
}

// leaderNumber waits for a leader.
func (w *world) leaderNumber() int {
	for {
		w.mu.Lock()
		l := w.leader
		w.mu.Unlock()
		if l != nil {
			return l.number
		}
		time.Sleep(time.Millisecond) // sleep: simulated time
	}
}

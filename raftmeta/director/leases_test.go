package director

import (
	"testing"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/lease"
	"blockd.dev/raftmeta/pulse"
)

// Volumes that come one after the other are spread evenly over the nodes, also while the
// outcome of a command, which the catalog shows already, is on its way to the leader.
func TestOwnersAreSpreadEvenly(t *testing.T) {
	const nodes, volumes = 3, 9
	for late := 1; late <= volumes; late++ {
		s := build(t, nodesAndPool(nodes)...)
		now := clock.Mono(time.Hour)
		term := newTerm(7, nodeID(1).String(), pulse.Defaults, now)
		for n := 1; n <= nodes; n++ {
			term.life(now, nodeID(n).String(), &blockdv1.PulseRequest{Incarnation: 1})
		}
		for i := 1; i <= volumes; i++ {
			s = apply(t, s, volumeCmd(i, 1), allocateCmd(i, 1, 2, 3))
			for _, p := range term.look(now, time.Now(), s).proposals {
				if p.cmd.GetGrantLease() != nil {
					p.cmd.TimeUnixNano = stamp
					s = apply(t, s, p.cmd)
					if i != late {
						term.settled(now, s, p, false)
					}
				}
			}
		}
		for n := 1; n <= nodes; n++ {
			if has := owned(s, n); has != volumes/nodes {
				t.Errorf("with the outcome for volume %d on its way, node %d owns %d volumes of %d", late, n, has, volumes)
			}
		}
	}
}

// A volume that moves counts where it goes to, once, until the move is known to be done.
func TestMovingOwnersCountOnce(t *testing.T) {
	s := build(t, nodesAndPool(3)...)
	for i := 1; i <= 4; i++ {
		s = apply(t, s, volumeCmd(i, 1), allocateCmd(i, 1, 2, 3), grantCmd(i, 2, 0))
	}
	s = apply(t, s, jobCmd(1, JobDrain, "n2"))
	now := clock.Mono(time.Hour)
	term := newTerm(7, nodeID(1).String(), pulse.Defaults, now)
	look := func() {
		for n := 1; n <= 3; n++ {
			term.life(now, nodeID(n).String(), &blockdv1.PulseRequest{Incarnation: 1})
		}
		for _, p := range term.look(now, time.Now(), s).proposals {
			p.cmd.Version, p.cmd.TimeUnixNano = catalog.CommandVersion, stamp
			next, _, err := s.Apply(p.cmd)
			if err == nil {
				s = next
			}
			term.settled(now, s, p, err != nil)
		}
		now = now.Add(pulse.Defaults.Every)
	}
	check := func(when string) {
		t.Helper()
		v, sum := term.view(now, s), 0
		for _, n := range v.load {
			sum += n
		}
		if want := map[int]int{1: 2, 2: 0, 3: 2}; sum != 4 || v.load[nodeID(1).String()] != want[1] || v.load[nodeID(2).String()] != want[2] || v.load[nodeID(3).String()] != want[3] {
			t.Errorf("%s: the loads are %v", when, v.load)
		}
	}
	look()
	look()
	check("recalled")
	for i := 1; i <= 4; i++ {
		e := s.LeaseTable().Get(lease.VolumeID(volumeID(i)))
		var out turn
		term.release(now, s, lease.Release{Node: nodeID(2).String(), Incarnation: 1, Volume: lease.VolumeID(volumeID(i)), Epoch: e.Epoch}, &out)
		check("given back")
		if len(out.proposals) != 1 {
			t.Fatalf("volume %d: %d proposals", i, len(out.proposals))
		}
		p := out.proposals[0]
		p.cmd.TimeUnixNano = stamp
		s = apply(t, s, p.cmd)
		check("handed on")
		term.settled(now, s, p, false)
		check("settled")
	}
}

// owned counts the volumes that a node owns.
func owned(s *catalog.State, node int) (n int) {
	for _, e := range s.LeaseTable().All() {
		if e.Owner == nodeID(node).String() {
			n++
		}
	}
	return n
}

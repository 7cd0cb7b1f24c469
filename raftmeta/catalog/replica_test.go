package catalog

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
)

func spreadPoolCmd(id uint32, name string, replicas, minInSync uint32) *catalogpb.Command {
	c := poolCmd(id, name)
	c.Version, c.GetCreatePool().Replicas, c.GetCreatePool().MinInSync = CommandVersion, replicas, minInSync
	return c
}

func spreadVolumeCmd(id uint32, name, pool string, size int64) *catalogpb.Command {
	c := volumeCmd(id, name)
	c.GetCreateVolume().Pool, c.GetCreateVolume().SizeBytes = pool, size
	return c
}

func allocateCmd(volume, first uint32, sets ...uint32) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_AllocateExtents{AllocateExtents: &catalogpb.AllocateExtents{Volume: testID(volume), First: first, Sets: sets}}
	})
}

const (
	toOut        = catalogpb.ReplicaChange_REPLICA_CHANGE_OUT
	toRebuilding = catalogpb.ReplicaChange_REPLICA_CHANGE_REBUILDING
	toIn         = catalogpb.ReplicaChange_REPLICA_CHANGE_IN
	toKept       = catalogpb.ReplicaChange_REPLICA_CHANGE_KEEP
)

func markCmd(volume uint32, epoch uint64, disk uint32, generation uint64, change catalogpb.ReplicaChange) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_MarkReplica{MarkReplica: &catalogpb.MarkReplica{Volume: testID(volume), Epoch: epoch, Disk: disk, Generation: generation, Change: change}}
	})
}

func replaceCmd(volume, from, to uint32, generation uint64) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_ReplaceReplica{ReplaceReplica: &catalogpb.ReplaceReplica{Volume: testID(volume), From: from, To: to, Generation: generation}}
	})
}

func portalsCmd(node uint32, p *catalogpb.Portals) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_SetNodePortals{SetNodePortals: &catalogpb.SetNodePortals{Node: testID(node), Portals: p}}
	})
}

// three is a cluster with a volume "v", id 60, of three copies and three
// extents, all allocated, that node 101 owns in epoch 1.
func three(t testing.TB) *State {
	return threeOf(func(s *State, cmds ...*catalogpb.Command) *State { return mustApply(t, s, cmds...) })
}

func threeOf(apply func(*State, ...*catalogpb.Command) *State) *State {
	s := apply(apply(&State{}, initCmd(), poolCmd(1, "default")), threeNodes()...)
	return apply(s, volumeCmd(10, "a"), volumeCmd(11, "b"), spreadPoolCmd(50, "three", 3, 0), spreadVolumeCmd(60, "v", "three", 3*extmap.ShardBytes),
		allocateCmd(60, 0, 1, 2, 3, 2, 3, 1, 3, 1, 2), grantCmd(60, 101, 7, 0))
}

func TestVolumesOfSeveralCopies(t *testing.T) {
	s := mustApply(t, cluster(t), spreadPoolCmd(50, "three", 3, 0), spreadVolumeCmd(60, "v", "three", 100<<20))
	id := testingID(60)
	if v := s.Volume("v"); !v.Home.IsZero() || s.NodeOfVolume(v) != nil || s.Map().Volume(id).Layout().Extents() != 2 || s.Allocated(id) {
		t.Fatalf("%+v, %v", v, s.Map().Volume(id))
	}
	if a := testingID(10); s.Map().Volume(a) != nil || s.Allocated(a) || s.Replicas(a) != nil {
		t.Error("a volume of one copy is in the map")
	}
	refusedWith(t, s, allocateCmd(10, 0, 1), ErrConflict, "lives on one disk")
	refusedWith(t, s, allocateCmd(77, 0, 1), ErrNotFound, "no volume")
	refusedWith(t, s, allocateCmd(60, 0, 1, 2, 4), ErrConflict, "disk 4")
	refusedWith(t, s, allocateCmd(60, 0, 1, 2), ErrConflict, "sets of 3")
	refusedWith(t, s, allocateCmd(60, 0, 1, 2, 1<<16+3), ErrInvalid, "disk number 65539")
	refusedWith(t, s, allocateCmd(60, 2, 1, 2, 3), ErrConflict, "has 2 extents")
	refusedWith(t, mustApply(t, s, nodeStateCmd("n3", "held")), allocateCmd(60, 0, 1, 2, 3), ErrConflict, "disk 3")
	refusedWith(t, mustApply(t, s, diskStateCmd(202, "draining")), allocateCmd(60, 0, 1, 2, 3), ErrConflict, "disk 2")

	s = mustApply(t, s, allocateCmd(60, 0, 3, 1, 2))
	if s.Allocated(id) {
		t.Error("one of two extents is not all of them")
	}
	s = mustApply(t, s, allocateCmd(60, 1, 1, 2, 3))
	want := []Replica{
		{Disk: 1, DiskID: testingID(201), Node: testingID(101)},
		{Disk: 2, DiskID: testingID(202), Node: testingID(102)},
		{Disk: 3, DiskID: testingID(203), Node: testingID(103)},
	}
	if got := s.Replicas(id); !s.Allocated(id) || !slices.Equal(got, want) {
		t.Fatalf("%+v", got)
	}
	s = mustApply(t, s, resizeCmd("v", 200<<20))
	if s.Allocated(id) || s.Map().Volume(id).Layout().Extents() != 4 {
		t.Error("it did not grow")
	}
	audits := len(s.Audits)
	s = mustApply(t, s, allocateCmd(60, 2, 1, 2, 3, 2, 3, 1))
	if len(s.Audits) != audits {
		t.Error("allocations flood the audit log")
	}

	// What has copies stays; a retired volume has none any more.
	refusedWith(t, s, removeNodeCmd("n3", true), ErrConflict, "other disks must have first")
	refusedWith(t, s, removeNodeCmd("n1", true), ErrConflict, "other disks must have first") // before volume a is given up for it
	refusedWith(t, s, removeDiskCmd(203, true), ErrConflict, "other disks must have first")
	refusedWith(t, s, diskStateCmd(203, "drained"), ErrConflict, "a copy of 1 volume")
	refusedWith(t, s, nodeStateCmd("n3", "drained"), ErrConflict, "a copy of 1 volume")
	if s.ReplicasOn(testingID(103)) != 1 {
		t.Error(s.ReplicasOn(testingID(103)))
	}
	s = mustApply(t, s, grantCmd(60, 103, 1, 0), retireCmd("v"))
	if s.Map().Volume(id) != nil || s.Replicas(id) != nil || s.ReplicasOn(testingID(103)) != 0 {
		t.Error("a retired volume is in the map")
	}
	refusedWith(t, s, allocateCmd(60, 2, 1, 2, 3), ErrConflict, "being deleted")
	refusedWith(t, s, markCmd(60, 1, 1, 0, toOut), ErrConflict, "being deleted")
	s = mustApply(t, s, at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_RemoveVolume{RemoveVolume: &catalogpb.RemoveVolume{Id: testID(60)}}
	}), removeNodeCmd("n3", true))
	if n := s.Check(); n != 0 || s.DiskByNumber(3) != nil || s.DiskByNumber(0) != nil || s.NodeByNumber(0) != nil {
		t.Errorf("invariant %d", n)
	}
}

func TestPlacesForSeveralCopies(t *testing.T) {
	s := mustApply(t, cluster(t), spreadPoolCmd(50, "three", 3, 0), spreadPoolCmd(51, "two", 2, 0))
	held := mustApply(t, s, nodeStateCmd("n2", "held"))
	refusedWith(t, held, spreadVolumeCmd(60, "v", "three", 1<<30), ErrConflict, "3 different hosts, and only n1, n3 have one")
	mustApply(t, held, spreadVolumeCmd(60, "v", "two", 1<<30))
	refusedWith(t, mustApply(t, held, diskStateCmd(201, "failed")), spreadVolumeCmd(60, "v", "two", 1<<30), ErrConflict, "only n3 has one")
	home := spreadVolumeCmd(60, "v", "two", 1<<30)
	home.GetCreateVolume().Home = testID(201)
	refusedWith(t, s, home, ErrInvalid, "leave the disk out")
	refusedWith(t, s, spreadVolumeCmd(60, "v", "two", VolumeSizeMax), ErrInvalid, "at most")
	mustApply(t, s, spreadVolumeCmd(60, "v", "two", VolumeSizeMax/2))

	for _, tc := range []struct{ replicas, asked, want uint32 }{{1, 0, 1}, {2, 0, 2}, {2, 1, 1}, {3, 0, 2}, {3, 1, 1}, {3, 3, 3}} {
		s := mustApply(t, s, spreadPoolCmd(70, "p", tc.replicas, tc.asked))
		back, err := ReadState(pipe(t, s))
		if err != nil || s.Pool("p").MinInSync != tc.want || back.Pool("p").MinInSync != tc.want {
			t.Errorf("%+v: %+v, %v", tc, s.Pool("p"), err)
		}
	}
	refusedWith(t, s, spreadPoolCmd(70, "p", 3, 4), ErrInvalid, "want 1 to 3")
	refusedWith(t, s, spreadPoolCmd(70, "p", 1, 2), ErrInvalid, "want 1 to 1")
	if s.Pool("default").MinInSync != 1 {
		t.Errorf("%+v", s.Pool("default"))
	}
}

// A change of a copy counts for the present owner and generation only.
func TestMarkReplica(t *testing.T) {
	s := three(t)
	id := testingID(60)
	copyOf := func(s *State, disk extmap.Disk) extmap.Sync { return s.Map().Volume(id).Sync(disk) }
	refusedWith(t, s, markCmd(60, 0, 2, 0, toOut), ErrConflict, "at epoch 1")
	refusedWith(t, s, markCmd(60, 2, 2, 0, toOut), ErrConflict, "at epoch 1")
	refusedWith(t, s, markCmd(60, 1, 2, 1, toOut), ErrConflict, "generation 1, now it is 0")
	refusedWith(t, s, markCmd(60, 1, 2, 0, toRebuilding), ErrConflict, "it is in sync")
	refusedWith(t, s, markCmd(60, 1, 4, 0, toOut), ErrConflict, "keeps nothing")
	refusedWith(t, s, markCmd(60, 1, 1<<16+2, 0, toOut), ErrInvalid, "not one")
	refusedWith(t, s, markCmd(60, 1, 2, 0, 9), ErrInvalid, "not one")
	refusedWith(t, s, markCmd(77, 1, 2, 0, toOut), ErrNotFound, "no volume")

	audits := len(s.Audits)
	s = mustApply(t, s, markCmd(60, 1, 2, 0, toOut), markCmd(60, 1, 3, 0, toOut))
	if r := s.Replicas(id)[1]; r.Sync != extmap.OutOfSync || r.Generation != 1 || len(s.Audits) != audits {
		t.Fatalf("%+v, %d audits", r, len(s.Audits)-audits)
	}
	refusedWith(t, s, markCmd(60, 1, 1, 0, toOut), ErrConflict, "too few")
	s = mustApply(t, s, markCmd(60, 1, 2, 1, toRebuilding), markCmd(60, 1, 2, 2, toIn), markCmd(60, 1, 1, 0, toKept), markCmd(60, 1, 1, 1, toOut))
	refusedWith(t, s, markCmd(60, 1, 2, 1, toIn), ErrConflict, "now it is 2")
	if copyOf(s, 1).Generation != 2 || copyOf(s, 2) != (extmap.Sync{Disk: 2, Generation: 2}) {
		t.Fatalf("%+v", s.Replicas(id))
	}
	// Nobody's word counts between two owners, and the old one's never again.
	between := mustApply(t, s, releaseCmd(60, 101, 7, 1))
	refusedWith(t, between, markCmd(60, 1, 1, 2, toRebuilding), ErrConflict, "or nobody")
	s = mustApply(t, between, grantCmd(60, 102, 1, 1))
	refusedWith(t, s, markCmd(60, 1, 1, 2, toRebuilding), ErrConflict, "at epoch 2")
	mustApply(t, s, markCmd(60, 2, 1, 2, toRebuilding), moveCmd("v", "n3"))
	refusedWith(t, s, moveCmd("a", "n2"), ErrConflict, "has no lease yet")
	back, err := ReadState(pipe(t, s))
	if err != nil || !slices.Equal(back.Replicas(id), s.Replicas(id)) {
		t.Fatal(err)
	}
}

// What a disk proves is the highest of what owners have said, and only of one that comes in sync.
func TestProofs(t *testing.T) {
	s := three(t)
	id := testingID(60)
	out := provenCmd(60, 1, 2, 0, toOut, 5)
	refusedWith(t, s, out, ErrInvalid, "with a proof")
	refusedWith(t, s, provenCmd(60, 1, 2, 0, toKept, 5), ErrInvalid, "with a proof")
	in := func(s *State, proof uint64) *State {
		g := s.Map().Volume(id).Sync(2).Generation
		return mustApply(t, s, markCmd(60, 1, 2, g, toOut), markCmd(60, 1, 2, g+1, toRebuilding), provenCmd(60, 1, 2, g+2, toIn, proof))
	}
	s = in(s, 7)
	if r := s.Replicas(id)[1]; r.Disk != 2 || r.Sync != extmap.InSync || r.Proof != 7 {
		t.Errorf("%+v", r)
	}
	refusedWith(t, s, provenCmd(60, 1, 2, 1, toIn, 9), ErrConflict, "now it is 2")
	if s = in(s, 3); s.Replicas(id)[1].Proof != 7 {
		t.Errorf("a lower proof has taken the place of a higher one: %+v", s.Replicas(id)[1])
	}
	s = in(s, 0) // by an owner of an older release
	s = mustApply(t, s, provenCmd(60, 1, 3, 0, toIn, 11))
	if r := s.Replicas(id); r[1].Proof != 7 || r[2].Proof != 11 || r[0].Proof != 0 || s.Check() != 0 {
		t.Errorf("%+v", r)
	}
	back, err := ReadState(pipe(t, s))
	if err != nil || !slices.Equal(back.Replicas(id), s.Replicas(id)) || back.Hash() != s.Hash() {
		t.Fatal(err)
	}
}

func provenCmd(volume uint32, epoch uint64, disk uint32, generation uint64, change catalogpb.ReplicaChange, proof uint64) *catalogpb.Command {
	c := markCmd(volume, epoch, disk, generation, change)
	c.GetMarkReplica().Proof = proof
	c.Version = CommandVersion
	return c
}

// A lost disk is replaced by one that is active, and whoever owned the volume
// until then has no say any more.
func TestReplaceReplica(t *testing.T) {
	id := testingID(60)
	s := mustApply(t, three(t), tokenCmd(0, 4, 3600), admitCmd(1, 4, nodeMsg(104, "n4")), diskCmd(204, 104), diskCmd(205, 101), markCmd(60, 1, 3, 0, toOut))
	refusedWith(t, s, replaceCmd(77, 3, 4, 1), ErrNotFound, "no volume")
	refusedWith(t, s, replaceCmd(10, 3, 4, 1), ErrConflict, "lives on one disk")
	refusedWith(t, s, replaceCmd(60, 3, 1<<16+4, 1), ErrInvalid, "want 1 to")
	refusedWith(t, s, replaceCmd(60, 3, 4, 0), ErrConflict, "generation 0, now it is 1")
	refusedWith(t, s, replaceCmd(60, 3, 5, 1), ErrConflict, "in the failure domain of disk 5")
	refusedWith(t, s, replaceCmd(60, 3, 2, 1), ErrConflict, "too few disks in sync")
	refusedWith(t, s, replaceCmd(60, 3, 6, 1), ErrConflict, "disk 6")
	refusedWith(t, mustApply(t, s, nodeStateCmd("n4", "held")), replaceCmd(60, 3, 4, 1), ErrConflict, "disk 4")
	refusedWith(t, mustApply(t, s, diskStateCmd(204, "draining")), replaceCmd(60, 3, 4, 1), ErrConflict, "disk 4")
	// A disk beside a copy is no place for another, also while that drains.
	refusedWith(t, mustApply(t, s, diskStateCmd(201, "draining")), replaceCmd(60, 3, 5, 1), ErrConflict, "in the failure domain of disk 5")

	audits := len(s.Audits)
	s = mustApply(t, s, replaceCmd(60, 3, 4, 1))
	want := []extmap.Sync{{Disk: 1}, {Disk: 2}, {Disk: 4, State: extmap.OutOfSync, Generation: 1}}
	for i, r := range s.Replicas(id) {
		if got := (extmap.Sync{Disk: r.Disk, State: r.Sync, Generation: r.Generation}); got != want[i] {
			t.Errorf("%+v, want %+v", got, want[i])
		}
	}
	if s.ReplicasOn(testingID(103)) != 0 || len(s.Audits) != audits || s.Volume("v").ReplacedIn != 1 {
		t.Errorf("%+v", s.Volume("v"))
	}
	refusedWith(t, s, markCmd(60, 1, 4, 1, toRebuilding), ErrConflict, "begins anew")
	refusedWith(t, s, markCmd(60, 1, 1, 0, toKept), ErrConflict, "begins anew")
	refusedWith(t, s, replaceCmd(60, 3, 4, 2), ErrConflict, "keeps nothing")
	s = mustApply(t, s, releaseCmd(60, 101, 7, 1), grantCmd(60, 101, 7, 1), markCmd(60, 2, 4, 1, toRebuilding), markCmd(60, 2, 4, 2, toIn))
	back, err := ReadState(pipe(t, s))
	if err != nil || !slices.Equal(back.Replicas(id), s.Replicas(id)) || *back.Volume("v") != *s.Volume("v") {
		t.Fatal(err)
	}
	// Then node n3 has nothing that keeps it.
	mustApply(t, s, removeNodeCmd("n3", true))
}

// Numbers are never given twice, whatever is removed.
func TestNumbersAreNeverReused(t *testing.T) {
	s := mustApply(t, cluster(t), removeNodeCmd("n3", true), tokenCmd(0, 3, 3600), admitCmd(1, 3, nodeMsg(104, "n0")), diskCmd(204, 104))
	if n, d := s.Node("n0"), s.DiskByID(testingID(204)); n.Number != 4 || d.Number != 4 || s.NodeByNumber(4) != s.Node("n0") || s.DiskByNumber(4) != d || s.NodeByNumber(3) != nil {
		t.Fatalf("%+v %+v", n, d)
	}
	s = mustApply(t, s, removeNodeCmd("n0", true))
	s, err := ReadState(pipe(t, s))
	if err != nil {
		t.Fatal(err)
	}
	again := nodeMsg(105, "n9")
	s = mustApply(t, s, tokenCmd(0, 4, 3600), admitCmd(1, 4, again), diskCmd(205, 105))
	if n, d := s.Node("n9"), s.DiskByID(testingID(205)); n.Number != 5 || d.Number != 5 {
		t.Fatalf("%+v %+v", n, d)
	}
	// A node that comes again, or says something new of itself, stays what it is.
	s = mustApply(t, s, portalsCmd(105, &catalogpb.Portals{Iscsi: []string{"10.0.0.9:3260"}}), admitCmd(1, 4, again), putNodeCmd(again))
	if n := s.Node("n9"); n.Number != 5 || len(n.Portals.ISCSI) != 1 {
		t.Fatalf("%+v", n)
	}
	full := *s
	full.lastNode, full.lastDisk = numberMax, numberMax
	refusedWith(t, mustApply(t, &full, tokenCmd(0, 5, 3600)), admitCmd(1, 5, nodeMsg(106, "n8")), ErrConflict, "has had 65535 nodes")
	refusedWith(t, &full, diskCmd(206, 101), ErrConflict, "has had 65535 disks")
}

func TestPortals(t *testing.T) {
	set := &catalogpb.Portals{Iscsi: []string{"10.0.0.1:3260", "[fd00::1]:3260"}, Nvme: []string{"10.0.0.1:4420"}, Discovery: []string{"10.0.0.1:8009"}, Data: []string{"10.1.0.1:7490"}}
	s := mustApply(t, cluster(t), portalsCmd(102, set))
	back, err := ReadState(pipe(t, s))
	want := Portals{ISCSI: set.GetIscsi(), NVMe: set.GetNvme(), Discovery: set.GetDiscovery(), Data: set.GetData()}
	if err != nil || !s.Node("n2").Portals.Equal(want) || !back.Node("n2").Portals.Equal(want) || !s.Node("n1").Portals.Equal(Portals{}) {
		t.Fatalf("%+v, %v", s.Nodes, err)
	}
	refusedWith(t, s, portalsCmd(177, set), ErrNotFound, "no node")
	for _, bad := range []string{"", "10.0.0.1", ":3260", "10.0.0.1:0", "10.0.0.1:65536", strings.Repeat("x", 300) + ":1"} {
		refusedWith(t, s, portalsCmd(102, &catalogpb.Portals{Data: []string{bad}}), ErrInvalid, "HOST:PORT")
	}
	refusedWith(t, s, portalsCmd(102, &catalogpb.Portals{Nvme: slices.Repeat([]string{"a:1"}, PortalsMax+1)}), ErrInvalid, "at most 16")
	if s = mustApply(t, s, portalsCmd(102, nil)); !s.Node("n2").Portals.Equal(Portals{}) {
		t.Errorf("%+v", s.Node("n2"))
	}
}

// A map of several parts goes through a stream; cut, changed or continued, it is refused.
func TestTheMapInAStream(t *testing.T) {
	s := mustApply(t, three(t), spreadVolumeCmd(61, "large", "three", 60_000*extmap.ShardBytes))
	for first := uint32(0); first < 60_000; first += 15_000 {
		s = mustApply(t, s, allocateCmd(61, first, slices.Repeat([]uint32{1, 2, 3}, 15_000)...))
	}
	var whole []*catalogpb.Snapshot
	for p := range s.parts {
		whole = append(whole, p)
	}
	maps := 0
	for _, p := range whole {
		maps += len(p.GetExtentMap())
	}
	back, err := ReadState(pipe(t, s))
	if err != nil || back.Hash() != s.Hash() || back.Map().Hash() != s.Map().Hash() || maps < 2 {
		t.Fatalf("%d parts, %v", maps, err)
	}
	if b, err := Unmarshal(must(s.Marshal())); err != nil || b.Hash() != s.Hash() {
		t.Fatal(err)
	}
	load := func(parts ...*catalogpb.Snapshot) error {
		l := loader{s: &State{}}
		err := l.load(func() (p *catalogpb.Snapshot, err error) {
			if len(parts) > 0 {
				p, parts = proto.CloneOf(parts[0]), parts[1:]
			}
			return p, nil
		})
		if err == nil {
			_, err = l.finish()
		}
		return err
	}
	if err := load(whole...); err != nil {
		t.Fatal(err)
	}
	last := whole[len(whole)-1]
	for name, parts := range map[string][]*catalogpb.Snapshot{
		"cut":       whole[:len(whole)-1],
		"no map":    whole[:len(whole)-maps],
		"more":      append(slices.Clone(whole), last),
		"more else": append(slices.Clone(whole), &catalogpb.Snapshot{Tokens: []*catalogpb.Token{}, Iqn: "x"}),
		"longer":    append(whole[:len(whole)-1:len(whole)-1], &catalogpb.Snapshot{ExtentMap: [][]byte{append(bytes.Clone(last.GetExtentMap()[0]), 0)}}),
	} {
		if err := load(parts...); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	stop := 0
	s.parts(func(*catalogpb.Snapshot) bool { stop++; return stop < len(whole)-1 })
	if stop != len(whole)-1 {
		t.Errorf("%d parts were made after nobody wanted them", stop)
	}
}

// The hash tells maps apart.
func TestTheMapIsHashed(t *testing.T) {
	s := three(t)
	seen := map[[32]byte]string{s.Hash(): "start"}
	for _, cmd := range []*catalogpb.Command{markCmd(60, 1, 2, 0, toOut), markCmd(60, 1, 2, 0, toKept), markCmd(60, 1, 1, 0, toKept)} {
		next := mustApply(t, s, cmd)
		next.Revision = s.Revision
		if was, twice := seen[next.Hash()]; twice {
			t.Errorf("%v has the hash of %s", cmd, was)
		}
		seen[next.Hash()] = fmt.Sprint(cmd)
	}
}

// Each invariant of the map and of numbers is looked at.
func TestCheckOfCopies(t *testing.T) {
	for want, broken := range map[int][]func(s *State){
		10: {
			func(s *State) { s.Nodes[0].Number = s.Nodes[1].Number },
			func(s *State) { s.Nodes[0].Number = 0 },
			func(s *State) { s.Nodes[0].Number = s.lastNode + 1 },
			func(s *State) { s.Disks[0].Number = 0 },
			func(s *State) { s.Disks[2].Number = s.lastDisk + 1 },
			func(s *State) { s.Disks[0].Number, s.Disks[1].Number = s.Disks[1].Number, s.Disks[0].Number },
			func(s *State) { s.version = 1 },
			func(s *State) { s.version, s.lastNode, s.lastDisk = 1, 0, 0 },
		},
		11: {
			func(s *State) { s.extents = extmap.Map{} },
			func(s *State) { s.Volumes[2].SizeBytes += extmap.ShardBytes },
			func(s *State) { s.Volumes[2].Retired = true },
			func(s *State) { s.Volumes[2].Home = s.Disks[0].ID },
			func(s *State) { s.Disks = s.Disks[:2] },
			func(s *State) { s.Pools[1].Replicas = 2 },
			func(s *State) { s.extents = must(s.extents.Create(ID{9}, extmap.Policy{Replicas: 3}, 1)) },
		},
		12: {
			func(s *State) { s.Pools[1].MinInSync = 4 },
			func(s *State) { s.Pools[0].MinInSync = 0 },
		},
	} {
		for i, f := range broken {
			s := *three(t)
			s.Nodes, s.Disks, s.Volumes, s.Pools = slices.Clone(s.Nodes), slices.Clone(s.Disks), slices.Clone(s.Volumes), slices.Clone(s.Pools)
			if n := s.Check(); n != 0 {
				t.Fatalf("invariant %d", n)
			}
			if f(&s); s.Check() != want {
				t.Errorf("case %d of invariant %d: %d", i, want, s.Check())
			}
		}
	}
}

// Whatever owners, old ones among them, ask for and in whatever order it comes:
// each extent stays readable, a generation never comes again, and a member
// that goes through snapshots has the same state.
func TestCopiesStayReadable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, two := NewFSM(), NewFSM()
		one.state.Store(mustApplyRapid(t, threeOf(func(s *State, cmds ...*catalogpb.Command) *State { return mustApplyRapid(t, s, cmds...) }),
			tokenCmd(0, 4, 3600), admitCmd(1, 4, nodeMsg(104, "n4")), diskCmd(204, 104), diskCmd(205, 101)))
		two.state.Store(one.State())
		id := testingID(60)
		seen := map[extmap.Disk]extmap.Sync{}
		for range rapid.IntRange(1, 60).Draw(t, "n") {
			cmd := genCopies(t, one.State(), id)
			b := must(proto.Marshal(cmd))
			if a, b := one.Apply(1, 1, CommandVersion, b), two.Apply(1, 1, CommandVersion, bytes.Clone(b)); !bytes.Equal(a, b) {
				t.Fatalf("%v: %x and %x", cmd, a, b)
			}
			if n := one.State().Check(); n != 0 {
				t.Fatalf("%v breaks invariant %d", cmd, n)
			}
			for _, r := range one.State().Replicas(id) {
				was, in := seen[r.Disk], r.Sync == extmap.InSync
				if r.Generation < was.Generation || r.Generation == was.Generation && r.Sync != was.State && (!in || was.State != extmap.Rebuilding) {
					t.Fatalf("%v: disk %d was %+v and is %+v", cmd, r.Disk, was, r)
				}
				seen[r.Disk] = extmap.Sync{Disk: r.Disk, State: r.Sync, Generation: r.Generation}
			}
			readable(t, one.State().Map().Volume(id))
			apart(t, one.State().Map().Volume(id))
			if rapid.IntRange(0, 9).Draw(t, "restored") == 0 {
				var b bytes.Buffer
				if _, err := two.Snapshot().WriteTo(&b); err != nil {
					t.Fatal(err)
				}
				two = NewFSM()
				if err := two.Restore(&b); err != nil {
					t.Fatal(err)
				}
			}
			if one.State().Hash() != two.State().Hash() {
				t.Fatalf("%v: the states differ", cmd)
			}
		}
	})
}

// genCopies draws what an owner, a late one or the Raft leader proposes for a volume.
func genCopies(t *rapid.T, s *State, id ID) *catalogpb.Command {
	v, l := s.Map().Volume(id), s.LeaseTable().Get(id)
	late := rapid.SampledFrom([]uint64{0, 0, 0, 0, 1}).Draw(t, "late")
	node := rapid.Uint32Range(101, 103).Draw(t, "node")
	switch rapid.IntRange(0, 16).Draw(t, "kind") {
	case 0:
		return grantCmd(60, node, uint64(node), l.Epoch-late)
	case 1:
		return releaseCmd(60, node, uint64(node), l.Epoch-late)
	case 2:
		return resizeCmd("v", rapid.Int64Range(1, 40).Draw(t, "extents")*extmap.ShardBytes)
	case 3:
		return allocateCmd(60, v.Allocated()-uint32(late), rapid.Permutation([]uint32{1, 2, 3}).Draw(t, "set")...)
	case 4, 5:
		return startMovesCmd(60, rapid.Uint32Range(0, v.Allocated()).Draw(t, "extent"), rapid.Uint32Range(1, 5).Draw(t, "from"), rapid.Uint32Range(1, 5).Draw(t, "to"))
	case 6, 7:
		to := rapid.Uint32Range(1, 5).Draw(t, "to")
		return finishMovesCmd(60, l.Epoch-late, to, v.Sync(extmap.Disk(to)).Generation-rapid.SampledFrom([]uint64{0, 0, 0, 1}).Draw(t, "stale"))
	case 8:
		return cancelMovesCmd(60, rapid.Uint32Range(1, 5).Draw(t, "to"))
	}
	disk := rapid.SampledFrom(v.Disks()).Draw(t, "disk")
	return markCmd(60, l.Epoch-late, uint32(disk), v.Sync(disk).Generation-rapid.SampledFrom([]uint64{0, 0, 0, 1}).Draw(t, "stale"),
		catalogpb.ReplicaChange(rapid.Int32Range(1, 4).Draw(t, "change")))
}

func readable(t *rapid.T, v *extmap.Volume) {
	for i := range v.Layout().Extents() {
		e, ok := v.Extent(i)
		if ok && !slices.ContainsFunc(e.Disks, func(d extmap.Disk) bool { return v.Sync(d).State == extmap.InSync }) {
			t.Fatalf("extent %d can't be read from any of %d", i, e.Disks)
		}
	}
}

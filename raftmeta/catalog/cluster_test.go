package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/pki"
)

// at makes a command of a kind, at seconds after stamp.
func at(seconds int64, set func(*catalogpb.Command)) *catalogpb.Command {
	c := &catalogpb.Command{Version: CommandVersion, TimeUnixNano: stamp + seconds*1e9, Actor: "test"}
	set(c)
	return c
}

func nodeMsg(id uint32, name string) *catalogpb.PutNode {
	return &catalogpb.PutNode{Id: testID(id), Name: name, Address: name + ":7480", Roles: []string{"store", "meta"}, Serial: fmt.Sprintf("5e%04x", id)}
}

func putNodeCmd(n *catalogpb.PutNode) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) { c.Kind = &catalogpb.Command_PutNode{PutNode: n} })
}

func tokenCmd(seconds int64, id byte, life int64) *catalogpb.Command {
	return at(seconds, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_CreateToken{CreateToken: &catalogpb.CreateToken{
			Id: bytes.Repeat([]byte{id}, 8), Proof: bytes.Repeat([]byte{id}, 32), ExpiresUnix: stamp/1e9 + seconds + life}}
	})
}

func admitCmd(seconds int64, token byte, n *catalogpb.PutNode) *catalogpb.Command {
	return at(seconds, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_AdmitNode{AdmitNode: &catalogpb.AdmitNode{Node: n, Token: bytes.Repeat([]byte{token}, 8), Proof: bytes.Repeat([]byte{token}, 32)}}
	})
}

func diskCmd(id, node uint32) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_RegisterDisk{RegisterDisk: &catalogpb.RegisterDisk{Id: testID(id), Node: testID(node), Path: "/d", CapacityBytes: 1 << 40}}
	})
}

func nodeStateCmd(node, state string) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_SetNodeState{SetNodeState: &catalogpb.SetNodeState{Node: node, State: state}}
	})
}

func diskStateCmd(id uint32, state string) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_SetDiskState{SetDiskState: &catalogpb.SetDiskState{Id: testID(id), State: state}}
	})
}

func removeNodeCmd(node string, force bool) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_RemoveNode{RemoveNode: &catalogpb.RemoveNode{Node: node, Force: force}}
	})
}

func removeDiskCmd(id uint32, force bool) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_RemoveDisk{RemoveDisk: &catalogpb.RemoveDisk{Id: testID(id), Force: force}}
	})
}

func labelCmd(node string, pairs ...string) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		m := &catalogpb.SetNodeLabels{Node: node}
		for i := 0; i < len(pairs); i += 2 {
			m.Labels = append(m.Labels, &catalogpb.Label{Key: pairs[i], Value: pairs[i+1]})
		}
		c.Kind = &catalogpb.Command_SetNodeLabels{SetNodeLabels: m}
	})
}

func grantCmd(volume, node uint32, incarnation, epoch uint64) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_GrantLease{GrantLease: &catalogpb.GrantLease{Volume: testID(volume), Node: testID(node), Incarnation: incarnation, ExpectEpoch: epoch}}
	})
}

func releaseCmd(volume, node uint32, incarnation, epoch uint64) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_ReleaseLease{ReleaseLease: &catalogpb.ReleaseLease{Volume: testID(volume), Node: testID(node), Incarnation: incarnation, Epoch: epoch}}
	})
}

func moveCmd(volume, node string) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_MoveLease{MoveLease: &catalogpb.MoveLease{Volume: volume, Node: node}}
	})
}

func reserveCmd(volume uint32, generation uint64, blob string) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_SetReservation{SetReservation: &catalogpb.SetReservation{Volume: testID(volume), ExpectGeneration: generation, Blob: []byte(blob)}}
	})
}

func jobCmd(seconds int64, id uint32, kind, subject string) *catalogpb.Command {
	return at(seconds, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_CreateJob{CreateJob: &catalogpb.CreateJob{Id: testID(id), Kind: kind, Subject: subject, StepsTotal: 10}}
	})
}

func progressCmd(id uint32, done uint64, cursor string) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_ProgressJob{ProgressJob: &catalogpb.ProgressJob{Id: testID(id), StepsDone: done, StepsTotal: 10, Cursor: []byte(cursor)}}
	})
}

func jobStateCmd(id uint32, state string) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_SetJobState{SetJobState: &catalogpb.SetJobState{Id: testID(id), State: state}}
	})
}

func authorityCmd(sealed []byte, expect uint64) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_SetAuthority{SetAuthority: &catalogpb.SetAuthority{ClusterName: "prod", SealedKey: sealed, BundlePem: []byte("PEM"), ExpectRevision: expect}}
	})
}

// cluster is a state with three nodes, each with a disk, and two volumes.
func cluster(t testing.TB) *State {
	return mustApply(t, mustApply(t, base(t), threeNodes()...), volumeCmd(10, "a"), volumeCmd(11, "b"))
}

func threeNodes() []*catalogpb.Command {
	return []*catalogpb.Command{putNodeCmd(nodeMsg(101, "n1")), diskCmd(201, 101),
		tokenCmd(0, 1, 3600), admitCmd(1, 1, nodeMsg(102, "n2")), diskCmd(202, 102),
		tokenCmd(0, 2, 3600), admitCmd(1, 2, nodeMsg(103, "n3")), diskCmd(203, 103)}
}

// refusedWith checks that a command is refused with a kind and a text.
func refusedWith(t *testing.T, s *State, cmd *catalogpb.Command, kind error, text string) {
	t.Helper()
	next, _, err := s.Apply(cmd)
	var e *Error
	if next != nil || !errors.As(err, &e) || !errors.Is(err, kind) || !strings.Contains(err.Error(), text) {
		t.Errorf("%v: got %v, want %v with %q", cmd, err, kind, text)
	}
}

func testingID(n uint32) ID { return ID(testID(n)) }

// A token lets one node in, once, until it expires by the time in commands.
func TestTokensLetOneNodeIn(t *testing.T) {
	s := mustApply(t, base(t), putNodeCmd(nodeMsg(101, "n1")), tokenCmd(0, 1, 60))
	n2 := nodeMsg(102, "n2")
	wrong := admitCmd(1, 1, n2)
	wrong.GetAdmitNode().Proof = bytes.Repeat([]byte{9}, 32)
	refusedWith(t, s, wrong, ErrNotFound, "not known")
	refusedWith(t, s, admitCmd(1, 9, n2), ErrNotFound, "node token")
	refusedWith(t, s, admitCmd(60, 1, n2), ErrConflict, "expired")
	refusedWith(t, s, admitCmd(1, 1, nodeMsg(102, "n1")), ErrExists, "another name")
	refusedWith(t, s, putNodeCmd(n2), ErrNotFound, "joins by a token")
	refusedWith(t, s, tokenCmd(0, 1, 60), ErrExists, "exists")
	refusedWith(t, s, tokenCmd(0, 3, 0), ErrInvalid, "from now")
	refusedWith(t, s, tokenCmd(0, 3, int64(pki.TokenLifeMax/time.Second)+1), ErrInvalid, "from now")

	s = mustApply(t, s, admitCmd(59, 1, n2))
	if n := s.Node("n2"); n == nil || n.State != NodeActive || n.Serial != "5e0066" || s.Tokens[0].UsedBy != n.ID {
		t.Fatalf("%+v %+v", n, s.Tokens)
	}
	refusedWith(t, s, admitCmd(59, 1, nodeMsg(103, "n3")), ErrConflict, "used before")
	// The same node comes again when the answer was lost; its first certificate is void.
	again := nodeMsg(102, "n2")
	again.Serial = "5eff"
	s = mustApply(t, s, admitCmd(59, 1, again))
	if !s.IsRevoked(ID{}, "5e0066") || s.IsRevoked(ID{}, "5eff") || s.IsRevoked(ID{}, "") || len(s.Nodes) != 2 {
		t.Fatalf("%+v %+v", s.Nodes, s.Revoked)
	}
	// What has expired makes room; what is ended early is worth nothing.
	s = mustApply(t, s, tokenCmd(61, 4, 60))
	if len(s.Tokens) != 1 {
		t.Fatalf("%+v", s.Tokens)
	}
	s = mustApply(t, s, at(62, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_ExpireToken{ExpireToken: &catalogpb.ExpireToken{Id: bytes.Repeat([]byte{4}, 8)}}
	}))
	refusedWith(t, s, admitCmd(63, 4, nodeMsg(103, "n3")), ErrNotFound, "not known")
}

// pki's token and this package's agree.
func TestTokenRecordIsPKIs(t *testing.T) {
	ca, err := pki.NewAuthority("test", time.Unix(0, stamp))
	if err != nil {
		t.Fatal(err)
	}
	tok, _, err := pki.NewToken(ca.Certificate(), time.Unix(0, stamp).Add(time.Hour), []string{"a:1"})
	if err != nil {
		t.Fatal(err)
	}
	proof := tok.Proof()
	create, admit := tokenCmd(0, 1, 0), admitCmd(5, 1, nodeMsg(102, "n2"))
	create.GetCreateToken().Id, create.GetCreateToken().Proof, create.GetCreateToken().ExpiresUnix = tok.ID[:], proof[:], tok.Expires.Unix()
	admit.GetAdmitNode().Token, admit.GetAdmitNode().Proof = tok.ID[:], proof[:]
	mustApply(t, base(t), putNodeCmd(nodeMsg(101, "n1")), create, admit)
}

func TestNodesAndDisksLeave(t *testing.T) {
	s := cluster(t)
	a := s.Volume("a")
	if home := s.NodeOfVolume(a); home == nil || home.Name != "n1" || s.NodeOfVolume(s.Volume("b")).Name != "n2" {
		t.Fatalf("a is on %v: volumes are not spread", home)
	}
	refusedWith(t, s, removeNodeCmd("n1", true), ErrConflict, "nothing else has their data; delete them first (`blockctl volume delete`)")
	refusedWith(t, s, removeNodeCmd("n3", false), ErrConflict, "has no volumes, but is active, with 1 disk and 0 leases; if nothing is to be served by it any more, remove it with --force")
	refusedWith(t, s, removeDiskCmd(201, true), ErrConflict, "nothing else has their data")
	refusedWith(t, s, diskStateCmd(201, "drained"), ErrConflict, "still has 1 volume")
	refusedWith(t, s, nodeStateCmd("n1", "drained"), ErrConflict, "1 volume")
	refusedWith(t, s, nodeStateCmd("n1", "asleep"), ErrInvalid, "held")
	refusedWith(t, s, diskCmd(202, 101), ErrConflict, "another node")
	refusedWith(t, s, removeDiskCmd(203, false), ErrConflict, "only by force")

	// Nothing new goes to a disk or node that is leaving.
	d := mustApply(t, s, diskStateCmd(203, "draining"), volumeCmd(12, "c"), volumeCmd(13, "d"), nodeStateCmd("n2", "held"), volumeCmd(14, "e"), volumeCmd(15, "f"))
	for name, want := range map[string]string{"c": "n1", "d": "n2", "e": "n1", "f": "n1"} {
		if got := d.NodeOfVolume(d.Volume(name)).Name; got != want {
			t.Errorf("volume %s is on %s, not %s", name, got, want)
		}
	}
	refusedWith(t, mustApply(t, d, diskStateCmd(201, "failed")), volumeCmd(16, "g"), ErrConflict, "disk list")

	s = mustApply(t, s, diskStateCmd(203, "drained"), removeDiskCmd(203, false), nodeStateCmd("n3", "drained"), removeNodeCmd("n3", false))
	if s.Node("n3") != nil || !s.IsRevoked(ID{}, "5e0067") || !s.IsRevoked(testingID(103), "of a later one") || s.IsRevoked(testingID(102), "") {
		t.Fatalf("%+v", s.Revoked)
	}
	s = mustApply(t, s, tokenCmd(0, 3, 60))
	refusedWith(t, s, admitCmd(1, 3, nodeMsg(103, "n3")), ErrConflict, "was removed")
	// A lease stays with a node that is given up, which may still be serving,
	// until the leader grants it to another.
	s = mustApply(t, s, admitCmd(1, 3, nodeMsg(104, "n4")), grantCmd(10, 104, 1, 0))
	refusedWith(t, s, removeNodeCmd("n4", false), ErrConflict, "1 lease")
	s = mustApply(t, s, removeNodeCmd("n4", true))
	if l, _ := s.Lease(a.ID); l.Owner != testingID(104) || l.Epoch != 1 {
		t.Fatalf("%+v", l)
	}
	if l, _ := mustApply(t, s, grantCmd(10, 101, 1, 1)).Lease(a.ID); l.Owner != testingID(101) || l.Epoch != 2 {
		t.Fatalf("%+v", l)
	}
	s = mustApply(t, base(t), putNodeCmd(nodeMsg(101, "n1")))
	refusedWith(t, s, removeNodeCmd("n1", true), ErrConflict, "the last one")
}

// Revocations are forgotten when the certificates have expired, not before.
func TestRevocationsExpire(t *testing.T) {
	s := mustApply(t, cluster(t), removeNodeCmd("n3", true))
	late := func(life time.Duration) *State {
		cmd := removeNodeCmd("n3", true)
		cmd.TimeUnixNano += int64(life)
		n := mustApply(t, s, tokenCmd(0, 7, 60), admitCmd(1, 7, nodeMsg(105, "n3")))
		return mustApply(t, n, cmd)
	}
	if s := late(pki.NodeLife - time.Second); !s.IsRevoked(ID{}, "5e0067") {
		t.Error("forgotten too early")
	}
	if s := late(pki.NodeLife + time.Second); s.IsRevoked(ID{}, "5e0067") || !s.IsRevoked(ID{}, "5e0069") {
		t.Errorf("%+v", s.Revoked)
	}
}

// Volumes from before nodes were known get their place when it is.
func TestOldVolumesGetAHome(t *testing.T) {
	old := at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_RegisterDisk{RegisterDisk: &catalogpb.RegisterDisk{Id: testID(201), Path: "/old"}}
	})
	ram := poolCmd(2, "ram")
	ram.GetCreatePool().Media = "ram"
	inRAM := volumeCmd(12, "r")
	inRAM.GetCreateVolume().Pool = "ram"
	s := mustApply(t, base(t), ram, old, volumeCmd(10, "a"), inRAM, putNodeCmd(nodeMsg(101, "n1")), diskCmd(201, 101), volumeCmd(11, "b"))
	for _, name := range []string{"a", "b", "r"} {
		if n := s.NodeOfVolume(s.Volume(name)); n == nil || n.Name != "n1" {
			t.Errorf("volume %s is on %v", name, n)
		}
	}
	if s.Volume("r").Home != testingID(101) || s.Volume("a").Home != testingID(201) {
		t.Errorf("%+v", s.Volumes)
	}
	refusedWith(t, s, old, ErrConflict, "registered already")
	atDisk := volumeCmd(13, "x")
	atDisk.GetCreateVolume().Pool, atDisk.GetCreateVolume().Home = "ram", testID(201)
	refusedWith(t, s, atDisk, ErrConflict, "media ram")
	nowhere := volumeCmd(13, "x")
	nowhere.GetCreateVolume().Home = testID(77)
	refusedWith(t, s, nowhere, ErrNotFound, "disk list")
}

func TestPoolPolicies(t *testing.T) {
	s := mustApply(t, cluster(t), labelCmd("n1", "rack", "r1"), labelCmd("n2", "rack", "r1"), labelCmd("n3", "rack", "r2"))
	pool := func(f func(*catalogpb.CreatePool)) *catalogpb.Command {
		c := poolCmd(50, "p")
		f(c.GetCreatePool())
		return c
	}
	refusedWith(t, s, pool(func(p *catalogpb.CreatePool) { p.Replicas = 3; p.Domain = "rack" }), ErrInvalid, "this cluster has 2 racks")
	refusedWith(t, s, pool(func(p *catalogpb.CreatePool) { p.Replicas = 4 }), ErrInvalid, "this cluster has 3 hosts")
	refusedWith(t, s, pool(func(p *catalogpb.CreatePool) { p.Replicas = 6 }), ErrInvalid, "1 to 5")
	refusedWith(t, s, pool(func(p *catalogpb.CreatePool) { p.Replicas = 0 }), ErrInvalid, "1 to 5")
	refusedWith(t, s, pool(func(p *catalogpb.CreatePool) { p.Replicas = 2; p.Domain = "shelf" }), ErrInvalid, "rack or zone")
	refusedWith(t, s, pool(func(p *catalogpb.CreatePool) { p.Replicas = 2; p.Media = "ram" }), ErrInvalid, "one copy")
	refusedWith(t, s, pool(func(p *catalogpb.CreatePool) { p.EcData, p.EcParity = 2, 1 }), ErrInvalid, "not both")
	refusedWith(t, s, pool(func(p *catalogpb.CreatePool) { p.Replicas, p.EcData, p.EcParity = 0, 1, 1 }), ErrInvalid, "2 or more")
	refusedWith(t, s, pool(func(p *catalogpb.CreatePool) { p.Replicas, p.EcData, p.EcParity = 0, 1<<31, 1<<31 }), ErrInvalid, "2 or more")
	s = mustApply(t, s, pool(func(p *catalogpb.CreatePool) { p.Replicas, p.EcData, p.EcParity = 0, 2, 1 }))
	if p := s.Pool("p"); p.Policy() != "ec 2+1 across hosts" || p.Spread() != 3 {
		t.Fatal(p.Policy())
	}
	in := volumeCmd(51, "v")
	in.GetCreateVolume().Pool = "p"
	refusedWith(t, s, in, ErrConflict, "can't write that yet")
}

func TestNodesDescribeThemselves(t *testing.T) {
	renamed := nodeMsg(102, "n0")
	renamed.Address, renamed.Labels = "n2:1", []*catalogpb.Label{{Key: "rack", Value: "lies"}}
	s := mustApply(t, cluster(t), labelCmd("n2", "rack", "r1", "zone", "z"), putNodeCmd(renamed))
	if n := s.Node("n0"); s.Nodes[0].Name != "n0" || n.Address != "n2:1" || n.Label("rack") != "r1" || n.FailureDomain("host") != "n0" || n.FailureDomain("zone") != "z" {
		t.Fatalf("%+v", s.Nodes)
	}
	s = mustApply(t, s, labelCmd("n0", "rack", "", "zone", "y", "nothing", ""))
	if n := s.Node("n0"); len(n.Labels) != 1 || n.Label("zone") != "y" {
		t.Fatalf("%+v", n.Labels)
	}
	refusedWith(t, s, labelCmd("n0", "a b", "x"), ErrInvalid, "label name")
	refusedWith(t, s, labelCmd("n0", "a", "x\n"), ErrInvalid, "control characters")
	refusedWith(t, s, putNodeCmd(nodeMsg(102, "n1")), ErrExists, "another name")
}

// Epochs grow with every new owner, and an owner that is not the newest changes nothing.
func TestLeases(t *testing.T) {
	s := mustApply(t, cluster(t), grantCmd(10, 101, 7, 0))
	lease := func() Lease { l, _ := s.Lease(testingID(10)); return l }
	audits := len(s.Audits)
	if l := lease(); l.Owner != testingID(101) || l.Epoch != 1 {
		t.Fatalf("%+v", l)
	}
	s = mustApply(t, s, grantCmd(10, 101, 7, 0)) // again: the answer was lost
	if lease().Epoch != 1 {
		t.Fatalf("%+v", lease())
	}
	refusedWith(t, s, grantCmd(10, 102, 7, 0), ErrConflict, "changed meanwhile")
	s = mustApply(t, s, grantCmd(10, 101, 8, 1)) // it started anew
	if lease().Epoch != 2 {
		t.Fatalf("%+v", lease())
	}
	refusedWith(t, s, releaseCmd(10, 101, 7, 1), ErrConflict, "")
	refusedWith(t, s, releaseCmd(10, 102, 8, 2), ErrConflict, "")
	refusedWith(t, s, releaseCmd(77, 101, 8, 2), ErrNotFound, "volume")
	refusedWith(t, s, grantCmd(10, 101, 0, 2), ErrInvalid, "incarnation")
	refusedWith(t, s, moveCmd("a", "n2"), ErrConflict, "lives on node \"n1\" alone")
	s = mustApply(t, s, releaseCmd(10, 101, 8, 2))
	refusedWith(t, s, releaseCmd(10, 101, 8, 2), ErrConflict, "")
	if l := lease(); !l.Owner.IsZero() || l.Epoch != 2 {
		t.Fatalf("%+v", l)
	}
	if len(s.Audits) != audits {
		t.Error("leases flood the audit log")
	}
	s = mustApply(t, s, grantCmd(10, 102, 1, 2), moveCmd("a", "n1"))
	if l := lease(); l.MoveTo != testingID(101) || l.Epoch != 3 {
		t.Fatalf("%+v", l)
	}
	s = mustApply(t, s, releaseCmd(10, 102, 1, 3), grantCmd(10, 101, 8, 3))
	if l := lease(); !l.MoveTo.IsZero() || l.Owner != testingID(101) || len(s.Leases()) != 1 {
		t.Fatalf("%+v", l)
	}
	remove := at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_RemoveVolume{RemoveVolume: &catalogpb.RemoveVolume{Id: testID(10)}}
	})
	s = mustApply(t, s, reserveCmd(10, 0, "x"), retireCmd("a"), remove)
	if _, ok := s.Lease(testingID(10)); ok || s.Reservation(testingID(10)).Generation != 0 {
		t.Error("they outlive the volume")
	}
}

// The table is what package lease takes, and its nodes are called as here.
func TestLeaseTable(t *testing.T) {
	s := mustApply(t, cluster(t), grantCmd(10, 101, 7, 0))
	e := s.LeaseTable().Get(testingID(10))
	if e.Owner != testingID(101).String() || e.Epoch != 1 || e.Incarnation != 7 {
		t.Fatalf("%+v", e)
	}
	// What an owner gives back can go to the next one at once.
	give := releaseCmd(10, 101, 7, 1)
	give.GetReleaseLease().ToNode, give.GetReleaseLease().ToIncarnation = testID(102), 3
	s = mustApply(t, s, give)
	if l, _ := s.Lease(testingID(10)); l.Owner != testingID(102) || l.Epoch != 2 || l.Incarnation != 3 {
		t.Fatalf("%+v", l)
	}
	give = releaseCmd(10, 102, 3, 2)
	give.GetReleaseLease().ToNode = testID(177)
	refusedWith(t, s, give, ErrNotFound, "no node")
}

func TestReservationsOfAStaleWriterAreRefused(t *testing.T) {
	s := mustApply(t, cluster(t), reserveCmd(10, 0, "one"), reserveCmd(10, 1, "two"))
	refusedWith(t, s, reserveCmd(10, 1, "late"), ErrConflict, "generation 2")
	refusedWith(t, s, reserveCmd(10, 3, "early"), ErrConflict, "generation 2")
	refusedWith(t, s, reserveCmd(77, 0, "x"), ErrNotFound, "no volume")
	refusedWith(t, s, reserveCmd(10, 2, strings.Repeat("x", ReservationMax+1)), ErrInvalid, "at most")
	if r := s.Reservation(testingID(10)); r.Blob != "two" || r.Generation != 2 || s.Reservation(testingID(11)).Generation != 0 {
		t.Fatalf("%+v", r)
	}
}

func TestJobs(t *testing.T) {
	s := mustApply(t, cluster(t), jobCmd(0, 301, "drain", "n3"), progressCmd(301, 4, "here"))
	if j := s.Job(testingID(301)); j.StepsDone != 4 || j.Cursor != "here" || j.Actor != "test" || j.State != JobRunning {
		t.Fatalf("%+v", j)
	}
	refusedWith(t, s, jobCmd(0, 302, "drain", "n3"), ErrExists, "does that already")
	refusedWith(t, s, progressCmd(301, 11, ""), ErrInvalid, "more done")
	refusedWith(t, s, progressCmd(399, 1, ""), ErrNotFound, "job list")
	s = mustApply(t, s, jobStateCmd(301, "paused"))
	refusedWith(t, s, progressCmd(301, 5, ""), ErrConflict, "paused")
	refusedWith(t, s, jobStateCmd(301, "done"), ErrConflict, "can't become")
	s = mustApply(t, s, jobStateCmd(301, "running"), jobStateCmd(301, "waiting"), jobStateCmd(301, "canceled"))
	for _, to := range []string{"running", "canceled", "done", ""} {
		refusedWith(t, s, jobStateCmd(301, to), ErrConflict, "has ended")
	}
	// Jobs that have ended make room.
	for i := range uint32(JobsMax + 5) {
		s = mustApply(t, s, jobCmd(0, 1000+i, "rebuild", "x"), jobStateCmd(1000+i, "done"))
	}
	if len(s.Jobs) != JobsMax || s.Job(testingID(301)) != nil {
		t.Fatalf("%d jobs", len(s.Jobs))
	}
	for i := range uint32(JobsLiveMax) {
		s = mustApply(t, s, jobCmd(0, 5000+i, "rebuild", fmt.Sprint(i)))
	}
	refusedWith(t, s, jobCmd(0, 9000, "rebuild", "y"), ErrConflict, "256")
}

func TestAuthority(t *testing.T) {
	sealed, err := pki.NewKeyring().Seal(AuthorityLabel, []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	s := base(t)
	refusedWith(t, s, authorityCmd([]byte("plain"), 0), ErrInvalid, "not sealed")
	s = mustApply(t, s, authorityCmd(sealed, 0))
	refusedWith(t, s, authorityCmd(sealed, 0), ErrConflict, "first")
	s = mustApply(t, s, authorityCmd(sealed, s.Authority.Revision))
	if s.Authority.ClusterName != "prod" || s.Authority.Revision != s.Revision {
		t.Fatalf("%+v", s.Authority)
	}
}

// A dry run says what would change, and changes nothing.
func TestDryRun(t *testing.T) {
	s := mustApply(t, cluster(t), mapCmd("a", "any", nil))
	before := s.Hash()
	words, err := s.DryRun(retireCmd("a"))
	if err != nil || len(words) != 2 || !strings.Contains(words[0], "volume.delete a") || !strings.Contains(words[1], "1 mapping of volume a") {
		t.Fatalf("%q, %v", words, err)
	}
	words, err = s.DryRun(removeNodeCmd("n3", true))
	if err != nil || len(words) != 2 || !strings.Contains(words[1], "1 disk of node n3") {
		t.Fatalf("%q, %v", words, err)
	}
	if _, err := s.DryRun(volumeCmd(50, "a")); !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
	if s.Hash() != before {
		t.Fatal("it changed the state")
	}
	m := openMember(t, t.TempDir(), pki.NewKeyring())
	defer m.close(t)
	m.do(t, initCmd())
	rev := m.State().Revision
	if words, err := m.DryRun(t.Context(), secretCmds()[0]); err != nil || len(words) != 1 || m.State().Revision != rev {
		t.Fatalf("%q, %v", words, err)
	}
	if _, err := m.DryRun(t.Context(), volumeCmd(1, "a")); !errors.Is(err, ErrNotFound) || m.State().Revision != rev {
		t.Fatal(err)
	}
}

// genSpread draws commands about volumes of several copies, many of which s allows.
func genSpread(t *rapid.T, s *State) *catalogpb.Command {
	id := rapid.Uint32Range(1, 4).Draw(t, "volume")
	name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
	small := rapid.Uint32Range(0, 3).Draw(t, "small")
	v, apart := s.Map().Volume(testingID(id)), rapid.Permutation([]uint32{1, 2, 3}).Draw(t, "disks")
	kind := rapid.IntRange(0, 9).Draw(t, "spreadkind")
	switch {
	case kind == 0:
		return spreadPoolCmd(401, "two", 2, rapid.Uint32Range(0, 2).Draw(t, "min"))
	case kind == 1:
		return portalsCmd(100+id, &catalogpb.Portals{Data: []string{fmt.Sprintf("10.0.0.%d:1", small)}})
	case kind == 2:
		return resizeCmd(name, int64(1+small)*150<<20)
	case v == nil:
		return spreadVolumeCmd(id, name, "two", int64(1+small)*100<<20)
	case kind < 5 && v.Allocated() > 0:
		return grantCmd(id, 100+apart[0], 1, s.LeaseTable().Get(testingID(id)).Epoch)
	case kind < 6 || v.Allocated() == 0:
		return allocateCmd(id, rapid.SampledFrom([]uint32{v.Allocated(), small}).Draw(t, "first"), apart[:2]...)
	}
	disk, late := extmap.Disk(apart[0]), rapid.SampledFrom([]uint64{0, 0, 0, 1}).Draw(t, "late")
	return markCmd(id, s.LeaseTable().Get(testingID(id)).Epoch, uint32(disk), v.Sync(disk).Generation-late,
		catalogpb.ReplicaChange(rapid.Int32Range(1, 4).Draw(t, "change")))
}

// genCluster draws commands about the cluster that collide often.
func genCluster(t *rapid.T) *catalogpb.Command {
	node := rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "node")
	nodeID := rapid.Uint32Range(101, 105).Draw(t, "nodeid")
	diskID := rapid.Uint32Range(201, 203).Draw(t, "diskid")
	small := rapid.Uint64Range(0, 3).Draw(t, "small")
	token := byte(rapid.IntRange(1, 3).Draw(t, "token"))
	volume := rapid.Uint32Range(1, 4).Draw(t, "volume")
	force := rapid.Bool().Draw(t, "force")
	jobID := rapid.Uint32Range(301, 304).Draw(t, "job")
	switch rapid.IntRange(0, 15).Draw(t, "clusterkind") {
	case 0, 1:
		return putNodeCmd(nodeMsg(nodeID, node))
	case 2:
		return tokenCmd(int64(small)*40, token, 60)
	case 3, 4:
		return admitCmd(int64(small)*40, token, nodeMsg(nodeID, node))
	case 5:
		return labelCmd(node, "rack", rapid.SampledFrom([]string{"", "r1", "r2"}).Draw(t, "rack"))
	case 6:
		return nodeStateCmd(node, rapid.SampledFrom([]string{"active", "held", "draining", "drained"}).Draw(t, "state"))
	case 7:
		return removeNodeCmd(node, force)
	case 8:
		return diskCmd(diskID, nodeID)
	case 9:
		return diskStateCmd(diskID, rapid.SampledFrom([]string{"active", "draining", "drained", "failed"}).Draw(t, "state"))
	case 10:
		return removeDiskCmd(diskID, force)
	case 11:
		return grantCmd(volume, nodeID, 1+small/2, small)
	case 12:
		return releaseCmd(volume, nodeID, 1+small/2, small)
	case 13:
		return moveCmd(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"), node)
	case 14:
		return reserveCmd(volume, small, "blob")
	}
	if force {
		return jobCmd(0, jobID, "drain", node)
	}
	return rapid.SampledFrom([]*catalogpb.Command{progressCmd(jobID, small, "c"), jobStateCmd(jobID, "paused"), jobStateCmd(jobID, "running"), jobStateCmd(jobID, "done")}).Draw(t, "jobcmd")
}

// Two state machines that are fed the same entries, one of which goes through
// a snapshot now and then, give the same answers and have the same hash; no command breaks
// an invariant, and an old state is never changed.
func TestStateMachinesAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, two := NewFSM(), NewFSM()
		type old struct {
			state *State
			hash  [32]byte
		}
		var kept []old
		all := rapid.Bool().Draw(t, "all understand version 2")
		apply := func(cmd *catalogpb.Command) {
			if cmd.Version = versionOf(cmd); cmd.Version > 1 && !all {
				return
			}
			b := must(proto.Marshal(cmd))
			v := cmd.GetVersion()
			if err := one.Check(v, b); err != nil {
				t.Fatal(err)
			}
			if a, b := one.Apply(1, 1, v, b), two.Apply(1, 1, v, bytes.Clone(b)); !bytes.Equal(a, b) {
				t.Fatalf("%v: %x and %x", cmd, a, b)
			}
			if n := one.State().Check(); n != 0 {
				t.Fatalf("%v breaks invariant %d", cmd, n)
			}
			if one.State().Hash() != two.State().Hash() {
				t.Fatalf("%v: the states differ", cmd)
			}
		}
		apply(initCmd())
		apply(poolCmd(1<<21, "default"))
		if rapid.Bool().Draw(t, "three nodes") {
			for _, cmd := range threeNodes() {
				apply(cmd)
			}
			apply(spreadPoolCmd(401, "two", 2, 0))
		}
		for range rapid.IntRange(1, 60).Draw(t, "n") {
			switch rapid.IntRange(0, 2).Draw(t, "about") {
			case 0:
				apply(genCluster(t))
			case 1:
				apply(genSpread(t, one.State()))
			default:
				cmd := genCommand(t)
				if v := cmd.GetCreateVolume(); v != nil {
					v.Id = testID(rapid.Uint32Range(1, 4).Draw(t, "volumeid"))
				}
				if v := cmd.GetRemoveVolume(); v != nil {
					v.Id = testID(rapid.Uint32Range(1, 4).Draw(t, "volumeid"))
				}
				apply(cmd)
			}
			switch rapid.IntRange(0, 9).Draw(t, "then") {
			case 3:
				all = all || rapid.Bool().Draw(t, "the last one was upgraded")
			case 0:
				var b bytes.Buffer
				if _, err := two.Snapshot().WriteTo(&b); err != nil {
					t.Fatal(err)
				}
				two = NewFSM()
				if err := two.Restore(&b); err != nil {
					t.Fatal(err)
				}
			case 1:
				kept = append(kept, old{one.State(), one.State().Hash()})
			case 2: // a branch that comes to nothing
				_, _, _ = one.State().Apply(genCluster(t))
			}
		}
		if s := one.State(); !all && (s.Version() != 1 || s.lastDisk != 0 || s.Map().Hash() != (extmap.Map{}).Hash()) {
			t.Fatal("there is something of version 2 before all understand it")
		}
		for _, o := range kept {
			if o.state.Hash() != o.hash {
				t.Fatalf("the state at revision %d was changed later", o.state.Revision)
			}
		}
	})
}

// A stream that is cut or changed anywhere is refused.
func TestDamagedStreamsAreRefused(t *testing.T) {
	s := mustApply(t, cluster(t), grantCmd(10, 101, 1, 0), reserveCmd(10, 0, "r"), jobCmd(0, 301, "drain", "n3"))
	var b bytes.Buffer
	if n, err := s.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatal(n, err)
	}
	full := b.Bytes()
	if back, err := ReadState(bytes.NewReader(full)); err != nil || back.Hash() != s.Hash() {
		t.Fatal(err)
	}
	for i := range full {
		if _, err := ReadState(bytes.NewReader(full[:i])); err == nil {
			t.Fatalf("cut at %d of %d", i, len(full))
		}
		bad := bytes.Clone(full)
		bad[i] ^= 0x10
		if _, err := ReadState(bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d of %d changed", i, len(full))
		}
	}
	newer := &catalogpb.Snapshot{Version: CommandVersion + 1}
	if _, err := Unmarshal(must(proto.Marshal(newer))); err == nil || !strings.Contains(err.Error(), "version 4") {
		t.Fatal(err)
	}
}

// Lists share arrays between versions; appending to an old version must not show in a newer one.
func TestHistoriesShareArraysSafely(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type version struct {
			list []int
			tail *tail
			want []int
		}
		versions := []version{{}}
		for i := range rapid.IntRange(1, 80).Draw(t, "n") {
			v := versions[rapid.IntRange(max(0, len(versions)-3), len(versions)-1).Draw(t, "from")]
			next := version{tail: v.tail}
			next.list = appendShared(v.list, &next.tail, i, 8)
			next.want = append(slices.Clone(v.want), i)
			if len(next.want) > 8 {
				next.want = next.want[1:]
			}
			versions = append(versions, next)
			for _, v := range versions {
				if !slices.Equal(v.list, v.want) {
					t.Fatalf("%v, want %v", v.list, v.want)
				}
			}
		}
	})
}

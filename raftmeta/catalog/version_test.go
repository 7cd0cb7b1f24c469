package catalog

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/pki"
)

// golden has what a release wrote as a snapshot, and the hash that it had of
// it. Members of the next release must have the same one, or they stop beside
// it in one cluster. The files are never written again.
var golden = map[string]string{
	"snapshot1": "d65fcc5ac3a71a16e10ff16e8f0ced292d69d38920079e3c935ec9bd67eb8bf8",
	"snapshot2": "1b03e1e775ca447ad80f75a5194bb884eabe179c5c73f3a0234d5b33a1a83341",
}

func readGolden(t *testing.T, name string) *State {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	s, err := ReadState(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := s.WriteTo(&out); err != nil || !bytes.Equal(out.Bytes(), b) {
		t.Errorf("%s is written otherwise than it was: %v", name, err)
	}
	if h := s.Hash(); hex.EncodeToString(h[:]) != golden[name] {
		t.Errorf("%s has hash %x", name, h)
	}
	return s
}

func TestGoldenSnapshots(t *testing.T) {
	for name := range golden {
		readGolden(t, name)
	}
}

// Beside members of the first release nothing changes that it does not have:
// not even the text of a refusal, which is in the audit log.
func TestVersionOneStaysAsItWas(t *testing.T) {
	s := readGolden(t, "snapshot1")
	v1 := func(cmd *catalogpb.Command) *catalogpb.Command { cmd.Version = 1; return cmd }
	_, _, err := s.Apply(v1(spreadVolumeCmd(50, "v", "three", 1<<30)))
	if last := s.Audits[len(s.Audits)-1]; err == nil || err.Error() != last.Refused {
		t.Errorf("now: %v; then: %s", err, last.Refused)
	}
	refusedWith(t, s, v1(moveCmd("a", "n0")), ErrConflict, "which this version does not have")
	s = mustApply(t, s, v1(tokenCmd(9, 4, 3600)), v1(admitCmd(10, 4, nodeMsg(106, "late"))), v1(diskCmd(206, 106)))
	if s.Version() != 1 || s.Node("late").Number != 0 || s.DiskByID(testingID(206)).Number != 0 || s.DiskByNumber(0) != nil {
		t.Errorf("version %d: %+v", s.Version(), s.Nodes)
	}
}

// The first command of version 2 gives everybody a number, the same on a member that has
// applied all commands and on one that was sent a snapshot.
func TestUpgradeToNumbers(t *testing.T) {
	s := readGolden(t, "snapshot1")
	up := portalsCmd(101, &catalogpb.Portals{Data: []string{"10.0.0.1:1"}})
	up.Version = 2
	refusedWith(t, s, portalsCmd(177, nil), ErrNotFound, "no node")
	if s.Version() != 1 {
		t.Error("a refused command made it version 2")
	}
	s = mustApply(t, s, up)
	// n1 came first; n0 and n2 came at times of which n2's is the earlier.
	for name, want := range map[string]uint16{"n1": 1, "n2": 2, "n0": 3} {
		if got := s.Node(name).Number; got != want {
			t.Errorf("node %s has number %d, not %d", name, got, want)
		}
	}
	for i := range s.Disks {
		if s.Disks[i].Number == 0 || s.DiskByNumber(s.Disks[i].Number) != &s.Disks[i] {
			t.Errorf("%+v", s.Disks[i])
		}
	}
	if s.Version() != 2 || s.Pool("three").MinInSync != 2 || s.Check() != 0 {
		t.Errorf("version %d, %+v, invariant %d", s.Version(), s.Pool("three"), s.Check())
	}
	s = mustApply(t, s, nodeStateCmd("n2", "active"))
	mustApply(t, s, spreadVolumeCmd(50, "v", "three", 1<<30))
	refusedWith(t, s, moveCmd("a", "n0"), ErrConflict, "a volume of a pool with several copies")
}

// The order is that in which nodes came, not that of their names or identifiers.
func TestNumbersAreByAge(t *testing.T) {
	s := base(t)
	for i, id := range []uint32{105, 109, 101} {
		put, token, admit := putNodeCmd(nodeMsg(id, "n"+string(rune('9'-i)))), tokenCmd(0, byte(i), 3600), admitCmd(int64(i), byte(i), nodeMsg(id, "n"+string(rune('9'-i))))
		put.Version, token.Version, admit.Version = 1, 1, 1
		if i == 0 {
			s = mustApply(t, s, put)
		} else {
			s = mustApply(t, s, token, admit)
		}
	}
	s = mustApply(t, s, portalsCmd(101, nil))
	for i, name := range []string{"n9", "n8", "n7"} {
		if s.NodeByNumber(uint16(i+1)) != s.Node(name) {
			t.Errorf("%+v", s.Node(name))
		}
	}
}

// The version of a command is the lowest that has all that is in it.
func TestVersionsOfFields(t *testing.T) {
	withTerm := grantCmd(10, 101, 1, 0)
	withTerm.Term = 3
	provenFinish := finishMovesCmd(1, 1, 2, 0)
	provenFinish.GetFinishMoves().Proof = 1
	for want, cmds := range map[uint32][]*catalogpb.Command{
		0: {{}},
		1: {poolCmd(1, "p"), spreadPoolCmd(1, "p", 3, 0), grantCmd(10, 101, 1, 0), diskCmd(201, 101), jobCmd(1, 1, "drain", "x")},
		2: {spreadPoolCmd(1, "p", 3, 2), withTerm, portalsCmd(101, nil), markCmd(1, 1, 1, 1, toOut), allocateCmd(1, 0, 1)},
		3: {startMovesCmd(1, 0, 1, 2), finishMovesCmd(1, 1, 2, 0), cancelMovesCmd(1, 2), jobCmd(1, 1, "rebuild", "x"), jobCmd(1, 1, "drain-disk", "x")},
		4: {provenCmd(1, 1, 1, 1, toIn, 1), provenFinish},
	} {
		for _, cmd := range cmds {
			if got := versionOf(cmd); got != want {
				t.Errorf("%v has version %d, not %d", cmd, got, want)
			}
			cmd.Version = 1
			if err := NewFSM().Check(1, must(proto.Marshal(cmd))); (err == nil) != (want == 1) {
				t.Errorf("%v as version 1: %v", cmd, err)
			}
		}
	}
	for name := range fieldVersions {
		message := catalogpb.File_catalogpb_catalog_proto.Messages().ByName(name.Parent().Name())
		if message == nil || message.Fields().ByName(name.Name()) == nil {
			t.Errorf("there is no field %s", name)
		}
	}
}

// What the leader of a term decided does not come into the log of the next one.
func TestCommandsOfATerm(t *testing.T) {
	fsm := NewFSM()
	fsm.state.Store(cluster(t))
	apply := func(term uint64, cmd *catalogpb.Command) error {
		b := must(proto.Marshal(cmd))
		if err := fsm.Check(CommandVersion, b); err != nil {
			t.Fatal(err)
		}
		_, err := decodeOutcome(fsm.Apply(1, term, CommandVersion, b))
		return err
	}
	cmd := grantCmd(10, 101, 1, 0)
	cmd.Term = 3
	before := fsm.State()
	for _, term := range []uint64{2, 4} {
		if err := apply(term, cmd); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "another leader") || fsm.State() != before {
			t.Errorf("in term %d: %v", term, err)
		}
	}
	if err := apply(3, cmd); err != nil {
		t.Fatal(err)
	}
	before = fsm.State()
	if err := apply(4, markCmd(10, 1, 1, 0, toOut)); !errors.Is(err, ErrConflict) || fsm.State() != before {
		t.Errorf("a refused proposal leaves a trace: %v", err)
	}
	cmd = grantCmd(10, 102, 1, 1)
	if err := apply(9, cmd); err != nil {
		t.Error(err)
	}
}

// Through a group, a command of version 2 takes effect once the gate is open, and the
// state that it leads to survives a restart.
func TestVersionTwoThroughTheGroup(t *testing.T) {
	dir, keys := t.TempDir(), pki.NewKeyring()
	open := make(chan struct{}, 1)
	m := openMemberWith(t, dir, keys, func(e group.Event) {
		if e.Kind == group.EventGate && e.Index == CommandVersion {
			open <- struct{}{}
		}
	})
	m.do(t, initCmd(), poolCmd(1, "default"), putNodeCmd(nodeMsg(101, "n1")), diskCmd(201, 101))
	if m.State().Version() != 1 {
		t.Error("commands of version 1 make a state of version 1")
	}
	<-open
	m.do(t, portalsCmd(101, &catalogpb.Portals{Nvme: []string{"127.0.0.1:4420"}}))
	want := m.State().Hash()
	if n := m.State().NodeByNumber(1); n == nil || n.Name != "n1" || m.State().DiskByNumber(1) == nil {
		t.Errorf("%+v", m.State().Nodes)
	}
	m.close(t)
	m = openMember(t, dir, keys)
	defer m.close(t)
	if err := m.Barrier(t.Context()); err != nil || m.State().Hash() != want {
		t.Errorf("after a restart: %v", err)
	}
}

// The first release answered commands as testdata/commands1.gz says, which it
// wrote: 150 random histories, each with the hash of the state at its end. A
// record is its length in 4 bytes, big-endian, and the bytes: command, answer, ..., nothing, hash.
func TestAnswersOfVersionOne(t *testing.T) {
	f, err := os.Open(filepath.Join("testdata", "commands1.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	history, err := io.ReadAll(must(gzip.NewReader(f)))
	if err != nil {
		t.Fatal(err)
	}
	record := func() []byte {
		n := binary.BigEndian.Uint32(history)
		r := history[4 : 4+n]
		history = history[4+n:]
		return r
	}
	fsm, histories := NewFSM(), 0
	for len(history) > 0 {
		cmd, then := record(), record()
		if len(cmd) == 0 {
			if now := fsm.State().Hash(); !bytes.Equal(now[:], then) {
				t.Errorf("history %d ends in another state", histories)
			}
			fsm, histories = NewFSM(), histories+1
			continue
		}
		if now := fsm.Apply(1, 1, 1, cmd); !bytes.Equal(now, then) {
			t.Fatalf("history %d: now %q, then %q", histories, now, then)
		}
	}
	if histories != 150 {
		t.Errorf("%d histories", histories)
	}
}

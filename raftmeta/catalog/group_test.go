package catalog

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/pki"
)

// member is a group of one with its catalog.
type member struct {
	*Catalog
	group *group.Group
	fsm   *FSM
}

func openMember(t testing.TB, dir string, keys pki.Keyring) *member {
	t.Helper()
	return openMemberWith(t, dir, keys, nil)
}

func openMemberWith(t testing.TB, dir string, keys pki.Keyring, events func(group.Event)) *member {
	t.Helper()
	fsm := NewFSM()
	g, err := group.Open(group.Config{Dir: filepath.Join(dir, "raft"), Cluster: "test", NodeID: "n1", Address: "127.0.0.1:1", FSM: fsm, Bootstrap: true, Events: events})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() }) // again, when a test has failed before
	return &member{New(fsm, g, func() pki.Keyring { return keys }), g, fsm}
}

func (m *member) close(t testing.TB) {
	t.Helper()
	if err := m.group.Close(); err != nil {
		t.Fatal(err)
	}
}

func (m *member) do(t testing.TB, cmds ...*catalogpb.Command) {
	t.Helper()
	for _, c := range cmds {
		if _, err := m.Do(c); err != nil {
			t.Fatalf("%v: %v", c, err)
		}
	}
}

// A command is in the state, and in the log, when Do returns; a refusal comes
// back with its kind and text, and leaves a trace.
func TestDoThroughTheGroup(t *testing.T) {
	dir, keys := t.TempDir(), pki.NewKeyring()
	m := openMember(t, dir, keys)
	m.do(t, initCmd(), poolCmd(1, "default"), volumeCmd(10, "a"))
	create := volumeCmd(11, "b")
	create.Version = 0 // Do knows what it takes
	create.RequestId, create.Actor, create.Source = "r", "someone", "10.0.0.9"
	res, err := m.Do(create)
	if err != nil || m.State().Volume("b") == nil || res.Revision != m.State().Revision || res.ID != m.State().Volume("b").ID ||
		res.Audit.Source != "10.0.0.9" || res.Audit.Action != "volume.create" {
		t.Fatalf("%+v, %v", res, err)
	}
	if again, err := m.Do(create); err != nil || !again.Replayed || again.ID != res.ID {
		t.Fatalf("%+v, %v", again, err)
	}
	refused := volumeCmd(12, "a")
	refused.Actor, refused.Source = "someone", "10.0.0.9"
	_, err = m.Do(refused)
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "another name") {
		t.Fatal(err)
	}
	last := m.State().Audits[len(m.State().Audits)-1]
	if last.Refused != err.Error() || last.Actor != "someone" || last.Source != "10.0.0.9" || last.Action != "create_volume" {
		t.Fatalf("%+v", last)
	}
	want := m.State().Hash()
	m.close(t)
	if _, err := m.Do(volumeCmd(13, "c")); !errors.Is(err, ErrFailed) || !errors.Is(err, group.ErrClosed) {
		t.Fatal(err)
	}
	m = openMember(t, dir, keys)
	defer m.close(t)
	if err := m.Barrier(t.Context()); err != nil || m.State().Hash() != want {
		t.Fatalf("not the same after a restart: %v", err)
	}
}

// A refusal that quotes a megabyte fits into a result.
func TestLongRefusals(t *testing.T) {
	m := openMember(t, t.TempDir(), pki.NewKeyring())
	defer m.close(t)
	m.do(t, initCmd())
	long := poolCmd(5, "p")
	long.GetCreatePool().Media = strings.Repeat("ü", 400<<10)
	if _, err := m.Do(long); !errors.Is(err, ErrInvalid) || len(err.Error()) > textMax+16 {
		t.Fatalf("%d bytes: %.80v", len(err.Error()), err)
	}
	m.do(t, poolCmd(6, "q"))
}

func secretCmds() []*catalogpb.Command {
	create := hostCmd(20, "h")
	create.GetCreateHost().Nqn = "nqn.2014-08.org.nvmexpress:uuid:h"
	create.GetCreateHost().Chap = &catalogpb.Chap{User: "u", Secret: "plaintext-chap-1"}
	update := updateHostCmd(&catalogpb.UpdateHost{Name: "h", MutualChap: &catalogpb.Chap{User: "t", Secret: "plaintext-chap-2"},
		Dhchap: &catalogpb.DhChap{Key: "DHHC-1:00:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA:"}})
	return []*catalogpb.Command{create, update}
}

// Nothing that the group writes has a secret in the clear, and who has the key reads them.
func TestSecretsAreSealed(t *testing.T) {
	dir, keys := t.TempDir(), pki.NewKeyring()
	m := openMember(t, dir, keys)
	m.do(t, initCmd())
	for _, c := range secretCmds() {
		before := proto.CloneOf(c)
		m.do(t, c)
		if !proto.Equal(before, c) {
			t.Fatal("Do changed the caller's command")
		}
	}
	// A request that comes again is sealed anew, and is the same all the same.
	again := hostCmd(21, "again")
	again.GetCreateHost().Chap, again.RequestId = &catalogpb.Chap{User: "u", Secret: "plaintext-chap-6"}, "again"
	m.do(t, again)
	if res, err := m.Do(again); err != nil || !res.Replayed {
		t.Fatalf("%+v, %v", res, err)
	}
	var snapshot bytes.Buffer
	if _, err := m.group.Backup(t.Context(), &snapshot, time.Unix(0, stamp)); err != nil {
		t.Fatal(err)
	}
	noPlaintext(t, "the backup", snapshot.Bytes())
	noPlaintextIn(t, dir)
	h, err := m.Unseal(m.State().Host("h"))
	if err != nil || h.Chap.Secret != "plaintext-chap-1" || h.Mutual.Secret != "plaintext-chap-2" || !strings.HasPrefix(h.DHChap.Key, "DHHC-1:") {
		t.Fatalf("%+v, %v", h, err)
	}
	// What can only be checked in the clear is.
	for text, u := range map[string]*catalogpb.UpdateHost{
		"12 to 255":   {Name: "h", Chap: &catalogpb.Chap{User: "u", Secret: "short"}},
		"must differ": {Name: "h", Chap: &catalogpb.Chap{User: "u", Secret: "plaintext-chap-2"}},
		"malformed":   {Name: "h", Dhchap: &catalogpb.DhChap{Key: "DHHC-9"}},
		"needs CHAP":  {Name: "h", Chap: &catalogpb.Chap{}},
	} {
		if _, err := m.Do(updateHostCmd(u)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v", u, err)
		}
	}
	// A change that was made from older secrets is refused.
	stale, err := m.sealCommand(t.Context(), updateHostCmd(&catalogpb.UpdateHost{Name: "h", Chap: &catalogpb.Chap{User: "u", Secret: "plaintext-chap-4"}}))
	if err != nil {
		t.Fatal(err)
	}
	m.do(t, updateHostCmd(&catalogpb.UpdateHost{Name: "h", Chap: &catalogpb.Chap{User: "u", Secret: "plaintext-chap-5"}}))
	if _, _, err := m.State().Apply(stale); !errors.Is(err, ErrConflict) {
		t.Error(err)
	}
	// Another cluster's key opens nothing, and a sealed secret fits its own place only.
	other := New(m.fsm, m.group, pki.NewKeyring)
	if _, err := other.Unseal(m.State().Host("h")); !errors.Is(err, pki.ErrSealOpen) {
		t.Error(err)
	}
	moved := *m.State().Host("h")
	moved.Chap.Sealed, moved.Mutual.Sealed = moved.Mutual.Sealed, moved.Chap.Sealed
	if _, err := m.Unseal(&moved); !errors.Is(err, pki.ErrSealOpen) {
		t.Error(err)
	}
	// Taking secrets away needs no key.
	m.do(t, updateHostCmd(&catalogpb.UpdateHost{Name: "h", Chap: &catalogpb.Chap{}, MutualChap: &catalogpb.Chap{}, Dhchap: &catalogpb.DhChap{}}))
	if h := m.State().Host("h"); !h.Chap.IsZero() || !h.Mutual.IsZero() || !h.DHChap.IsZero() {
		t.Errorf("%+v", h)
	}
	m.close(t)
	noPlaintextIn(t, dir)
}

// A secret in the clear is kept out of the log by the leader.
func TestPlaintextIsKeptOutOfTheLog(t *testing.T) {
	for _, c := range secretCmds() {
		if err := NewFSM().Check(1, must(proto.Marshal(c))); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
	}
}

func noPlaintext(t *testing.T, what string, b []byte) {
	t.Helper()
	for _, secret := range []string{"plaintext-chap", "DHHC-1:"} {
		if bytes.Contains(b, []byte(secret)) {
			t.Fatalf("%s has %q in the clear", what, secret)
		}
	}
}

func noPlaintextIn(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		noPlaintext(t, path, b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func copyJournal(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(dir, "catalog")
	if err := os.CopyFS(to, os.DirFS("testdata/journal1")); err != nil {
		t.Fatal(err)
	}
	return to
}

// testdata/journal1 was written by the blockd before there was a group.
// Nothing in it is lost, and its secrets get sealed.
func TestImportOfAJournal(t *testing.T) {
	dir, keys := t.TempDir(), pki.NewKeyring()
	old := copyJournal(t, dir)
	was, _, err := readJournal(old)
	if err != nil {
		t.Fatal(err)
	}
	m := openMember(t, filepath.Join(dir, "new"), keys)
	info, err := m.Import(t.Context(), old, stamp)
	if err != nil || info.Revision != was.Revision || info.Revision != 14 || info.Kept != old+".imported" {
		t.Fatalf("%+v, %v", info, err)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the directory is still there: %v", err)
	}
	if _, _, err := readJournal(info.Kept); err != nil {
		t.Fatalf("what is kept can't be read: %v", err)
	}
	s := m.State()
	if s.ClusterID != was.ClusterID || s.IQN != was.IQN || s.Revision <= was.Revision || len(s.Volumes) != 3 || !s.Volume("gone").Retired ||
		s.Volume("b").Protection != Protected || len(s.Mappings) != 2 || len(s.Disks) != 1 || len(s.Audits) != len(was.Audits)+1 {
		t.Fatalf("%+v", s)
	}
	for _, name := range []string{"h", "other"} {
		h, err := m.Unseal(s.Host(name))
		if err != nil {
			t.Fatal(err)
		}
		h.SecretsRevision = was.Host(name).SecretsRevision
		if h != *was.Host(name) {
			t.Errorf("host %s: %+v, was %+v", name, h, was.Host(name))
		}
	}
	// A request that was answered before the import is known still.
	again := volumeCmd(99, "a")
	again.RequestId = "request-3"
	if res, err := m.Do(again); err != nil || !res.Replayed {
		t.Errorf("%+v, %v", res, err)
	}
	// Those about hosts are forgotten: their digests cover secrets.
	if len(s.answers) != len(was.answers)-4 {
		t.Errorf("%d answers of %d", len(s.answers), len(was.answers))
	}
	noPlaintextIn(t, filepath.Join(dir, "new"))
	want := m.State().Hash()
	m.close(t)
	m = openMember(t, filepath.Join(dir, "new"), keys)
	defer m.close(t)
	if err := m.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info, err := m.Import(t.Context(), old, stamp); err != nil || info != (ImportInfo{}) || m.State().Hash() != want {
		t.Fatalf("a second start: %+v, %v", info, err)
	}
}

// An import that was cut short anywhere is finished by the next one.
func TestImportCutShort(t *testing.T) {
	dir, keys := t.TempDir(), pki.NewKeyring()
	old := copyJournal(t, dir)
	m := openMember(t, filepath.Join(dir, "new"), keys)
	defer m.close(t)
	part := func(i, n uint32) *catalogpb.Command {
		return &catalogpb.Command{Version: 1, Kind: &catalogpb.Command_Import{Import: &catalogpb.Import{Part: i, Parts: n, Chunk: []byte("junk")}}}
	}
	m.do(t, part(0, 9), part(1, 9), part(2, 9))
	if back, err := Unmarshal(must(m.State().Marshal())); err != nil || back.Hash() != m.State().Hash() {
		t.Fatalf("a state in the middle of an import: %v", err)
	}
	if _, err := m.Do(&catalogpb.Command{Version: 1}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "no kind") {
		t.Fatal(err)
	}
	if _, err := m.Do(part(4, 9)); !errors.Is(err, ErrConflict) {
		t.Fatal(err)
	}
	if _, err := m.Do(part(3, 4)); !errors.Is(err, ErrInvalid) { // the last one: junk
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Import(ctx, old, stamp); err == nil {
		t.Fatal("done without time")
	}
	was, _, err := readJournal(old)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.takeOver(t.Context(), old, was, stamp); err != nil { // and the power fails before the rename
		t.Fatal(err)
	}
	rev := m.State().Revision
	if info, err := m.Import(t.Context(), old, stamp); err != nil || info.Kept == "" || m.State().Revision != rev {
		t.Fatalf("%+v, %v, revision %d and then %d", info, err, rev, m.State().Revision)
	}
	if _, err := m.Do(part(0, 1)); !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
	// A catalog of another cluster is not taken for this one's.
	other := filepath.Join(dir, "x", "catalog")
	foreign := initCmd()
	foreign.GetInit().ClusterId = testID(5)
	log, _, _ := journalOf(t, &State{}, foreign)
	if err := os.MkdirAll(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "log"), log, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Import(t.Context(), other, stamp); err == nil || !strings.Contains(err.Error(), "is of cluster") {
		t.Fatal(err)
	}
}

// Every kind of command has a version, so that adding one is a decision about the gate.
func TestEveryKindHasAVersion(t *testing.T) {
	kinds := (&catalogpb.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range kinds.Len() {
		if v := kindVersions[kinds.Get(i).Name()]; v == 0 || v > CommandVersion {
			t.Errorf("kind %s has version %d, and the newest is %d", kinds.Get(i).Name(), v, CommandVersion)
		}
	}
	if len(kindVersions) != kinds.Len() {
		t.Errorf("%d versions for %d kinds", len(kindVersions), kinds.Len())
	}
}

// A command with a field that this binary doesn't know, wherever it is, does
// not enter the log.
func TestUnknownFieldsAreRefused(t *testing.T) {
	known := secretCmds()[0]
	known.GetCreateHost().Chap = &catalogpb.Chap{User: "u", Sealed: bytes.Repeat([]byte{1}, 50)}
	if err := NewFSM().Check(1, must(proto.Marshal(known))); err != nil {
		t.Fatal(err)
	}
	newer := proto.CloneOf(known)
	newer.GetCreateHost().GetChap().ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 1}) // field 127
	if err := NewFSM().Check(1, must(proto.Marshal(newer))); err == nil || !strings.Contains(err.Error(), "Chap has a field") {
		t.Fatal(err)
	}
	if err := NewFSM().Check(2, must(proto.Marshal(known))); err == nil {
		t.Fatal("a version that does not match its entry")
	}
}

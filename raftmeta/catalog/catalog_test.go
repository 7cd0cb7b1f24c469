package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/pki"
)

func testID(n uint32) []byte {
	b := make([]byte, 16)
	b[0], b[1], b[2], b[3], b[15] = 1, byte(n>>16), byte(n>>8), byte(n), 1
	return b
}

var stamp int64 = 1_800_000_000_000_000_000

func initCmd() *catalogpb.Command {
	return &catalogpb.Command{Version: 1, TimeUnixNano: stamp, Actor: "test", Kind: &catalogpb.Command_Init{
		Init: &catalogpb.Init{ClusterId: testID(99999), Iqn: "iqn.2026-01.dev.blockd:t", Nqn: "nqn.2014-08.org.nvmexpress:uuid:x"}}}
}

func poolCmd(id uint32, name string) *catalogpb.Command {
	return &catalogpb.Command{Version: 1, TimeUnixNano: stamp, Kind: &catalogpb.Command_CreatePool{
		CreatePool: &catalogpb.CreatePool{Id: testID(id), Name: name, Replicas: 1, Media: "disk"}}}
}

func volumeCmd(id uint32, name string) *catalogpb.Command {
	return &catalogpb.Command{Version: 1, TimeUnixNano: stamp, Kind: &catalogpb.Command_CreateVolume{
		CreateVolume: &catalogpb.CreateVolume{Id: testID(id), Name: name, SizeBytes: 1 << 30, BlockSize: 512, Pool: "default"}}}
}

func hostCmd(id uint32, name string) *catalogpb.Command {
	return &catalogpb.Command{Version: 1, TimeUnixNano: stamp, Kind: &catalogpb.Command_CreateHost{
		CreateHost: &catalogpb.CreateHost{Id: testID(id), Name: name, Iqn: "iqn.1993-08.org.debian:" + strings.ToLower(name)}}}
}

func mapCmd(volume, host string, lun *uint32) *catalogpb.Command {
	return &catalogpb.Command{Version: 1, TimeUnixNano: stamp, Kind: &catalogpb.Command_MapVolume{
		MapVolume: &catalogpb.MapVolume{Volume: volume, Host: host, Lun: lun}}}
}

func unmapCmd(volume, host string) *catalogpb.Command {
	return &catalogpb.Command{Version: 1, TimeUnixNano: stamp, Kind: &catalogpb.Command_UnmapVolume{
		UnmapVolume: &catalogpb.UnmapVolume{Volume: volume, Host: host}}}
}

func retireCmd(name string) *catalogpb.Command {
	return &catalogpb.Command{Version: 1, TimeUnixNano: stamp, Kind: &catalogpb.Command_RetireVolume{
		RetireVolume: &catalogpb.RetireVolume{Name: name}}}
}

func resizeCmd(name string, size int64) *catalogpb.Command {
	return &catalogpb.Command{Version: 1, TimeUnixNano: stamp, Kind: &catalogpb.Command_ResizeVolume{
		ResizeVolume: &catalogpb.ResizeVolume{Name: name, SizeBytes: size}}}
}

func updateHostCmd(u *catalogpb.UpdateHost) *catalogpb.Command {
	return &catalogpb.Command{Version: 1, TimeUnixNano: stamp, Kind: &catalogpb.Command_UpdateHost{UpdateHost: u}}
}

func protectCmd(name string, p Protection, powerCycle bool) *catalogpb.Command {
	return &catalogpb.Command{Version: 1, TimeUnixNano: stamp, Kind: &catalogpb.Command_ProtectVolume{
		ProtectVolume: &catalogpb.ProtectVolume{Name: name, Protection: string(p), PowerCycle: powerCycle}}}
}

func mustApply(t testing.TB, s *State, cmds ...*catalogpb.Command) *State {
	t.Helper()
	for _, c := range cmds {
		next, _, err := s.Apply(c)
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		s = next
	}
	return s
}

func base(t testing.TB) *State {
	return mustApply(t, &State{}, initCmd(), poolCmd(1, "default"))
}

func TestVolumesTakeTheLowestFreeLUN(t *testing.T) {
	s := mustApply(t, base(t), volumeCmd(10, "b"), volumeCmd(11, "a"), volumeCmd(12, "c"), retireCmd("a"))
	if s.Volume("b").LUN != 0 || s.Volume("a").LUN != 1 || s.Volume("c").LUN != 2 || s.Volume("c").NSID() != 3 {
		t.Fatalf("%+v", s.Volumes)
	}
	if !s.Volume("a").Retired {
		t.Fatal("a is not retired")
	}
	remove := &catalogpb.Command{Version: 1, Kind: &catalogpb.Command_RemoveVolume{RemoveVolume: &catalogpb.RemoveVolume{Id: testID(11)}}}
	s = mustApply(t, s, remove, volumeCmd(13, "d"))
	if s.Volume("a") != nil || s.Volume("d").LUN != 1 {
		t.Fatalf("%+v", s.Volumes)
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	s := mustApply(t, base(t), volumeCmd(10, "a"), volumeCmd(11, "b"), volumeCmd(12, "gone"), retireCmd("gone"),
		hostCmd(20, "h"), mapCmd("a", "any", nil), mapCmd("b", "h", proto.Uint32(7)))
	with := func(c *catalogpb.Command, f func(*catalogpb.Command)) *catalogpb.Command { f(c); return c }
	for name, tc := range map[string]struct {
		cmd  *catalogpb.Command
		kind error
		text string
	}{
		"no kind":           {&catalogpb.Command{Version: 1}, ErrInvalid, "unknown kind"},
		"newer":             {&catalogpb.Command{Version: CommandVersion + 1}, ErrInvalid, "upgrade"},
		"init twice":        {initCmd(), ErrExists, "already"},
		"pool twice":        {poolCmd(50, "default"), ErrExists, "another name"},
		"pool replicas":     {with(poolCmd(50, "p"), func(c *catalogpb.Command) { c.GetCreatePool().Replicas = 3 }), ErrInvalid, "--replicas 1"},
		"pool media":        {with(poolCmd(50, "p"), func(c *catalogpb.Command) { c.GetCreatePool().Media = "tape" }), ErrInvalid, "disk or ram"},
		"volume twice":      {volumeCmd(50, "a"), ErrExists, "another name"},
		"volume id twice":   {volumeCmd(10, "x"), ErrConflict, "in use"},
		"volume no id":      {with(volumeCmd(10, "x"), func(c *catalogpb.Command) { c.GetCreateVolume().Id = nil }), ErrInvalid, "16"},
		"volume name":       {volumeCmd(50, "../x"), ErrInvalid, "letters"},
		"volume being gone": {volumeCmd(50, "gone"), ErrConflict, "being deleted"},
		"volume block size": {with(volumeCmd(50, "x"), func(c *catalogpb.Command) { c.GetCreateVolume().BlockSize = 1024 }), ErrInvalid, "512 or 4096"},
		"volume odd size":   {with(volumeCmd(50, "x"), func(c *catalogpb.Command) { c.GetCreateVolume().SizeBytes = 1<<30 + 512 }), ErrInvalid, "multiple of 4096"},
		"volume pool":       {with(volumeCmd(50, "x"), func(c *catalogpb.Command) { c.GetCreateVolume().Pool = "x" }), ErrNotFound, "pool list"},
		"shrink":            {resizeCmd("a", 1<<29), ErrInvalid, "do not shrink"},
		"resize nothing":    {resizeCmd("x", 1<<30), ErrNotFound, "volume list"},
		"host any":          {hostCmd(50, "any"), ErrInvalid, "every host"},
		"host twice":        {hostCmd(50, "h"), ErrExists, "host set"},
		"host same iqn":     {with(hostCmd(50, "x"), func(c *catalogpb.Command) { c.GetCreateHost().Iqn = "IQN.1993-08.org.debian:H" }), ErrConflict, "own"},
		"host bad iqn":      {with(hostCmd(50, "x"), func(c *catalogpb.Command) { c.GetCreateHost().Iqn = "debian" }), ErrInvalid, "initiatorname.iscsi"},
		"host bad nqn":      {with(hostCmd(50, "x"), func(c *catalogpb.Command) { c.GetCreateHost().Nqn = "debian" }), ErrInvalid, "hostnqn"},
		"host no name":      {with(hostCmd(50, "x"), func(c *catalogpb.Command) { c.GetCreateHost().Iqn = "" }), ErrInvalid, "--iqn"},
		"short secret":      {updateHostCmd(&catalogpb.UpdateHost{Name: "h", Chap: &catalogpb.Chap{User: "u", Secret: "short"}}), ErrInvalid, "12 to 255"},
		"mutual alone":      {updateHostCmd(&catalogpb.UpdateHost{Name: "h", MutualChap: &catalogpb.Chap{User: "u", Secret: "123456789012"}}), ErrInvalid, "needs CHAP"},
		"same secrets": {updateHostCmd(&catalogpb.UpdateHost{Name: "h", Chap: &catalogpb.Chap{User: "u", Secret: "123456789012"},
			MutualChap: &catalogpb.Chap{User: "t", Secret: "123456789012"}}), ErrInvalid, "must differ"},
		"map twice":       {mapCmd("b", "h", nil), ErrExists, "unmap"},
		"map no host":     {mapCmd("a", "x", nil), ErrNotFound, "host add"},
		"map no volume":   {mapCmd("x", "h", nil), ErrNotFound, "volume list"},
		"map high lun":    {mapCmd("a", "h", proto.Uint32(16384)), ErrInvalid, "16383"},
		"map taken lun":   {mapCmd("a", "h", proto.Uint32(7)), ErrConflict, "--lun"},
		"map any taken":   {mapCmd("b", "any", proto.Uint32(0)), ErrConflict, "--lun"},
		"unmap not there": {unmapCmd("a", "h"), ErrNotFound, "not mapped"},
		"long request id": {with(mapCmd("a", "h", nil), func(c *catalogpb.Command) { c.RequestId = strings.Repeat("x", 129) }), ErrInvalid, "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			next, _, err := s.Apply(tc.cmd)
			var e *Error
			if next != nil || !errors.As(err, &e) || !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.text) {
				t.Fatalf("got %v, want %v with %q", err, tc.kind, tc.text)
			}
		})
	}
}

// TestProtection: what may follow what (NVMe Base 2.0 §8.12), and that it is in
// the snapshot.
func TestProtection(t *testing.T) {
	all := []Protection{Unprotected, Protected, UntilPowerCycle, Permanent}
	for _, from := range all {
		for _, to := range all {
			for _, powerCycle := range []bool{false, true} {
				s := mustApply(t, base(t), volumeCmd(10, "a"), protectCmd("a", from, false))
				want := from == to || from == Unprotected || from == Protected || from == UntilPowerCycle && powerCycle
				next, res, err := s.Apply(protectCmd("a", to, powerCycle))
				if want != (err == nil) || !want && !errors.Is(err, ErrConflict) {
					t.Fatalf("%q to %q, power cycle %v: %v", from, to, powerCycle, err)
				}
				if !want {
					continue
				}
				b, err := next.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				back, err := Unmarshal(b)
				if err != nil || back.Volume("a").Protection != to || res.Audit.Action != "volume.protect" {
					t.Fatalf("%q to %q: %+v, %v, %+v", from, to, back, err, res.Audit)
				}
			}
		}
	}
	for _, c := range []*catalogpb.Command{protectCmd("a", "loose", false), protectCmd("b", Protected, false)} {
		if _, _, err := mustApply(t, base(t), volumeCmd(10, "a")).Apply(c); err == nil {
			t.Errorf("%v is taken", c)
		}
	}
}

func TestViews(t *testing.T) {
	s := mustApply(t, base(t), volumeCmd(10, "a"), volumeCmd(11, "b"), hostCmd(20, "h"), hostCmd(21, "other"),
		mapCmd("a", "any", nil), mapCmd("a", "h", nil), mapCmd("b", "h", proto.Uint32(5)))
	a, b := s.Volume("a").ID, s.Volume("b").ID
	if v := s.View(s.Host("h").ID); len(v) != 2 || v[0] != a || v[5] != b {
		t.Errorf("h sees %v", v)
	}
	if v := s.View(s.Host("other").ID); len(v) != 1 || v[0] != a {
		t.Errorf("other sees %v", v)
	}
	if v := s.View(ID{}); len(v) != 1 || v[0] != a {
		t.Errorf("strangers see %v", v)
	}
	s = mustApply(t, s, unmapCmd("a", "h"))
	if v := s.View(s.Host("h").ID); len(v) != 2 {
		t.Errorf("h sees %v", v)
	}
	s = mustApply(t, s, &catalogpb.Command{Version: 1, Kind: &catalogpb.Command_DeleteHost{DeleteHost: &catalogpb.DeleteHost{Name: "h"}}})
	if len(s.Mappings) != 1 {
		t.Errorf("mappings of a deleted host stay: %v", s.Mappings)
	}
}

func TestRequestIDsMakeRepeatsHarmless(t *testing.T) {
	s := base(t)
	first := volumeCmd(10, "a")
	first.RequestId = "r1"
	s, res, err := s.Apply(first)
	if err != nil || res.Replayed {
		t.Fatal(res, err)
	}
	again := volumeCmd(11, "a") // another id, as a retrying client's server would choose
	again.RequestId, again.TimeUnixNano, again.Actor = "r1", stamp+1, "elsewhere"
	s2, res2, err := s.Apply(again)
	if err != nil || !res2.Replayed || res2.ID != res.ID || res2.Revision != res.Revision || s2 != s {
		t.Fatal(res2, err)
	}
	other := volumeCmd(12, "b")
	other.RequestId = "r1"
	if _, _, err := s.Apply(other); !errors.Is(err, ErrConflict) {
		t.Fatal(err)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	h := Host{Chap: Chap{User: "u", Secret: "topsecret-topsecret"}}
	for _, f := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(f, h); strings.Contains(s, "topsecret") {
			t.Errorf("%s prints %s", f, s)
		}
	}
	s := mustApply(t, base(t), hostCmd(20, "h"),
		updateHostCmd(&catalogpb.UpdateHost{Name: "h", Chap: &catalogpb.Chap{User: "u", Secret: "topsecret-topsecret"}}))
	if strings.Contains(fmt.Sprint(s.Audits), "topsecret") {
		t.Error("the audit log holds a secret")
	}
}

// genCommand draws commands that collide often.
func genCommand(t *rapid.T) *catalogpb.Command {
	name := rapid.SampledFrom([]string{"a", "b", "c"})
	host := rapid.SampledFrom([]string{"h", "i", "any"})
	id := rapid.Uint32Range(1, 1<<20)
	var c *catalogpb.Command
	switch rapid.IntRange(0, 11).Draw(t, "kind") {
	case 0, 1:
		c = volumeCmd(id.Draw(t, "id"), name.Draw(t, "name"))
	case 2:
		c = hostCmd(id.Draw(t, "id"), host.Draw(t, "host"))
	case 3, 4:
		c = mapCmd(name.Draw(t, "name"), host.Draw(t, "host"), rapid.Ptr(rapid.Uint32Range(0, 2), true).Draw(t, "lun"))
	case 5:
		c = unmapCmd(name.Draw(t, "name"), host.Draw(t, "host"))
	case 6:
		c = retireCmd(name.Draw(t, "name"))
	case 7:
		c = resizeCmd(name.Draw(t, "name"), rapid.Int64Range(1<<17, 1<<20).Draw(t, "size")*4096)
	case 11:
		c = protectCmd(name.Draw(t, "name"), rapid.SampledFrom([]Protection{Unprotected, Protected, UntilPowerCycle, Permanent}).Draw(t, "protection"), rapid.Bool().Draw(t, "cycle"))
	case 8:
		c = &catalogpb.Command{Version: 1, Kind: &catalogpb.Command_DeleteHost{DeleteHost: &catalogpb.DeleteHost{Name: host.Draw(t, "host")}}}
	case 9:
		c = &catalogpb.Command{Version: 1, Kind: &catalogpb.Command_RemoveVolume{RemoveVolume: &catalogpb.RemoveVolume{Id: testID(id.Draw(t, "id"))}}}
	}
	if c == nil {
		c = &catalogpb.Command{Version: 1, Kind: &catalogpb.Command_RegisterDisk{RegisterDisk: &catalogpb.RegisterDisk{Id: testID(id.Draw(t, "id")), Path: "/d"}}}
	}
	c.RequestId = rapid.SampledFrom([]string{"", "", "", "x", "y"}).Draw(t, "request")
	c.TimeUnixNano = rapid.Int64Range(0, stamp).Draw(t, "time")
	return c
}

func TestFoldIsDeterministicAndKeepsInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := mustApplyRapid(t, &State{}, initCmd(), poolCmd(1<<21, "default"))
		twin, err := Unmarshal(must(s.Marshal()))
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 60).Draw(t, "n") {
			cmd := genCommand(t)
			before := must(s.Marshal())
			next, res, err := s.Apply(cmd)
			if !bytes.Equal(before, must(s.Marshal())) {
				t.Fatal("Apply changed its receiver")
			}
			next2, res2, err2 := twin.Apply(proto.CloneOf(cmd))
			if (err == nil) != (err2 == nil) || res != res2 {
				t.Fatalf("twin differs: %v %v, %v %v", res, err, res2, err2)
			}
			if err != nil {
				continue
			}
			if n := next.Check(); n != 0 {
				t.Fatalf("%v breaks invariant %d", cmd, n)
			}
			s = next
			// The twin goes through its encoding each time.
			if twin, err = Unmarshal(must(next2.Marshal())); err != nil {
				t.Fatal(err)
			}
			if s.Hash() != twin.Hash() {
				t.Fatal("states differ")
			}
		}
	})
}

func mustApplyRapid(t *rapid.T, s *State, cmds ...*catalogpb.Command) *State {
	for _, c := range cmds {
		next, _, err := s.Apply(c)
		if err != nil {
			t.Fatal(err)
		}
		s = next
	}
	return s
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestWaitSeesChanges(t *testing.T) {
	c := openMember(t, t.TempDir(), pki.NewKeyring())
	defer c.close(t)
	got := make(chan *State)
	go func() { got <- must(c.Wait(t.Context(), 0)) }()
	if _, err := c.Do(initCmd()); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s.Revision != 1 {
		t.Fatal(s.Revision)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := c.Wait(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

// FuzzApply feeds the state machine what may come from the log. Whatever it
// is, the answer fits, the state keeps its invariants and survives its encoding, and a twin agrees.
func FuzzApply(f *testing.F) {
	sealed := bytes.Repeat([]byte{1}, 40)
	host := hostCmd(7, "h")
	host.GetCreateHost().Chap = &catalogpb.Chap{User: "u", Sealed: sealed}
	for _, cmd := range []*catalogpb.Command{initCmd(), poolCmd(5, "p"), volumeCmd(6, "v"), host,
		mapCmd("a", "h", proto.Uint32(3)), unmapCmd("a", "any"), retireCmd("a"), resizeCmd("a", 1<<31), protectCmd("a", Protected, false),
		putNodeCmd(nodeMsg(101, "n1")), admitCmd(1, 9, nodeMsg(109, "n9")), tokenCmd(0, 5, 9), labelCmd("n1", "rack", "r"), nodeStateCmd("n3", "held"),
		removeNodeCmd("n3", true), diskCmd(201, 101), diskStateCmd(203, "drained"), removeDiskCmd(203, true), grantCmd(10, 101, 1, 0),
		releaseCmd(11, 102, 1, 1), moveCmd("b", "n2"), reserveCmd(10, 0, "x"), jobCmd(0, 302, "drain", "n1"), progressCmd(301, 2, "c"),
		jobStateCmd(301, "paused"), authorityCmd(sealed, 0), spreadPoolCmd(5, "p", 2, 1), spreadVolumeCmd(6, "x", "three", 1<<30),
		allocateCmd(61, 0, 1, 2, 3), markCmd(60, 1, 2, 0, toOut), portalsCmd(101, &catalogpb.Portals{Data: []string{"a:1"}})} {
		f.Add(must(proto.Marshal(cmd)))
	}
	start := mustApply(f, three(f), spreadVolumeCmd(61, "w", "three", 1<<28), hostCmd(20, "g"), mapCmd("a", "any", nil), tokenCmd(0, 9, 3600), grantCmd(11, 102, 1, 0), jobCmd(0, 301, "drain", "n3"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, s := range []*State{start, {}} {
			one, two := NewFSM(), NewFSM()
			one.state.Store(s)
			two.state.Store(s)
			cmd := &catalogpb.Command{}
			_ = proto.Unmarshal(b, cmd) // what is none is refused below
			_ = one.Check(cmd.GetVersion(), b)
			out := one.Apply(1, 1, cmd.GetVersion(), b)
			if twin := two.Apply(1, 1, cmd.GetVersion(), bytes.Clone(b)); !bytes.Equal(out, twin) || len(out) > group.ResultMax {
				t.Fatalf("%x and %x", out, twin)
			}
			if n := one.State().Check(); n != 0 {
				t.Fatalf("invariant %d", n)
			}
			back, err := ReadState(pipe(t, one.State()))
			if err != nil || back.Hash() != one.State().Hash() || back.Hash() != two.State().Hash() {
				t.Fatal(err)
			}
			if _, err := decodeOutcome(out); err != nil && one.State().Revision > s.Revision+1 {
				t.Fatal(err)
			}
		}
	})
}

// FuzzReadState: bytes are refused, or are a state that keeps its invariants.
// Run it with -fuzzminimizetime 1x: see FuzzRead of extmap.
func FuzzReadState(f *testing.F) {
	for _, s := range []*State{{}, base(f), three(f), mustApply(f, cluster(f), grantCmd(10, 101, 1, 0), reserveCmd(10, 0, "r"), jobCmd(0, 301, "drain", "n3"))} {
		f.Add(must(s.Marshal()))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// As a stream, and as what is in one, since a checksum is hard to guess.
		_, _ = ReadState(bytes.NewReader(b))
		s, err := Unmarshal(b)
		if err != nil {
			return
		}
		if n := s.Check(); n != 0 {
			t.Fatalf("invariant %d", n)
		}
		back, err := ReadState(pipe(t, s))
		if err != nil || back.Hash() != s.Hash() {
			t.Fatal(err)
		}
		_, _, _ = s.Apply(volumeCmd(6, "v"))
		_, _, _ = s.Apply(removeNodeCmd("n1", true))
	})
}

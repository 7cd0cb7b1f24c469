package catalog

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

func limitsCmd(c *catalogpb.SetVolumeLimits) *catalogpb.Command {
	return &catalogpb.Command{Version: CommandVersion, Actor: "t", Kind: &catalogpb.Command_SetVolumeLimits{SetVolumeLimits: c}}
}

func limitedVolumeCmd(id uint32, name string, l Limits) *catalogpb.Command {
	c := volumeCmd(id, name)
	c.Version = CommandVersion
	c.GetCreateVolume().Limits = limitsTo(l)
	return c
}

// A command names what it changes, and leaves the rest; what it comes to is in the
// audit log and in a snapshot.
func TestLimitsOfAVolume(t *testing.T) {
	s := mustApply(t, base(t), limitedVolumeCmd(70, "fast", Limits{IOPS: 500}), volumeCmd(71, "free"))
	if got := s.Volume("fast").Limits; got != (Limits{IOPS: 500}) {
		t.Errorf("created with %+v", got)
	}
	steps := []struct {
		c      *catalogpb.SetVolumeLimits
		want   Limits
		detail string
	}{
		{&catalogpb.SetVolumeLimits{BytesPerSecond: proto.Uint64(5 << 20)}, Limits{500, 5 << 20, 0}, "iops 500 to iops 500, bytes/s 5242880"},
		{&catalogpb.SetVolumeLimits{BurstSeconds: proto.Uint32(9)}, Limits{500, 5 << 20, 9}, "burst 9 s"},
		{&catalogpb.SetVolumeLimits{Iops: proto.Uint64(0)}, Limits{0, 5 << 20, 9}, "to bytes/s 5242880, burst 9 s"},
		{&catalogpb.SetVolumeLimits{BytesPerSecond: proto.Uint64(0)}, Limits{}, "bytes/s 5242880, burst 9 s to none"},
	}
	for _, st := range steps {
		st.c.Name = "fast"
		s = mustApply(t, s, limitsCmd(st.c))
		last := s.Audits[len(s.Audits)-1]
		if got := s.Volume("fast").Limits; got != st.want || last.Action != "volume.limit" || last.Subject != "fast" || !strings.Contains(last.Detail, st.detail) {
			t.Errorf("%v: %+v, audit %+v", st.c, got, last)
		}
		var b bytes.Buffer
		if _, err := s.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		back, err := ReadState(&b)
		if err != nil || back.Hash() != s.Hash() || back.Volume("fast").Limits != st.want {
			t.Errorf("%v: by a snapshot: %v", st.c, err)
		}
	}
	if !s.Volume("free").Limits.IsZero() {
		t.Error("another volume has limits")
	}
}

func TestLimitsThatAreRefused(t *testing.T) {
	s := mustApply(t, base(t), volumeCmd(70, "v"))
	for text, c := range map[string]*catalogpb.SetVolumeLimits{
		"operations a second":                 {Name: "v", Iops: proto.Uint64(9)},
		"want 10 to 1000000":                  {Name: "v", Iops: proto.Uint64(1 << 40)},
		"want 1MiB to 1TiB":                   {Name: "v", BytesPerSecond: proto.Uint64(1<<20 - 1)},
		"want at most 3600":                   {Name: "v", Iops: proto.Uint64(10), BurstSeconds: proto.Uint32(3601)},
		"give --iops":                         {Name: "v", BurstSeconds: proto.Uint32(1)},
		"nothing to set":                      {Name: "v"},
		"a limit of 144115188075855872 bytes": {Name: "v", Iops: proto.Uint64(10), BytesPerSecond: proto.Uint64(1 << 57)},
	} {
		refusedWith(t, s, limitsCmd(c), ErrInvalid, text)
	}
	refusedWith(t, s, limitsCmd(&catalogpb.SetVolumeLimits{Name: "w", Iops: proto.Uint64(10)}), ErrNotFound, "no volume")
	refusedWith(t, s, limitedVolumeCmd(71, "w", Limits{IOPS: 1}), ErrInvalid, "operations a second")
	s = mustApply(t, s, retireCmd("v"))
	refusedWith(t, s, limitsCmd(&catalogpb.SetVolumeLimits{Name: "v", Iops: proto.Uint64(10)}), ErrConflict, "being deleted")
}

// Members of version 2 must not be sent what they don't understand, and go on taking
// volumes without limits.
func TestLimitsAreOfVersionThree(t *testing.T) {
	for want, c := range map[uint32]*catalogpb.Command{
		1: volumeCmd(70, "v"), 3: limitedVolumeCmd(70, "v", Limits{IOPS: 10}),
	} {
		if got := versionOf(c); got != want {
			t.Errorf("%v is of version %d, not %d", c, got, want)
		}
	}
	if got := versionOf(limitsCmd(&catalogpb.SetVolumeLimits{})); got != 3 {
		t.Errorf("set_volume_limits is of version %d", got)
	}
	if got := versionOf(noteCmd("a.b", "", "", "")); got != 3 {
		t.Errorf("note is of version %d", got)
	}
}

func noteCmd(action, subject, detail, refused string) *catalogpb.Command {
	return &catalogpb.Command{Version: CommandVersion, Actor: "who", Source: "where", Kind: &catalogpb.Command_Note{
		Note: &catalogpb.Note{Action: action, Subject: subject, Detail: detail, Refused: refused}}}
}

// A note is in the audit log as a change is, with its result, and changes nothing else.
func TestNotes(t *testing.T) {
	s := base(t)
	before := *s
	s = mustApply(t, s, noteCmd("certificate.issue", "ann", "role admin", ""), noteCmd("cluster.transfer", "n1", "", "it is down"))
	if n := len(s.Audits); n != len(before.Audits)+2 {
		t.Fatalf("%d entries", n)
	}
	first, second := s.Audits[len(s.Audits)-2], s.Audits[len(s.Audits)-1]
	if first.Actor != "who" || first.Source != "where" || first.Action != "certificate.issue" || first.Subject != "ann" || first.Detail != "role admin" || first.Refused != "" {
		t.Errorf("%+v", first)
	}
	if second.Refused != "it is down" || second.Revision != first.Revision+1 {
		t.Errorf("%+v", second)
	}
	if len(s.Volumes) != len(before.Volumes) || len(s.Nodes) != len(before.Nodes) || s.Check() != 0 {
		t.Errorf("it changed something: %v", s)
	}
	refusedWith(t, s, noteCmd("Root; rm", "", "", ""), ErrInvalid, "a note of the action")
}

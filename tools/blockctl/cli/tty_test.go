package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// terminal makes a pseudo terminal of 80 by 24, and returns the person's end and
// the program's end.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(person.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close(); person.Close() })
	return person, program
}

// onTerminal runs blockctl there, and returns a channel with how it ended.
func onTerminal(program *os.File, args ...string) <-chan error {
	done := make(chan error, 1)
	c := New()
	c.SetArgs(args)
	c.SetIn(program)
	c.SetOut(program)
	c.SetErr(program)
	go func() { done <- c.Execute() }()
	return done
}

// readUntil reads what the program shows until want is in it.
func readUntil(t *testing.T, person *os.File, want string) string {
	t.Helper()
	var got bytes.Buffer
	b := make([]byte, 4096)
	for !strings.Contains(got.String(), want) {
		n, err := person.Read(b)
		if err != nil {
			t.Fatalf("%v; shown: %q, want %q", err, got.String(), want)
		}
		got.Write(b[:n])
	}
	return got.String()
}

// TestConfirmOnTerminal asks before it destroys, and takes only yes for yes.
func TestConfirmOnTerminal(t *testing.T) {
	alone(t)
	f := &fake{}
	address := f.start(t, listen(t))
	for _, c := range []struct {
		answer string
		asked  int
		exit   int
	}{{"yes", 1, exitDone}, {"y", 0, exitRefused}, {"", 0, exitRefused}} {
		person, program := terminal(t)
		f.asked = nil
		done := onTerminal(program, "volume", "delete", "db1", "--api", address)
		readUntil(t, person, `deleting volume "db1" destroys its data. Type yes to go on: `)
		if _, err := person.WriteString(c.answer + "\n"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; ExitCode(err) != c.exit || len(f.asked) != c.asked {
			t.Errorf("answer %q: %v, asked %d times", c.answer, err, len(f.asked))
		}
	}
}

// TestTableFitsTerminal takes the width from the terminal.
func TestTableFitsTerminal(t *testing.T) {
	alone(t)
	address := (&fake{}).start(t, listen(t))
	person, program := terminal(t)
	done := onTerminal(program, "volume", "list", "--api", address)
	shown := readUntil(t, person, "archive")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(shown, "\r\n") {
		if n := len([]rune(line)); n > 80 {
			t.Errorf("%d characters: %s", n, line)
		}
	}
}

// TestTopOnTerminal shows two pictures that fit 80 by 24, ends by q, and leaves
// the terminal as it was.
func TestTopOnTerminal(t *testing.T) {
	alone(t)
	f := &fake{}
	address := f.start(t, listen(t))
	person, program := terminal(t)
	before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	done := onTerminal(program, "top", "--interval", "100ms", "--api", address)
	shown := readUntil(t, person, "WRITE ms")
	shown += readUntil(t, person, "q quits")
	if _, err := person.WriteString("xq"); err != nil {
		t.Fatal(err)
	}
	rest := readUntil(t, person, screenClose)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(shown, screenOpen) || !strings.Contains(shown, "cluster prod is degraded") || !strings.Contains(shown, "db1") || !strings.HasSuffix(rest, screenClose) {
		t.Errorf("shown: %q", shown)
	}
	for _, picture := range strings.Split(shown, screenHome)[1:] {
		lines := strings.Split(picture, lineEnd)
		if len(lines) > 24 {
			t.Errorf("%d lines", len(lines))
		}
		for _, line := range lines[:len(lines)-1] {
			if n := len([]rune(line)); n > 80 {
				t.Errorf("%d characters: %q", n, line)
			}
		}
	}
	after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal was %+v and is %+v (%v)", before, after, err)
	}
}

// TestTopPicture shows a cluster that is larger than the terminal.
func TestTopPicture(t *testing.T) {
	v := topView{Cluster: "prod", State: "healthy", Leader: "n1", Members: 40, Time: when}
	for i := range 40 {
		v.Nodes = append(v.Nodes, topNodeView{Name: fmt.Sprintf("a-node-with-a-rather-long-name-%d", i), State: "up", rateView: rateView{ReadIOPS: 1e6, ReadBytes: 1 << 33, WriteMillis: 1234}})
		v.Volumes = append(v.Volumes, topVolumeView{Name: fmt.Sprintf("a-volume-with-a-rather-long-name-%d", i)})
	}
	lines := topLines(v, 80, 24)
	if len(lines) > 23 {
		t.Errorf("%d lines, and one for the keys", len(lines))
	}
	text := ""
	for _, l := range lines {
		if n := len([]rune(l[0])); n > 80 {
			t.Errorf("%d characters: %s", n, l[0])
		}
		text += l[0] + "\n"
	}
	if !strings.Contains(text, "nodes") || !strings.Contains(text, "volumes") || !strings.Contains(text, "and ") {
		t.Errorf("does not say what is missing:\n%s", text)
	}
}

// TestTopOnce looks twice, and says what was done per second between.
func TestTopOnce(t *testing.T) {
	alone(t)
	address := (&fake{}).start(t, listen(t))
	out, _, err := ctl("", "top", "--once", "--interval", "100ms", "-o", "json", "--api", address)
	if err != nil {
		t.Fatal(err)
	}
	var v topView
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Volumes) != 1 || v.Members != 2 || v.Nodes[0].Sessions != 3 {
		t.Fatalf("%+v", v)
	}
	// Between two scrapes the fake does 100 reads of 2 ms each and one write.
	if d := v.Volumes[0]; d.Name != "db1" || math.Abs(d.ReadIOPS*v.Seconds-100) > 1e-6 || math.Abs(d.WriteIOPS*v.Seconds-1) > 1e-6 ||
		math.Abs(d.ReadBytes*v.Seconds-409600) > 1e-3 || math.Abs(d.ReadMillis-2) > 1e-6 || d.WriteMillis != 0 {
		t.Errorf("%+v in %v s", d, v.Seconds)
	}
	if out, _, err = ctl("", "top", "--once", "--interval", "100ms", "--api", address); err != nil || !strings.Contains(out, "READ B/s") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestCompare checks rates against what the fake nodes have done.
func TestCompare(t *testing.T) {
	c := func(reads, secs float64) volumeCounts {
		return volumeCounts{read: counts{ops: reads, bytes: reads * 4096, timed: reads / 10, seconds: secs}}
	}
	at := func(s int, n1, n2 volumeCounts, err error) look {
		return look{time: time.Unix(int64(s), 0), nodes: []nodeLook{
			{memberView{Name: "n1"}, nodeCounts{volumes: map[string]volumeCounts{"a": n1}}, nil},
			{memberView{Name: "n2"}, nodeCounts{volumes: map[string]volumeCounts{"a": n2, "b": {}}}, err}}}
	}
	v := compare(at(0, c(100, 1), c(500, 2), nil), at(10, c(300, 1.04), c(50, 0.02), nil))
	// n1: 200 reads in 10 s, 2 ms each; n2 was started anew and has done 50, 4 ms each.
	if len(v.Volumes) != 2 || v.Volumes[0].Name != "a" || v.Volumes[0].ReadIOPS != 25 || v.Volumes[0].ReadBytes != 25*4096 {
		t.Fatalf("%+v", v.Volumes)
	}
	if ms := v.Volumes[0].ReadMillis; ms < 2.39 || ms > 2.41 {
		t.Errorf("%v ms, want (20*2+5*4)/25", ms)
	}
	v = compare(at(0, c(100, 1), c(500, 2), nil), at(10, c(300, 1.04), c(50, 0.02), errors.New("away")))
	if v.Volumes[0].ReadIOPS != 20 || v.Nodes[1].Error != "away" {
		t.Errorf("with a node away: %+v", v)
	}
	if v = compare(at(0, c(1, 1), c(1, 2), errors.New("away")), at(10, c(1, 1), c(1e9, 9), nil)); v.Volumes[0].ReadIOPS != 0 {
		t.Errorf("what a node did while nobody looked is no rate: %+v", v.Volumes)
	}
}

// TestFollowEvents goes on after the node went away, with what is new only.
func TestFollowEvents(t *testing.T) {
	alone(t)
	f := &fake{streams: [][]uint64{{1, 2, 3}, {2, 3, 4, 5}, {}, {5, 6}}}
	address := f.start(t, listen(t))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := &cancelAfter{want: "event 6 ", cancel: cancel}
	var errOut bytes.Buffer
	c := New()
	c.SetArgs([]string{"events", "-f", "--level", "warning", "--api", address})
	c.SetOut(out)
	c.SetErr(&errOut)
	if err := c.ExecuteContext(ctx); err != nil {
		t.Fatal(err)
	}
	text := out.b.String()
	for n := 1; n <= 6; n++ {
		want := 1
		if n < 2 {
			want = 0 // no warning
		}
		if got := strings.Count(text, fmt.Sprintf("event %d ", n)); got != want {
			t.Errorf("event %d is shown %d times, want %d:\n%s", n, got, want, text)
		}
	}
	if strings.Count(errOut.String(), "asking again") != 3 {
		t.Errorf("said of the breaks: %s", errOut.String())
	}
	// Never reached at all is an error, not a thing to wait for.
	dead := listen(t)
	dead.Close()
	if _, _, err := ctl("", "events", "-f", "--api", dead.Addr().String()); ExitCode(err) != exitUnreachable {
		t.Error(err)
	}
	out = &cancelAfter{want: "\n"}
	c = New()
	c.SetArgs([]string{"events", "-f", "-o", "json", "--api", address})
	c.SetOut(out)
	ctx, out.cancel = context.WithCancel(context.Background())
	if err := c.ExecuteContext(ctx); err != nil || !strings.HasPrefix(out.b.String(), `{"sequence":`) {
		t.Errorf("%v: %s", err, out.b.String())
	}
}

// cancelAfter keeps what is written, and cancels when want is in it.
type cancelAfter struct {
	b      bytes.Buffer
	want   string
	cancel context.CancelFunc
}

func (c *cancelAfter) Write(p []byte) (int, error) {
	c.b.Write(p)
	if strings.Contains(c.b.String(), c.want) {
		c.cancel()
	}
	return len(p), nil
}

// TestDryRun sets dry_run in requests that have it; verbs whose requests have
// it not refuse the flag, rather than do what they were asked to try.
func TestDryRun(t *testing.T) {
	alone(t)
	f := &fake{}
	address := f.start(t, listen(t))
	for _, args := range [][]string{{"node", "label", "n1", "a=b", "--dry-run"}, {"node", "remove", "n1", "--dry-run"}} {
		out, _, err := ctl("", append(args, "--api", address)...)
		if err != nil || !strings.HasPrefix(out, "would change: ") {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
	for _, r := range f.asked {
		m, ok := r.Any().(interface {
			GetDryRun() bool
			GetRequestId() string
		})
		if !ok || !m.GetDryRun() || m.GetRequestId() == "" {
			t.Errorf("%v", r.Any())
		}
	}
	if _, _, err := ctl("", "cluster", "transfer", "n1", "--dry-run", "--api", address); ExitCode(err) != exitUsage || len(f.asked) != 2 {
		t.Errorf("cluster transfer --dry-run: %v, and asked %d times", err, len(f.asked))
	}
}

// What changes the catalog can be tried; what makes something that is given away, or
// changes the group of nodes, can't.
func TestChangesCanBeTried(t *testing.T) {
	never := []string{"InitCluster", "JoinCluster", "AdmitNode", "CreateJoinToken", "IssueClientCertificate", "TransferLeadership"}
	protoregistry.GlobalFiles.RangeFilesByPackage("blockd.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for j := range methods.Len() {
				m := methods.Get(j)
				changes := m.Input().Fields().ByName("request_id") != nil && !slices.Contains(never, string(m.Name()))
				if tried := m.Input().Fields().ByName("dry_run") != nil; tried != changes {
					t.Errorf("%s: it changes something: %v, it can be tried: %v", m.Name(), changes, tried)
				}
				if changes && m.Output().Fields().ByName("changes") == nil {
					t.Errorf("%s does not say what it would change", m.Name())
				}
			}
		}
		return true
	})
}

// TestCompletion offers the names that the API has.
func TestCompletion(t *testing.T) {
	alone(t)
	address := (&fake{}).start(t, listen(t))
	for _, c := range []struct{ line, want string }{
		{"volume show |", "db1\nlogs-of-the-web-servers-in-the-east\n"},
		{"volume create x --pool |", "default\n"},
		{"map db1 |", "web1\nany\n"},
		{"node remove |", "n1\nn2\n"},
		{"cluster transfer |", "n1\nn2\n"},
		{"pool show |", "default\n"},
		{"-o |", "table\nwide\njson\nyaml\n"},
		{"volume show db1 |", ""},
	} {
		args := append([]string{"__complete", "--api", address}, strings.Fields(strings.TrimSuffix(c.line, "|"))...)
		out, _, err := ctl("", append(args, "")...)
		if err != nil || !strings.HasPrefix(out, c.want+":4") {
			t.Errorf("%s: %v: %q, want %q", c.line, err, out, c.want)
		}
	}
}

// FuzzMetrics feeds what a node may send as metrics.
func FuzzMetrics(f *testing.F) {
	f.Add("blockd_volume_ops_total{op=\"read\",volume=\"a\\\"b\\\\\"} 12 1700000000\n# HELP x\nblockd_iscsi_sessions 3\n")
	f.Add("blockd_x{a=\"b\"")
	f.Add("blockd_x{}1")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseMetrics(strings.NewReader(text))
		if err == nil && n.volumes == nil {
			t.Error("no error and nothing")
		}
	})
}

// TestMetrics takes what top shows, whatever a volume is called.
func TestMetrics(t *testing.T) {
	n, err := parseMetrics(strings.NewReader("blockd_volume_ops_total{op=\"read\",volume=\"a\\\"b,}=\"} 12 1700000000\nblockd_volume_ops_total{volume=\"v\",op=\"flush\"} 3\n" +
		"blockd_iscsi_sessions 3\nblockd_volume_latency_seconds_bucket{op=\"read\",volume=\"a\",le=\"+Inf\"} 1\ngo_x NaN\n"))
	if err != nil || n.sessions != 3 || n.volumes[`a"b,}=`].read.ops != 12 || n.volumes["v"].write.ops != 0 {
		t.Errorf("%+v %v", n, err)
	}
	if _, err := parseMetrics(strings.NewReader("blockd_volume_ops_total{op=read} 1\n")); !errors.Is(err, errSample) {
		t.Error(err)
	}
}

package cli

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

// `node drain --wait` ends when the job has, tells each change once, and fails
// when the job was not done.
func TestDrainWaits(t *testing.T) {
	alone(t)
	for _, c := range []struct {
		last *blockdv1.Job
		code int
		says string
	}{
		{jobIn("done", "node n2 serves no volume"), exitDone, ""},
		{jobIn("failed", "the node is gone"), exitRefused, "has failed: the node is gone"},
		{jobIn("canceled", "node n2 was made active again"), exitRefused, "has been canceled: node n2 was made active again"},
	} {
		f := &fake{jobs: []*blockdv1.Job{drainJob, jobIn("waiting", "for another node"), c.last}}
		out, errOut, err := ctl("", "node", "drain", "n2", "--wait", "--api", f.start(t, listen(t)))
		if ExitCode(err) != c.code || err != nil && !strings.Contains(Explain(err), c.says) {
			t.Errorf("%s: exit %d: %v", c.last.GetState(), ExitCode(err), err)
		}
		if !strings.Contains(out, c.last.GetReason()) {
			t.Errorf("%s: it prints %q", c.last.GetState(), out)
		}
		want := "[############--------]  62% running: " + drainJob.GetReason() + "\n[############--------]  62% waiting: for another node\n" +
			"[############--------]  62% " + c.last.GetState() + ": " + c.last.GetReason() + "\n"
		if errOut != want {
			t.Errorf("it says meanwhile\n%swant\n%s", errOut, want)
		}
	}
}

// `disk drain --wait` does so too; without a job there is nothing to wait for.
func TestDiskDrainWaits(t *testing.T) {
	alone(t)
	ended := func(state, reason string) *blockdv1.Job {
		j := proto.CloneOf(diskJob)
		j.State, j.Reason, j.StepsDone = state, reason, 12
		return j
	}
	for _, c := range []struct {
		disk string
		last *blockdv1.Job
		code int
		says string
	}{
		{"n1/disk0", ended("done", "disk 1 on node n1 is drained"), exitDone, ""},
		{"n1/disk0", ended("canceled", "canceled by bob"), exitRefused, "has been canceled: canceled by bob"},
		{"old/disk0", nil, exitRefused, "a node of an older release"},
	} {
		f := &fake{jobs: []*blockdv1.Job{c.last}}
		out, _, err := ctl("", "disk", "drain", c.disk, "--wait", "--api", f.start(t, listen(t)))
		if ExitCode(err) != c.code || err != nil && !strings.Contains(Explain(err), c.says) {
			t.Errorf("%s: exit %d: %v", c.disk, ExitCode(err), err)
		}
		if c.last != nil && (!strings.Contains(out, c.last.GetReason()) || !strings.Contains(out, "12 of 12")) {
			t.Errorf("it prints %q", out)
		}
	}
}

// On a terminal the bar stays on its line, and what nodes say can't move it.
func TestProgressOnATerminal(t *testing.T) {
	var b bytes.Buffer
	p := progressBar{w: &b, live: true}
	j := viewJob(drainJob)
	p.show(j)
	p.show(j) // nothing new
	j.StepsDone, j.Reason = j.StepsTotal, "bad\nwords\x1b[2J"
	p.show(j)
	p.end()
	want := "\r\x1b[K[############--------]  62% running: " + drainJob.GetReason() + "\r\x1b[K[####################] 100% running: bad words [2J\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

// top asks all nodes at the same time: here each answers only when another is asked too.
func TestTopAsksAllAtOnce(t *testing.T) {
	home := alone(t)
	now := time.Now()
	ca := authority(t, theCluster.GetId(), now)
	f := &fake{meet: make(chan struct{}), cluster: proto.CloneOf(theCluster)}
	var addresses []string
	for _, m := range f.cluster.GetMembers() {
		m.Address = f.start(t, secure(t, ca, listen(t)))
		addresses = append(addresses, m.GetAddress())
	}
	file := bundleFile(t, filepath.Join(home, "prod.pem"), ca, now, addresses...)
	out, _, err := ctl("", "top", "--once", "--interval", "100ms", "--timeout", "10s", "-o", "json", "--cert", file)
	if err != nil {
		t.Fatal(err)
	}
	var v topView
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	for _, n := range v.Nodes {
		if n.Error != "" {
			t.Errorf("node %s: %s", n.Name, n.Error)
		}
	}
	if len(v.Nodes) != 2 {
		t.Errorf("%d nodes", len(v.Nodes))
	}
}

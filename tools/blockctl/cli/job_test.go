package cli

import (
	"strings"
	"testing"

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

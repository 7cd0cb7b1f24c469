//go:build e2e

package trial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"blockd.dev/testenv/cluster"
)

// TestNodesComeAndGo: of four nodes that hosts use, the one that owns their volume is emptied and removed, and joins
// again as a new one, which gets its share; then a disk is emptied while another node is killed. Jobs show
// how far all that is, and when it will end.
func TestNodesComeAndGo(t *testing.T) {
	config := Cluster
	config.Nodes = 4
	c := cluster.New(t, config)
	tr, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	g := &comings{}
	for _, f := range []Fault{
		{Name: "the owner is drained and removed", Begin: g.drained},
		{Name: "it joins as a new node, and the cluster is rebalanced", Begin: g.joined},
		{Name: "a disk is drained, and another node is killed meanwhile", Lasts: lasts, Begin: onReplica(diskDrained)},
	} {
		began := time.Now()
		r, err := tr.Run(t.Context(), f)
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			t.Fatal(f.Name, ": ", err)
		}
		t.Logf("%s: %d operations, %d of unknown outcome, the longest took %v; %v in all", f.Name, r.Ops, r.Open,
			r.Pause.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	}
	blocks, err := tr.CompareCopies(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d blocks that hold something, the same in every copy", blocks)
}

// ballastBytes is how much more than their blocks hosts have written before, so that it takes a while to move.
const ballastBytes = 128 << 20

// comings is what a cluster's nodes and disks do in TestNodesComeAndGo.
type comings struct {
	gone string // the node that was removed
}

// drained is the owner of the volume, from which all is moved away, and which is removed then.
func (g *comings) drained(ctx context.Context, t *Trial) (func(context.Context) error, error) {
	if err := t.ballast(ballastBytes); err != nil {
		return nil, err
	}
	name, err := t.Owner(ctx)
	if err != nil {
		return nil, err
	}
	id, err := t.begin(ctx, "id", "node", "drain", name, "--for", "remove")
	if err == nil {
		err = t.onItsWay(ctx, id, "remove", name)
	}
	return func(ctx context.Context) error {
		if err := t.done(ctx, id); err != nil {
			return err
		}
		if n, err := t.extents(ctx, func(node, _ string) bool { return node == name }); err != nil || n[0]+n[1] > 0 {
			return errors.Join(err, fmt.Errorf("%d extents are on the disks of %s when the job is done", n, name))
		}
		if _, err := t.c.Ctl(ctx, cluster.HostName, "node", "remove", name, "--yes", "--force"); err != nil {
			return err
		}
		g.gone = name
		t.nodes = slices.DeleteFunc(slices.Clone(t.nodes), func(n cluster.NodeStatus) bool { return n.Name == name })
		return t.c.Kill(name)
	}, err
}

// joined is the node that was removed, as a new one, which gets its share of the extents.
func (g *comings) joined(ctx context.Context, t *Trial) (func(context.Context) error, error) {
	if err := t.c.Renew(ctx, g.gone, t.nodes[0].Name); err != nil {
		return nil, err
	}
	st, err := t.c.Status()
	if err != nil {
		return nil, err
	}
	t.nodes = st.Nodes
	id, err := t.begin(ctx, "id", "cluster", "rebalance")
	if err == nil {
		err = t.onItsWay(ctx, id, "rebalance", "cluster")
	}
	return func(ctx context.Context) error {
		if err := t.done(ctx, id); err != nil {
			return err
		}
		n, err := t.extents(ctx, func(string, string) bool { return true })
		if err == nil && slices.Max(n)-slices.Min(n) > 1 {
			err = fmt.Errorf("the disks have %d extents after the rebalance", n)
		}
		return err
	}, err
}

// diskDrained is a disk from which extents are moved away while the node of others is killed.
func diskDrained(t *Trial, node string) ending {
	return func() (func(context.Context) error, error) {
		ctx, cancel := context.WithTimeout(context.Background(), syncPatience)
		defer cancel()
		disk, err := t.diskAt(ctx, node, "disk0")
		if err != nil {
			return nil, err
		}
		id, err := t.begin(ctx, "job", "disk", "drain", disk.GetName())
		if err != nil {
			return nil, err
		}
		if err := t.onItsWay(ctx, id, "drain-disk", disk.GetName()); err != nil {
			return nil, err
		}
		other := t.others(node)[0]
		return func(ctx context.Context) error {
			if err := t.c.Restart(ctx, other); err != nil {
				return err
			}
			if err := t.done(ctx, id); err != nil {
				return err
			}
			if err := t.awaitDisk(ctx, disk.GetUuid(), "drained"); err != nil {
				return err
			}
			if n, err := t.extents(ctx, func(of, file string) bool { return of == node && file == "disk0" }); err != nil || n[0] > 0 {
				return errors.Join(err, fmt.Errorf("%d extents are on the disk when it is drained", n))
			}
			_, err := t.c.Ctl(ctx, cluster.HostName, "disk", "remove", disk.GetName(), "--yes")
			return err
		}, t.c.Kill(other)
	}
}

// extents is how many each of the disks has that are wanted, by their nodes and files.
func (t *Trial) extents(ctx context.Context, wanted func(node, file string) bool) (n []uint32, err error) {
	state, err := t.state(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range state.Disks {
		if wanted(state.NodeByID(d.Node).Name, filepath.Base(d.Path)) {
			n = append(n, state.Map().Used(d.Number))
		}
	}
	return n, nil
}

// job is what blockctl says of one.
type job struct {
	ID           string `json:"id"`
	Kind         string `json:"kind"`
	Subject      string `json:"subject"`
	State        string `json:"state"`
	Reason       string `json:"reason"`
	BytesDone    int64  `json:"bytes_done"`
	BytesTotal   int64  `json:"bytes_total"`
	EstimatedEnd string `json:"estimated_end"`
}

// begin has blockctl begin a job, whose id is in a field of what that answers.
func (t *Trial) begin(ctx context.Context, field string, args ...string) (id string, err error) {
	out, err := t.c.Ctl(ctx, cluster.HostName, append(args, "-o", "json")...)
	if err != nil {
		return "", err
	}
	answer := map[string]any{}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return "", err
	}
	id, ok := answer[field].(string)
	if !ok || id == "" {
		return "", fmt.Errorf("%v began no job: %s", args, out)
	}
	return id, nil
}

// job is what the list says of one; what has ended is in it too.
func (t *Trial) job(ctx context.Context, id string) (job, error) {
	out, err := t.c.Ctl(ctx, cluster.HostName, "job", "list", "--all", "-o", "json")
	if err != nil {
		return job{}, err
	}
	var list []job
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return job{}, err
	}
	i := slices.IndexFunc(list, func(j job) bool { return j.ID == id })
	if i < 0 {
		return job{}, fmt.Errorf("job %s is not in the list: %s", id, out)
	}
	return list[i], nil
}

// onItsWay waits until the list and `job show` say how much of a job is done, and when it ends.
func (t *Trial) onItsWay(ctx context.Context, id, kind, subject string) error {
	ctx, cancel := context.WithTimeout(ctx, syncPatience)
	defer cancel()
	for {
		j, err := t.job(ctx, id)
		switch {
		case err != nil:
			return err
		case j.Kind != kind || j.Subject != subject:
			return fmt.Errorf("job %+v: want %s of %s", j, kind, subject)
		case j.ended():
			return fmt.Errorf("job %+v has ended, and was never seen on its way", j)
		case j.EstimatedEnd == "" || j.BytesDone == 0 || j.BytesDone >= j.BytesTotal:
			continue
		}
		out, err := t.c.Ctl(ctx, cluster.HostName, "job", "show", id)
		if err != nil || strings.Contains(out, "estimated end") && strings.Contains(out, " of ") {
			return err
		}
	}
}

// done waits until a job is.
func (t *Trial) done(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, syncPatience)
	defer cancel()
	for {
		j, err := t.job(ctx, id)
		switch {
		case err != nil || j.State == "done":
			return err
		case j.ended():
			return fmt.Errorf("job %+v", j)
		}
	}
}

// ended tells whether nothing more comes of it.
func (j job) ended() bool { return slices.Contains([]string{"done", "failed", "canceled"}, j.State) }

package clusterbench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"

	"blockd.dev/testenv/cluster"
)

// followEvery is how often metrics are read.
const followEvery = 100 * time.Millisecond

// progress is what bringing a copy back took.
type progress struct {
	copied      float64   // bytes
	first, last time.Time // when copied was first and last seen to grow; zero if never
}

// grew takes an owner's counter at a time. The next owner on the same node begins at zero.
func (p *progress) grew(before, now float64, at time.Time) {
	by := now - before
	if by < 0 {
		by = now
	}
	if by == 0 {
		return
	}
	if p.copied += by; p.first.IsZero() {
		p.first = at
	}
	p.last = at
}

// replicas is how many copies of the volume are in a state, as a node knows.
func (r *resyncer) replicas(metrics map[string]float64, state string) int {
	return int(metrics[fmt.Sprintf("blockd_volume_replicas{state=%q,volume=%q}", state, r.v.name)])
}

// follow reads the metrics of the volume's owner until done says so. It asks the owner alone while
// there is one: what is asked for takes processors from hosts and from copies.
func (r *resyncer) follow(ctx context.Context, done func(owner map[string]float64, p *progress) (bool, error)) (p progress, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, resyncPatience, fmt.Errorf("still so after %v", resyncPatience))
	defer cancel()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	st, err := r.c.Status()
	if err != nil {
		return p, err
	}
	copied := map[string]float64{} // by owners so far, by node: while one takes over from another, both may be heard
	owner := ""
	for first := true; ; first = false {
		nodes, err := nodesMetrics(ctx, st.Nodes, owner)
		if err != nil {
			return p, err
		}
		owner = ""
		for name, m := range nodes {
			now, ok := m[r.metric("blockd_volume_rebuild_copied_bytes_total")]
			if ok && !first {
				p.grew(copied[name], now, time.Now())
			}
			copied[name] = now // 0 where there is no owner: the next one begins there
			if m[r.metric("blockd_volume_owned")] == 1 {
				owner = name
			}
		}
		if owner != "" {
			if ok, err := done(nodes[owner], &p); err != nil || ok {
				return p, err
			}
		}
		select {
		case <-ctx.Done():
			return p, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// metric is the key of what metrics say about the volume.
func (r *resyncer) metric(name string) string { return fmt.Sprintf("%s{volume=%q}", name, r.v.name) }

// nodesMetrics are those of the nodes that answer: of one, or of all where only is "".
func nodesMetrics(ctx context.Context, all []cluster.NodeStatus, only string) (map[string]map[string]float64, error) {
	out := map[string]map[string]float64{}
	for _, n := range all {
		if only != "" && n.Name != only {
			continue
		}
		if m, err := metrics(ctx, n.SocketPath); err == nil {
			out[n.Name] = m
		}
	}
	return out, ctx.Err()
}

// otherThanOwner is a node that has a copy, and is not n1, which is asked about all.
func (r *resyncer) otherThanOwner(ctx context.Context) (string, error) {
	s, err := r.shown(ctx, r.v)
	if err != nil {
		return "", err
	}
	for _, c := range s.Replicas {
		if c.Node != s.Node && c.Node != "n1" {
			return c.Node, nil
		}
	}
	return "", fmt.Errorf("volume %s: no node but %s and n1 has a copy", r.v.name, s.Node)
}

func (b *bench) drain(ctx context.Context, node string) error {
	_, err := b.c.Ctl(ctx, "n1", "disk", "drain", node+"/disk0")
	return err
}

func (b *bench) resume(ctx context.Context, node string) error {
	_, err := b.c.Ctl(ctx, "n1", "disk", "resume", node+"/disk0")
	return err
}

// loadFor has hosts write for a while, in which the owner is followed as it is when a copy is brought
// back: the two are compared, and should have the same beside them.
func (r *resyncer) loadFor(ctx context.Context, bytes int64, runtime time.Duration) (loadedResult, error) {
	return r.whileLoaded(ctx, bytes, func() error {
		end := time.Now().Add(runtime)
		_, err := r.follow(ctx, func(map[string]float64, *progress) (bool, error) { return time.Now().After(end), nil })
		return err
	})
}

// whileLoaded has hosts write until during returns.
func (r *resyncer) whileLoaded(ctx context.Context, rangeBytes int64, during func() error) (l loadedResult, err error) {
	if err := r.locate(ctx, r.v); err != nil {
		return l, err
	}
	cmd, err := r.blockbenchCommand(ctx, r.v, r.hosts(rangeBytes, 2*resyncPatience)...)
	if err != nil {
		return l, err
	}
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Start(); err != nil {
		return l, err
	}
	errDuring := during()
	errSignal := cmd.Process.Signal(syscall.SIGINT) // then it prints what it has measured
	if err := errors.Join(cmd.Wait(), errSignal, errDuring); err != nil {
		return l, fmt.Errorf("%w: %s", err, words.String())
	}
	return l, json.Unmarshal(out.Bytes(), &l)
}

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// readyLine is what blockd prints once every portal listens.
const readyLine = "blockd ready"

// startNodes starts blockd on the nodes on which it does not run, and waits
// until all are ready. They start together, since members of a cluster wait
// for each other.
func (s *state) startNodes(ctx context.Context, nodes []*Place) error {
	var started []awaited
	for _, p := range nodes {
		now, err := p.Process.State()
		if err != nil {
			return err
		}
		if now != "gone" {
			return fmt.Errorf("cluster: blockd is %s on %s; kill it first", now, p.Name)
		}
		from := logSize(p.Log())
		argv := append([]string{p.Blockd}, s.arguments(p)...)
		env := []string{"BLOCKD_DISK_FAULTS=" + p.diskFaults()}
		if s.Config.Volatile {
			env = append(env, "BLOCKD_DISK_VOLATILE=1")
		}
		if p.Process, err = start(p.Namespace, p.Log(), env, argv...); err != nil {
			return err
		}
		if err := s.save(); err != nil {
			return err
		}
		started = append(started, awaited{"blockd on " + p.Name, p.Process, p.Log(), from, readyLine})
	}
	return s.await(ctx, started)
}

// arguments is how blockd is called on a node.
func (s *state) arguments(p *Place) []string {
	var disks []string
	for i := range s.Config.Disks {
		disks = append(disks, p.disk(i))
	}
	args := []string{"--data", p.Data(), "--disks", strings.Join(disks, ","), "--api", p.API, "--iscsi", strings.Join(p.ISCSI, ","),
		"--nvme", strings.Join(p.NVMe, ","), "--discovery", strings.Join(p.Discovery, ",")}
	if !s.Config.Standalone {
		args = append(args, "--name", p.Name, "--label", "host="+p.Name)
	}
	return append(args, s.Config.Args...)
}

func logSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0 // not there yet
	}
	return info.Size()
}

// awaited is a process that will write line to its log, after the byte from.
type awaited struct {
	what    string
	process Process
	log     string
	from    int64
	line    string
}

// await waits until all have written their lines, as long as Config allows,
// and no longer than the first that ends without.
func (s *state) await(ctx context.Context, all []awaited) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.Config.ReadyTimeout, fmt.Errorf("it is not ready after %v", s.Config.ReadyTimeout))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		var waiting []awaited
		for _, a := range all {
			ready, err := a.isReady()
			if err != nil {
				return fmt.Errorf("cluster: %s: %w", a.what, err)
			}
			if !ready {
				waiting = append(waiting, a)
			}
		}
		if all = waiting; len(all) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cluster: %s: %w", all[0].what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (a *awaited) isReady() (bool, error) {
	// First whether it lives, then what it said: it may end having said it.
	now, err := a.process.State()
	if err != nil {
		return false, err
	}
	said, err := readFrom(a.log, a.from)
	switch {
	case err != nil:
		return false, err
	case bytes.Contains(append([]byte("\n"), said...), []byte("\n"+a.line+"\n")):
		return true, nil
	case now == "gone":
		return false, errors.New("it ended before it was ready")
	}
	return false, nil
}

func readFrom(path string, from int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// Kill ends blockd on the nodes by SIGKILL, as a crash would, and returns when
// it is gone. A node on which it does not run is no error.
func (c *Cluster) Kill(names ...string) error {
	return c.eachNode(names, func(p *Place) error { return p.Process.end(syscall.SIGKILL, killPatience) })
}

// Stop asks blockd on the nodes to end by SIGTERM, and returns when it is gone;
// what is still there after grace is killed.
func (c *Cluster) Stop(grace time.Duration, names ...string) error {
	return c.eachNode(names, func(p *Place) error { return p.Process.end(syscall.SIGTERM, grace) })
}

// Pause stops blockd on the nodes from running, as a machine that hangs, and
// returns when it has stopped. Its connections stay.
func (c *Cluster) Pause(names ...string) error {
	return c.eachNode(names, func(p *Place) error { return p.Process.pause() })
}

// Resume ends Pause.
func (c *Cluster) Resume(names ...string) error {
	return c.eachNode(names, func(p *Place) error { return p.Process.signal(syscall.SIGCONT) })
}

// Restart starts blockd on the nodes again, with the same data and addresses,
// and returns when all are ready. Where it runs, it is killed first.
func (c *Cluster) Restart(ctx context.Context, names ...string) error {
	return c.update(func(s *state) error {
		nodes, err := s.pick(names)
		if err != nil {
			return err
		}
		for _, p := range nodes {
			if err := p.Process.end(syscall.SIGKILL, killPatience); err != nil {
				return err
			}
		}
		return s.startNodes(ctx, nodes)
	})
}

// pick finds nodes by name.
func (s *state) pick(names []string) ([]*Place, error) {
	var out []*Place
	for _, name := range names {
		p, err := s.find(name)
		if err != nil {
			return nil, err
		}
		if !p.isNode() {
			return nil, fmt.Errorf("cluster: %s is the place of initiators, and runs no blockd", name)
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, errors.New("cluster: no node is named; give one, such as n1")
	}
	return out, nil
}

func (c *Cluster) eachNode(names []string, f func(*Place) error) error {
	return c.update(func(s *state) error {
		nodes, err := s.pick(names)
		if err != nil {
			return err
		}
		for _, p := range nodes {
			if err := f(p); err != nil {
				return fmt.Errorf("cluster: blockd on %s: %w", p.Name, err)
			}
		}
		return nil
	})
}

// tailLines is how much of each log an error shows.
const tailLines = 15

// tails is the end of every node's log, for errors.
func (c *Cluster) tails() string {
	s, err := load(c.dir)
	if err != nil {
		return ""
	}
	var b strings.Builder
	for _, p := range s.nodes() {
		text, err := os.ReadFile(p.Log())
		if err != nil {
			continue // it was never started
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&b, "\n%s printed %s lines; the last:", p.Name, strconv.Itoa(len(lines)))
		for _, line := range lines[max(0, len(lines)-tailLines):] {
			b.WriteString("\n\t" + line)
		}
	}
	return b.String()
}

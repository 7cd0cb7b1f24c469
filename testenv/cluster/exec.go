package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Do runs f on a thread in the network namespace of a place, and waits for it.
// Goroutines that f starts do not run there; sockets stay where they were made.
func (c *Cluster) Do(name string, f func() error) error {
	s, err := load(c.dir)
	if err != nil {
		return err
	}
	p, err := s.find(name)
	if err != nil {
		return err
	}
	return inNamespace(p.Namespace, f)
}

// Command prepares a command that runs in the network namespace of a place. In
// its environment blockctl comes first in the PATH, and needs no arguments to
// reach the node, or from host all nodes of a cluster (the first if they are none).
func (c *Cluster) Command(ctx context.Context, name string, argv ...string) (*exec.Cmd, error) {
	s, err := load(c.dir)
	if err != nil {
		return nil, err
	}
	p, err := s.find(name)
	if err != nil {
		return nil, err
	}
	if len(argv) == 0 {
		return nil, fmt.Errorf("cluster: no command for %s; give one after --", name)
	}
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", p.Namespace}, argv...)...)
	cmd.Env = append(os.Environ(), s.environment(p)...)
	return cmd, nil
}

// environment is what Command adds. A later entry wins over an earlier one.
func (s *state) environment(p *Place) []string {
	env := []string{"PATH=" + s.Config.BinDir + string(os.PathListSeparator) + os.Getenv("PATH")}
	if s.Formed {
		env = append(env, "BLOCKCTL_CERT="+filepath.Join(s.Config.Dir, bundleFile))
	}
	if p.isNode() {
		return append(env, "BLOCKD_API="+p.API)
	}
	if s.Formed {
		return append(env, "BLOCKD_API="+strings.Join(s.apis(), ","))
	}
	return append(env, "BLOCKD_API=unix:"+s.nodes()[0].Socket()) // whose API is out of reach
}

// Ctl runs blockctl at a place, and returns what it printed.
func (c *Cluster) Ctl(ctx context.Context, name string, args ...string) (string, error) {
	s, err := load(c.dir)
	if err != nil {
		return "", err
	}
	cmd, err := c.Command(ctx, name, append([]string{filepath.Join(s.Config.BinDir, "blockctl")}, args...)...)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cluster: blockctl %s on %s: %w: %s", strings.Join(args, " "), name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

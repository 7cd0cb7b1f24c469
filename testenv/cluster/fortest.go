package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// New is Up for a test: in a directory of the test's own unless Config names
// one, taken down at the test's end. If the test has failed by then, the logs of all
// nodes are in its output.
func New(t testing.TB, config Config) *Cluster {
	t.Helper()
	if config.Dir == "" {
		config.Dir = filepath.Join(t.TempDir(), "cluster")
	}
	c, err := Up(t.Context(), config)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.logTo(t)
		}
		if err := c.Down(); err != nil {
			t.Errorf("%v", err)
		}
	})
	return c
}

// logTo prints the logs of all nodes.
func (c *Cluster) logTo(t testing.TB) {
	s, err := load(c.dir)
	if err != nil {
		t.Logf("no logs: %v", err)
		return
	}
	for _, p := range s.nodes() {
		text, err := os.ReadFile(p.Log())
		if err != nil {
			t.Logf("log of %s: %v", p.Name, err)
			continue
		}
		t.Logf("log of %s:\n%s", p.Name, strings.TrimSpace(string(text)))
	}
}

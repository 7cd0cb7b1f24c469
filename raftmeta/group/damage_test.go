package group

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDamagedMember: a bit is wrong in a file of a member that does not run. When it is started, it
// says so and does not serve, or it has what the others have: what it lacks comes
// from them. In no case does it go on with a wrong state, and a member that is made anew
// takes its place.
func TestDamagedMember(t *testing.T) {
	c := start(t, 3, func(cfg *Config) { cfg.SnapshotEvery, cfg.TrailingLogs, cfg.segmentBytes = 1000, 8, 4096 })
	names := []string{"first"}
	fill := func(n int) {
		for range n {
			names = append(names, fmt.Sprint("x", len(names)))
			c.apply(c.leader(), names[len(names)-1])
		}
	}
	fill(60)
	bad := c.followers()[0]
	if err := bad.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	fill(30)
	bad.stop()
	good := t.TempDir()
	if err := os.CopyFS(good, os.DirFS(bad.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	refused, stopped, served := 0, 0, 0
	for range 30 {
		what := bad.damage(good, rng)
		if err := bad.open(); err != nil {
			if !strings.Contains(err.Error(), bad.cfg.Dir) {
				t.Errorf("%s: it does not say where: %v", what, err)
			}
			refused++
			continue
		}
		c.until("it has all, or stops: "+what, func() bool {
			return bad.Err() != nil || bad.Stats().Applied >= c.leader().Stats().Committed
		})
		if bad.Err() != nil {
			stopped++
		} else {
			c.agree(names...)
			served++
		}
		bad.stop()
	}
	t.Logf("%d refused to start, %d stopped, %d had all from the others", refused, stopped, served)
	if refused+stopped == 0 || served == 0 {
		t.Error("want some of each")
	}
	if err := c.leader().Remove(c.ctx(), bad.id); err != nil {
		t.Fatal(err)
	}
	delete(c.nodes, bad.id)
	c.join(c.leader(), "n4")
	c.until("it votes", func() bool { return c.settled(3) })
	c.agree(names...)
}

// damage makes the member's folder one that is good but for a bit, and tells which.
func (n *node) damage(good string, rng *rand.Rand) (what string) {
	n.c.t.Helper()
	if err := os.RemoveAll(n.cfg.Dir); err != nil {
		n.c.t.Fatal(err)
	}
	if err := os.CopyFS(n.cfg.Dir, os.DirFS(good)); err != nil {
		n.c.t.Fatal(err)
	}
	var files []string
	err := filepath.WalkDir(n.cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Base(path) != fileLock {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		n.c.t.Fatal(err)
	}
	path := files[rng.IntN(len(files))]
	text, err := os.ReadFile(path)
	if err != nil {
		n.c.t.Fatal(err)
	}
	used := len(strings.TrimRight(string(text), "\x00")) // a log is allocated ahead
	if used == 0 {
		used = len(text)
	}
	at := rng.IntN(used)
	text[at] ^= 1 << rng.IntN(8)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		n.c.t.Fatal(err)
	}
	return fmt.Sprintf("byte %d of %s", at, path)
}

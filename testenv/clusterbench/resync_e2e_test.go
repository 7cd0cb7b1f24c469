//go:build e2e

package clusterbench

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"blockd.dev/testenv/cluster"
)

// TestWhatIsCopied: a node that was away for 10 s gets what changed, and an empty
// disk the whole volume, once.
func TestWhatIsCopied(t *testing.T) {
	bin := os.Getenv("BLOCKD_TESTENV_BIN")
	if bin == "" {
		bin = filepath.Join("..", "..", "bin")
	}
	c := cluster.New(t, cluster.Config{Nodes: 4, BinDir: bin})
	b := &bench{cfg: Config{BinDir: bin, Runtime: time.Second, Away: 10 * time.Second}, c: c, w: t.Output()}
	r, err := newResyncer(t.Context(), b, 256<<20)
	if err != nil {
		t.Fatal(err)
	}
	// A load that a machine with other work carries, too.
	r.rate = min(r.rate, 500)
	a, err := r.absence(t.Context(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	if a.Copied < 0.9*a.Blocks || a.Copied > goalCopied*a.Regions {
		t.Errorf("%.0f bytes were copied, where blocks of %.0f and regions of %.0f had changed", a.Copied, a.Blocks, a.Regions)
	}
	re, err := r.rebuild(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	// What is counted right before another owner begins is not seen.
	if re.Copied < 256<<20/2 || re.Copied > goalCopied*(256<<20) {
		t.Errorf("%.0f bytes were copied of a volume of %d", re.Copied, 256<<20)
	}
}

// TestALostNodeIsMadeGood: others get what a node had that is lost, once.
func TestALostNodeIsMadeGood(t *testing.T) {
	bin := os.Getenv("BLOCKD_TESTENV_BIN")
	if bin == "" {
		bin = filepath.Join("..", "..", "bin")
	}
	c := cluster.New(t, cluster.Config{Nodes: 4, BinDir: bin, Args: []string{"--rebuild-after", lostAfter.String()}})
	const size = 128 << 20
	r, err := newLoser(t.Context(), &bench{cfg: Config{BinDir: bin, Runtime: time.Second}, c: c, w: t.Output()}, size)
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.lose(t.Context(), NoHosts)
	if err != nil {
		t.Fatal(err)
	}
	// Each node has about three quarters of each volume. What is counted right before another owner begins is not seen.
	if l.Copied < lostVolumes*size/4 || l.Copied > goalCopied*lostVolumes*size {
		t.Errorf("%.0f bytes were copied of %d volumes of %d, of which a node has a part", l.Copied, lostVolumes, size)
	}
}

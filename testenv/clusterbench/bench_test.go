package clusterbench

import (
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMedian(t *testing.T) {
	if got := median([]Sample{{IOPS: 9}, {IOPS: 1}, {IOPS: 5, P50: 7}}); got.IOPS != 5 || got.P50 != 7 {
		t.Errorf("%+v", got)
	}
	f := floors{one: []float64{30, 10, 20}, three: []float64{3, 1, 2}}
	if got := f.median(); got != (Floor{One: 20, Three: 2}) {
		t.Errorf("%+v", got)
	}
}

// TestStages finds the means of what was counted in between, over two rounds.
func TestStages(t *testing.T) {
	at := func(n, write, copied float64) []counted {
		key := func(stage, disk string) stageKey { return stageKey{Stage: stage, Node: "n1", Disk: disk} }
		return []counted{{key("read", ""), 5 * n, 1}, {key("read-copy", "n1/disk0"), 5 * n, 1}, {key("write", ""), n, write},
			{key("write-copy", "n1/disk0"), n, copied / 2}, {key("write-copy", "n2/disk0"), n, copied}, {key("copy", ""), n, copied}}
	}
	a := stages{load: load{write: true, depth: 1}}
	a.add(Sample{IOPS: 1000}, at(100, 9, 9), at(200, 4.8, 4.7)) // 100 of 0.6 ms, of 0.4
	a.add(Sample{IOPS: 500}, nil, at(100, 0.8, 0.8))
	a.add(Sample{IOPS: 500}, at(100, 0.8, 0.8), at(50, 0.8, 0.8)) // another owner began to count
	want := []Stage{
		{"from the host and back, in all", 1500 * time.Microsecond},
		{"outside of the owner: initiator, network, target", 800 * time.Microsecond},
		{"at the owner, in all", 700 * time.Microsecond},
		{"at the owner: write-copy n1/disk0", 300 * time.Microsecond},
		{"at the owner: write-copy n2/disk0", 600 * time.Microsecond},
		{"at the owner: copy", 600 * time.Microsecond},
	}
	got := a.mean()
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i].Name != want[i].Name || got[i].Mean.Round(time.Microsecond) != want[i].Mean {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
}

// Of reads it is theirs that count, and with more in flight each takes so many times what is between two.
func TestStagesOfReads(t *testing.T) {
	after := []counted{{stageKey{Stage: "read"}, 10, 0.5}, {stageKey{Stage: "read-copy", Disk: "n1/disk0"}, 10, 0.25}, {stageKey{Stage: "write"}, 7, 9}, {stageKey{Stage: "copy"}, 7, 8}}
	a := stages{load: load{depth: 4}}
	a.add(Sample{IOPS: 4000}, nil, after)
	want := []Stage{
		{"from the host and back, in all", 1000 * time.Microsecond},
		{"outside of the owner: initiator, network, target", 500 * time.Microsecond},
		{"at the owner, in all", 500 * time.Microsecond},
		{"at the owner: read-copy n1/disk0", 250 * time.Microsecond},
	}
	if got := a.mean(); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestPrintDurable(t *testing.T) {
	d := &Durable{Ceph: "16.2.15", Rows: []DurableRow{
		{Load: "writes", Blockd: Sample{IOPS: 1500}, Ceph: &Sample{IOPS: 500}, Ratio: 3, Goal: 4, Bars: []Bar{{"Ceph 16", 840}, {"Vitastor", 6090}}},
		{Load: "reads", Blockd: Sample{IOPS: 15}, Ceph: &Sample{IOPS: 5}, Ratio: 3, Goal: 2},
	}}
	var b strings.Builder
	if err := Print(&b, &Report{Durable: d}); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"CEPH 16.2.15", "Ceph 16 840: met, Vitastor 6090: short", "4: short", "2: met"} {
		if !strings.Contains(b.String(), words) {
			t.Errorf("no %q in\n%s", words, b.String())
		}
	}
	d = &Durable{CephError: "it is not installed: apt-get install it", Rows: []DurableRow{{Load: "writes", Goal: 4}}}
	b.Reset()
	if err := Print(&b, &Report{Durable: d}); err != nil || !strings.Contains(b.String(), d.CephError) || strings.Contains(b.String(), "RATIO") {
		t.Errorf("%v of\n%s", err, b.String())
	}
}

func TestConfigIsChecked(t *testing.T) {
	for words, cfg := range map[string]Config{
		"--only disks":          {Only: "disks", Runtime: time.Second, Rounds: 1, Away: time.Second},
		"--runtime 1.5s":        {Runtime: 1500 * time.Millisecond, Rounds: 1, Away: time.Second},
		"--rounds 0":            {Runtime: time.Second},
		"--away 0s":             {Runtime: time.Second, Rounds: 1},
		"[copies files durable": {Only: "?", Runtime: time.Second, Rounds: 1, Away: time.Second},
	} {
		if _, err := Run(t.Context(), cfg, io.Discard); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%+v: %v, want words on %q", cfg, err, words)
		}
	}
}

// TestMemoryIsNoDisk: durable figures must not come from a tmpfs.
func TestMemoryIsNoDisk(t *testing.T) {
	var st unix.Statfs_t
	const memory = "/dev/shm"
	if err := unix.Statfs(memory, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Fatalf("%s is not in memory here: %v", memory, err)
	}
	if err := realDisk(memory); err == nil || !strings.Contains(err.Error(), "--on") {
		t.Errorf("%s is taken for a disk: %v", memory, err)
	}
	if err := realDisk(filepath.Join(t.TempDir(), "new")); err != nil {
		t.Error(err)
	}
}

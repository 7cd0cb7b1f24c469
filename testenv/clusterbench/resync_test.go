package clusterbench

import (
	"math"
	"strings"
	"testing"
	"time"

	"blockd.dev/testenv/cluster"
)

// TestDistinct: few writes hardly meet, many meet everything.
func TestDistinct(t *testing.T) {
	const unit, size = 1 << 16, 1 << 30
	for n, want := range map[int64]float64{0: 0, 1: unit, 100: 100 * unit, 16384: size * (1 - 1/math.E), 1e7: size} {
		if got := distinct(n, size, unit); math.Abs(got-want) > 0.005*want {
			t.Errorf("%d writes change %.0f bytes, want about %.0f", n, got, want)
		}
	}
}

// TestProgress follows a counter that begins anew with another owner.
func TestProgress(t *testing.T) {
	var p progress
	at := time.Unix(0, 0)
	last := 100.0
	for i, now := range []float64{100, 150, 150, 30, 40, 40} {
		p.grew(last, now, at.Add(time.Duration(i)*time.Second))
		last = now
	}
	if p.copied != 50+30+10 || p.last.Sub(p.first) != 3*time.Second {
		t.Errorf("%.0f bytes in %v, want 90 in 3s", p.copied, p.last.Sub(p.first))
	}
}

func TestParseMetrics(t *testing.T) {
	m, err := cluster.ParseMetrics(strings.NewReader("# TYPE a gauge\na{state=\"in sync\",volume=\"v\"} 3\nb 1.5e+06\n"))
	if err != nil || len(m) != 2 || m[`a{state="in sync",volume="v"}`] != 3 || m["b"] != 1.5e6 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := cluster.ParseMetrics(strings.NewReader("a b c\n")); err == nil {
		t.Error("a line without a number is no error")
	}
}

func TestPrintResync(t *testing.T) {
	limits := Limits{Disk: 300, Link: 100, Plain: 120}
	var b strings.Builder
	err := Print(&b, &Report{Resync: &Resync{
		VolumeBytes: 1 << 30,
		Absences: []Absence{
			{Range: 1 << 20, Away: time.Minute, Blocks: 10, Regions: 100, Copied: 110, Before: 1, During: 2},
			{Range: 1 << 20, Away: time.Minute, Blocks: 10, Regions: 100, Copied: 130, Before: 1, During: 3},
		},
		Rebuilds: []Rebuild{
			{Limits: limits, Copied: 75e6, Took: time.Second}, {Limits: limits, Loaded: true, Copied: 50e6, Took: time.Second, Before: 2, During: 5},
			{Bandwidth: 25e8, Limits: Limits{Disk: 300, Link: 90, Plain: 90}, Copied: 45e6, Took: time.Second},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"11.00", "1.10 (at most 1.2: met)", "1.30 (at most 1.2: short)", "2.00 (at most 2.0: met)", "3.00 (at most 2.0: short)",
		"0.75 (at least 0.7: met)", "2.50 (at most 2.0: short)", "0.50", "0.62", "0.42", "2.5gbit", "0.50 (at least 0.7: short)"} {
		if !strings.Contains(b.String(), words) {
			t.Errorf("no %q in\n%s", words, b.String())
		}
	}
}

func TestPrintLost(t *testing.T) {
	var b strings.Builder
	err := Print(&b, &Report{Lost: &Lost{VolumeBytes: 256 << 20, Volumes: 4, Rate: 1000, Limits: Limits{Disk: 300, Link: 100, Plain: 120}, Nodes: []Loss{
		{Hosts: NoHosts, Copied: 75e6, Took: time.Second},
		{Hosts: OwnHosts, Copied: 30e6, Took: time.Second, Before: loadedResult{P50: 1, P99: 2}, During: loadedResult{P50: 3, P99: 5}},
		{Hosts: OtherHosts, Copied: 40e6, Took: time.Second, Before: loadedResult{P50: 2, P99: 2}, During: loadedResult{P50: 4, P99: 4}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"4 volumes of 256 MiB", "0.75 (at least 0.7: met)", "0.30", "3.00", "2.50 (at most 2.0: short)", "2.00 (at most 1.5: short)", "2.00 (at most 2.0: met)"} {
		if !strings.Contains(b.String(), words) {
			t.Errorf("no %q in\n%s", words, b.String())
		}
	}
}

// TestCopying: what was counted before does not count, and each owner of each volume counts by itself.
func TestCopying(t *testing.T) {
	const a, b = `blockd_volume_rebuild_copied_bytes_total{volume="a"}`, `blockd_volume_rebuild_copied_bytes_total{volume="b"}`
	var c copying
	for _, nodes := range []map[string]map[string]float64{
		{"n1": {a: 100, "blockd_other": 5}, "n2": {b: 7}},
		{"n1": {a: 150, "blockd_other": 9}, "n2": {b: 7, a: 0}},
		{"n2": {b: 17, a: 30}},
	} {
		c.read(nodes)
	}
	if c.progress.copied != 50+10+30 {
		t.Errorf("%.0f bytes, want 90", c.progress.copied)
	}
}

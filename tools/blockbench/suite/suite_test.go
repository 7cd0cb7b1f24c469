package suite

import (
	"strings"
	"testing"
	"time"
)

func TestFioOutputIsRead(t *testing.T) {
	// Cut down from `fio --name=x --rw=randread --output-format=json` 3.33.
	const out = `{"fio version":"fio-3.33","jobs":[{"jobname":"x","read":{"iops":14352.5},"write":{"iops":0.0}}]}`
	s, err := parseFio(out, true)
	if err != nil || s.IOPS != 14352.5 {
		t.Fatal(s, err)
	}
	for _, bad := range []string{"", "{}", `{"jobs":[{},{}]}`} {
		if _, err := parseFio(bad, true); err == nil {
			t.Errorf("%q was taken for fio's output", bad)
		}
	}
}

func TestClientsLinesAreFound(t *testing.T) {
	perf := "\r00:00:01 - lba 238298, iops current 65267 (254 MB/s), iops average 65852 (257 MB/s), in_flight 32, busy 0" +
		"\riops average 66609 (260 MB/s)   \n\nfinished.\n"
	all := perfLine.FindAllStringSubmatch(perf, -1)
	if got := all[len(all)-1][1]; got != "66609" {
		t.Errorf("iscsi-perf: %s", got)
	}
	if m := benchLine.FindStringSubmatch("Sending 20000 read requests\nRun completed in 0.313 seconds.\n"); m == nil || m[1] != "0.313" {
		t.Errorf("qemu-img bench: %v", m)
	}
	if m := iscsiLine.FindStringSubmatch("Target:iqn.2026-01.dev.blockd:x Portal:127.0.0.1:3260,1\n"); m == nil || m[1] != "iqn.2026-01.dev.blockd:x" {
		t.Errorf("iscsi-ls: %v", m)
	}
}

func TestRowsAreRatiosOfMedians(t *testing.T) {
	own := []Sample{{IOPS: 10}, {IOPS: 300, CPUPerOp: 2 * time.Microsecond}, {IOPS: 900}}
	peer := []Sample{{IOPS: 90}, {IOPS: 100, CPUPerOp: 4 * time.Microsecond}, {IOPS: 5000}}
	r := newRow("case", "peer", 3.5, own, peer)
	if r.Ratio != 3 || r.Met() {
		t.Errorf("%+v", r)
	}
	var b strings.Builder
	if err := WriteTables(&b, Report{Rows: []Row{r}}); err != nil {
		t.Fatal(err)
	}
	if line := strings.Split(b.String(), "\n")[1]; !strings.Contains(line, "3.00") || !strings.Contains(line, "short") ||
		!strings.Contains(line, "2.0 us") {
		t.Error(line)
	}
}

func TestGaugesAreBelowTheirLimits(t *testing.T) {
	r := Report{Rows: []Row{{Case: "row"}}, Gauges: []Gauge{{"few", "% of a core", 0.25, 1}, {"many", "KiB", 32, 32}}}
	var b strings.Builder
	if err := WriteTables(&b, r); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	for i, want := range []string{"row", "CASE", "few met", "many short"} {
		line := strings.Join(strings.Fields(lines[[]int{1, 3, 4, 5}[i]]), " ")
		first, last, _ := strings.Cut(want, " ")
		if !strings.HasPrefix(line, first) || !strings.HasSuffix(line, last) {
			t.Errorf("%q, want %q", line, want)
		}
	}
}

// What a connection can hold of a process is measured on one's own.
func TestResidentSizeIsRead(t *testing.T) {
	p, err := start(t.Context(), "", "sleep", "60")
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	if n, err := p.residentBytes(); err != nil || n < 4096 || n > 1<<30 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// A row says which of its goals it misses.
func TestGoalsOfCPUAndLatency(t *testing.T) {
	own := []Sample{{IOPS: 80, CPUPerOp: 3 * time.Microsecond, P50: 14 * time.Microsecond}}
	peer := []Sample{{IOPS: 100, CPUPerOp: 2 * time.Microsecond, P50: 10 * time.Microsecond}}
	for _, tc := range []struct {
		goal, cpu, p50 float64
		want           string
	}{
		{0.7, 1.6, 1.5, "met"},
		{0.9, 0, 0, "short: IOPS"},
		{0.7, 1.4, 1.3, "short: CPU, p50"},
		{0, 0, 0, ""},
	} {
		r := newRow("case", "pump", tc.goal, own, peer)
		r.GoalCPU, r.GoalP50 = tc.cpu, tc.p50
		var b strings.Builder
		if err := WriteTables(&b, Report{Rows: []Row{r}}); err != nil {
			t.Fatal(err)
		}
		if line := strings.TrimSpace(strings.Split(b.String(), "\n")[1]); !strings.HasSuffix(line, tc.want) || r.Met() != !strings.HasPrefix(tc.want, "short") {
			t.Errorf("%+v: %s", tc, line)
		}
	}
}

// The pump moves what the protocol would.
func TestShapesOfTheWire(t *testing.T) {
	read, write := wireCase{bytes: 4096, depth: 1}, wireCase{bytes: 4096, depth: 1, write: true}
	for _, tc := range []struct {
		protocol       string
		c              wireCase
		request, reply int
	}{{"nvme", read, 72, 4120}, {"nvme", write, 4168, 24}, {"iscsi", read, 48, 4144}, {"iscsi", write, 4144, 48}} {
		if s, err := tc.c.shape(tc.protocol); err != nil || s.Request != tc.request || s.Reply != tc.reply || s.Depth != 1 {
			t.Errorf("%s: %+v, %v", tc.c.name(tc.protocol), s, err)
		}
	}
}

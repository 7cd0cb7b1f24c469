package conformance

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// tgt.txt is `iscsi-test-cu --dataloss -v -t ALL URL URL` (libiscsi 1.19)
// against Debian's tgt 1.0.85 with a file of 256 MiB, shortened where one
// assertion failed thousands of times.
func readGolden(t *testing.T) CUnitRun {
	t.Helper()
	text, err := os.ReadFile("testdata/tgt.txt")
	if err != nil {
		t.Fatal(err)
	}
	return ParseCUnit(string(text))
}

func TestParseCountsWhatTheToolCounts(t *testing.T) {
	run := readGolden(t)
	if run.TestsRan != 230 || run.TestsFailed != 9 {
		t.Errorf("the summary was read as %d tests, %d failures; it says 230 and 9", run.TestsRan, run.TestsFailed)
	}
	if len(run.Tests) != run.TestsRan {
		t.Errorf("%d tests found in the output of %d", len(run.Tests), run.TestsRan)
	}
	if n := run.Count(Failed); n != run.TestsFailed {
		t.Errorf("%d failed tests found, the tool counts %d", n, run.TestsFailed)
	}
	if n := run.Count(Unfinished); n != 0 {
		t.Errorf("%d tests unfinished in a whole run", n)
	}
}

func find(t *testing.T, run CUnitRun, id string) CUnitTest {
	t.Helper()
	i := slices.IndexFunc(run.Tests, func(c CUnitTest) bool { return c.ID() == id })
	if i < 0 {
		t.Fatalf("%s is not among the tests", id)
	}
	return run.Tests[i]
}

func TestParseOutcomes(t *testing.T) {
	run := readGolden(t)
	cases := []struct {
		id      string
		outcome Outcome
		reason  string
	}{
		{"CompareAndWrite.Simple", Skipped, "SKIPPED: COMPAREANDWRITE is not implemented."},
		{"CompareAndWrite.InvalidDataOutSize", Skipped, "SKIPPED: Logical unit is fully provisioned. Skipping test"},
		{"GetLBAStatus.Simple", Passed, ""},
		{"GetLBAStatus.BeyondEol", Failed, "ASSERT: test_get_lba_status_beyond_eol.c:38  - CU_ASSERT_EQUAL(_r,0)"},
		{"StartStopUnit.Simple", Skipped, "SKIPPED: Media is not removable."},
	}
	for _, c := range cases {
		got := find(t, run, c.id)
		if got.Outcome != c.outcome {
			t.Errorf("%s: %v, want %v", c.id, got.Outcome, c.outcome)
		}
		if c.reason != "" && !slices.Contains(got.Reasons, c.reason) {
			t.Errorf("%s: reasons %q lack %q", c.id, got.Reasons, c.reason)
		}
	}
}

func TestParseOfAnInterruptedRun(t *testing.T) {
	run := ParseCUnit("Suite: Read10\n  Test: Simple ...passed\n  Test: BeyondEol ...")
	if got := find(t, run, "Read10.BeyondEol"); got.Outcome != Unfinished {
		t.Errorf("the test it stopped in: %v, want %v", got.Outcome, Unfinished)
	}
	if wrong := Judge(run, nil); len(wrong) < 2 {
		t.Errorf("a run without summary and with an unfinished test was judged %q", wrong)
	}
}

func TestParseOfARunThatCouldNotStart(t *testing.T) {
	run := ParseCUnit("[FAILED] Failed to connect to the target\n")
	wrong := Judge(run, nil)
	if len(wrong) == 0 || !strings.Contains(strings.Join(wrong, "\n"), "Failed to connect") {
		t.Errorf("judged %q, want the tool's own words", wrong)
	}
}

func TestJudge(t *testing.T) {
	run := CUnitRun{TestsRan: 4, TestsFailed: 1, Tests: []CUnitTest{
		{Suite: "A", Name: "Good", Outcome: Passed},
		{Suite: "A", Name: "Skip", Outcome: Skipped, Reasons: []string{"SKIPPED: not a tape"}},
		{Suite: "B", Name: "Good", Outcome: Passed},
		{Suite: "B", Name: "Bad", Outcome: Failed, Reasons: []string{"FAILED: off by one"}},
	}}
	bad := Allowed{ID: "B.Bad", Fails: true, Says: "off by"}
	cases := []struct {
		name    string
		allowed []Allowed
		want    string // "" means nothing wrong
	}{
		{"listed", []Allowed{{ID: "A.Skip", Says: "not a tape"}, bad}, ""},
		{"not listed", []Allowed{bad}, "is not listed"},
		{"other reason", []Allowed{{ID: "A.Skip", Says: "not removable"}, bad}, "for another reason"},
		{"stale", []Allowed{{ID: "A.Skip", Says: "not a tape"}, {ID: "B.Good", Says: "x"}, bad}, "take it off"},
		{"gone", []Allowed{{ID: "A.Skip", Says: "not a tape"}, {ID: "C.Gone", Says: "x"}, bad}, "did not run"},
		{"failure not listed", []Allowed{{ID: "A.Skip", Says: "not a tape"}}, "B.Bad: FAIL"},
		{"fails in another way", []Allowed{{ID: "A.Skip", Says: "not a tape"}, {ID: "B.Bad", Fails: true, Says: "crash"}}, "B.Bad: FAIL"},
		{"skipped, not failed", []Allowed{{ID: "A.Skip", Fails: true, Says: "not a tape"}, bad}, "is not listed"},
	}
	for _, c := range cases {
		wrong := strings.Join(Judge(run, c.allowed), "\n")
		if c.want == "" && wrong != "" || c.want != "" && !strings.Contains(wrong, c.want) {
			t.Errorf("%s: judged %q, want %q", c.name, wrong, c.want)
		}
	}
}

// TestAllowedPage reads the page that the e2e tests judge by.
func TestAllowedPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := ParseAllowed(string(page))
	if err != nil {
		t.Fatal(err)
	}
	if len(allowed) == 0 {
		t.Error("no row was read from the page's table")
	}
	const wrong = "## Tests that are wrong\n| `A.D` | says | why |\n"
	rows := "## Skipped tests\n| `A.B` | says | why |\n| `A.C` with blocks of 4096 | says | why |\n" + wrong
	if two, err := ParseAllowed(rows); err != nil || len(AllowedFor(two, 4096)) != 3 || len(AllowedFor(two, 512)) != 2 {
		t.Errorf("rows for all and for 4096: %+v, %v", two, err)
	}
	if _, err := ParseAllowed("## Skipped tests\n| `A.B` | says |\n" + wrong); err == nil {
		t.Error("a row without a reason was accepted")
	}
	if _, err := ParseAllowed("# Nothing\n"); err == nil {
		t.Error("a page without the table was accepted")
	}
}

// FuzzParseCUnit: output of a program that may crash anywhere never confuses
// the parser into a panic, nor into more tests than lines.
func FuzzParseCUnit(f *testing.F) {
	f.Add("Suite: Read10\n  Test: Simple ...    [SKIPPED] no\npassed\n  Test: B ...FAILED\n    1. a.c:1  - CU_ASSERT\n")
	f.Add("               tests    230    230    221      9        0\n")
	f.Fuzz(func(t *testing.T, text string) {
		run := ParseCUnit(text)
		if len(run.Tests) > strings.Count(text, "Test: ") {
			t.Errorf("%d tests in %q", len(run.Tests), text)
		}
		_ = run.Table()
		_ = Judge(run, nil)
	})
}

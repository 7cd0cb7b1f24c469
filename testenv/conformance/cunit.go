package conformance

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

// Outcome is how one test of iscsi-test-cu ended.
type Outcome int

// The outcomes.
const (
	Passed  Outcome = iota + 1
	Skipped         // said [SKIPPED] in at least one of its parts, and did not fail
	Failed
	Unfinished // the program ended, or was stopped, in the middle of the test
)

// String is the word in the table.
func (o Outcome) String() string {
	switch o {
	case Passed:
		return "pass"
	case Skipped:
		return "skip"
	case Failed:
		return "FAIL"
	case Unfinished:
		return "UNFINISHED"
	default:
		return fmt.Sprintf("Outcome(%d)", int(o))
	}
}

// CUnitTest is one test's result.
type CUnitTest struct {
	Suite, Name string
	Outcome     Outcome
	// Reasons is what the test gave as reasons for skipping or failing, and the
	// assertions that did not hold; without repetitions.
	Reasons []string
}

// ID is SUITE.TEST, as iscsi-test-cu's -t takes it after the family.
func (t CUnitTest) ID() string { return t.Suite + "." + t.Name }

// CUnitRun is all that one run of iscsi-test-cu printed.
type CUnitRun struct {
	Tests []CUnitTest
	// TestsRan and TestsFailed are the tool's own count; -1 when it printed none.
	TestsRan, TestsFailed int
	// Stray is what it said outside of any test, such as why it could not start.
	Stray []string
}

var (
	suiteLine   = regexp.MustCompile(`^Suite: (\S+)`)
	testStart   = regexp.MustCompile(`^ {2}Test: (\S+) \.\.\.(.*)$`)
	assertLine  = regexp.MustCompile(`^\s+\d+\. (\S+:\d+ .*)$`)
	reasonText  = regexp.MustCompile(`\[(SKIPPED|FAILED)\] *(.*)$`)
	summaryLine = regexp.MustCompile(`^\s+tests\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)`)
)

// assertionsKept bounds the failed assertions kept per test; a loop can fail
// thousands of times.
const assertionsKept = 5

// ParseCUnit reads what iscsi-test-cu -v prints, its two output streams
// together. CUnit prints a test as
//
//	Test: NAME ...passed
//
// with whatever the test itself says between the dots and the verdict, or
// after it, since the test's clean-up comes later.
func ParseCUnit(output string) CUnitRun {
	run := CUnitRun{TestsRan: -1, TestsFailed: -1}
	var suite string
	var current *CUnitTest
	assertions := 0
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\r\n")
		if m := suiteLine.FindStringSubmatch(line); m != nil {
			suite, current = m[1], nil
			continue
		}
		if m := testStart.FindStringSubmatch(line); m != nil {
			run.Tests = append(run.Tests, CUnitTest{Suite: suite, Name: m[1], Outcome: Unfinished})
			current, assertions = &run.Tests[len(run.Tests)-1], 0
			line = m[2]
		}
		if m := summaryLine.FindStringSubmatch(line); m != nil {
			_, errRan := fmt.Sscan(m[2], &run.TestsRan)
			_, errFailed := fmt.Sscan(m[4], &run.TestsFailed)
			if errRan != nil || errFailed != nil {
				run.TestsRan, run.TestsFailed = -1, -1
			}
			current = nil
			continue
		}
		if current == nil {
			if reasonText.MatchString(line) || strings.Contains(strings.ToLower(line), "error") {
				run.Stray = append(run.Stray, strings.TrimSpace(line))
			}
			continue
		}
		verdict := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(verdict, "passed"):
			if current.Outcome == Unfinished {
				current.Outcome = Passed
			}
		case strings.HasPrefix(verdict, "FAILED"):
			current.Outcome = Failed
		}
		if m := reasonText.FindStringSubmatch(line); m != nil {
			current.addReason(m[1], m[2])
		} else if m := assertLine.FindStringSubmatch(line); m != nil {
			current.Outcome = Failed
			if assertions++; assertions <= assertionsKept {
				current.addReason("ASSERT", m[1])
			}
		}
	}
	for i := range run.Tests {
		run.Tests[i].settle()
	}
	return run
}

func (t *CUnitTest) addReason(kind, text string) {
	r := kind + ": " + strings.TrimSpace(text)
	if !slices.Contains(t.Reasons, r) {
		t.Reasons = append(t.Reasons, r)
	}
}

// settle makes a passed test that skipped something a skipped one. CUnit calls
// both passed.
func (t *CUnitTest) settle() {
	if t.Outcome == Passed && slices.ContainsFunc(t.Reasons, func(r string) bool { return strings.HasPrefix(r, "SKIPPED: ") }) {
		t.Outcome = Skipped
	}
}

// SkipReason is what a skipped test gave as its first reason.
func (t CUnitTest) SkipReason() string {
	for _, r := range t.Reasons {
		if reason, ok := strings.CutPrefix(r, "SKIPPED: "); ok {
			return reason
		}
	}
	return ""
}

// Count returns how many tests ended that way.
func (r CUnitRun) Count(o Outcome) int {
	n := 0
	for _, t := range r.Tests {
		if t.Outcome == o {
			n++
		}
	}
	return n
}

// Table shows the run: one line per suite where all passed, one line per test
// that did not, and the sums.
func (r CUnitRun) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SUITE\tPASS\tSKIP\tFAIL\t")
	var suites []string
	sums := map[string]map[Outcome]int{}
	for _, t := range r.Tests {
		if sums[t.Suite] == nil {
			sums[t.Suite] = map[Outcome]int{}
			suites = append(suites, t.Suite)
		}
		sums[t.Suite][t.Outcome]++
	}
	for _, s := range suites {
		n := sums[s]
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t\n", s, n[Passed], n[Skipped], n[Failed]+n[Unfinished])
		for _, t := range r.Tests {
			if t.Suite == s && t.Outcome != Passed {
				fmt.Fprintf(w, "  %s\t%v\t\t\t%s\n", t.Name, t.Outcome, strings.Join(t.Reasons, "; "))
			}
		}
	}
	fmt.Fprintf(w, "total %d\t%d\t%d\t%d\t\n", len(r.Tests), r.Count(Passed), r.Count(Skipped), r.Count(Failed)+r.Count(Unfinished))
	_ = w.Flush()
	return b.String()
}

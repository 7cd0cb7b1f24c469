package conformance

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Allowed is a test that may be skipped, or must fail, from the tables in
// docs/CONFORMANCE.md.
type Allowed struct {
	ID     string // SUITE.TEST
	Fails  bool   // the test is wrong: it fails, for the reason that Says tells
	Block  int    // only for volumes with logical blocks of so many bytes; 0 for all
	Says   string // the reason that the tool prints
	Reason string // ours
}

var allowedRow = regexp.MustCompile("^\\| `([A-Za-z0-9_]+\\.[A-Za-z0-9_-]+)`(?: with blocks of ([0-9]+))? \\| (.+?) \\| (.+?) \\|$")

const (
	skippedHeading = "## Skipped tests"
	wrongHeading   = "## Tests that are wrong"
)

// ParseAllowed reads the tables under the headings "Skipped tests" and "Tests
// that are wrong" of the page:
//
//	| `SUITE.TEST` | what the tool says | why that is right |
//	| `SUITE.TEST` with blocks of 4096 | what the tool says | why that is right |
func ParseAllowed(page string) ([]Allowed, error) {
	skipped, err := parseSection(page, skippedHeading, false)
	if err != nil {
		return nil, err
	}
	wrong, err := parseSection(page, wrongHeading, true)
	return append(skipped, wrong...), err
}

func parseSection(page, heading string, fails bool) ([]Allowed, error) {
	_, section, ok := strings.Cut(page, heading+"\n")
	if !ok {
		return nil, fmt.Errorf("conformance: the page has no heading %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var all []Allowed
	seen := map[string]bool{}
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		m := allowedRow.FindStringSubmatch(line)
		switch {
		case m == nil && strings.HasPrefix(line, "| `"):
			return nil, fmt.Errorf("conformance: cannot read the row %q: want | `SUITE.TEST` | what the tool says | reason |", line)
		case m == nil:
			continue
		case seen[m[1]]:
			return nil, fmt.Errorf("conformance: %s is listed twice", m[1])
		}
		seen[m[1]] = true
		a := Allowed{ID: m[1], Fails: fails, Says: m[3], Reason: m[4]}
		if m[2] != "" {
			n, err := strconv.Atoi(m[2])
			if err != nil {
				return nil, fmt.Errorf("conformance: row %q: %w", line, err)
			}
			a.Block = n
		}
		all = append(all, a)
	}
	return all, nil
}

// AllowedFor returns those of all that are for volumes with logical blocks of
// so many bytes.
func AllowedFor(all []Allowed, block int) []Allowed {
	var some []Allowed
	for _, a := range all {
		if a.Block == 0 || a.Block == block {
			some = append(some, a)
		}
	}
	return some
}

// Judge compares a run with what it may skip and must fail, and returns what is wrong with
// it, one sentence each; nothing means that the run is good.
func Judge(run CUnitRun, allowed []Allowed) []string {
	var wrong []string
	if run.TestsRan < 0 {
		wrong = append(wrong, "the tool did not get to its summary: "+strings.Join(run.Stray, "; "))
	} else if run.TestsRan != len(run.Tests) {
		wrong = append(wrong, fmt.Sprintf("the tool counts %d tests, its output shows %d", run.TestsRan, len(run.Tests)))
	}
	if failed := run.Count(Failed); run.TestsFailed >= 0 && run.TestsFailed != failed {
		wrong = append(wrong, fmt.Sprintf("the tool counts %d failures, its output shows %d", run.TestsFailed, failed))
	}
	if len(run.Tests) == 0 {
		wrong = append(wrong, "no test ran")
	}
	listed := map[string]Allowed{}
	for _, a := range allowed {
		listed[a.ID] = a
	}
	for _, t := range run.Tests {
		a, isListed := listed[t.ID()]
		delete(listed, t.ID())
		switch {
		case t.Outcome == Failed && a.Fails && len(t.Reasons) > 0 && strings.HasPrefix(strings.TrimPrefix(t.Reasons[0], "FAILED: "), a.Says):
		case t.Outcome == Failed || t.Outcome == Unfinished:
			wrong = append(wrong, fmt.Sprintf("%s: %v: %s", t.ID(), t.Outcome, strings.Join(t.Reasons, "; ")))
		case t.Outcome == Skipped && (!isListed || a.Fails):
			wrong = append(wrong, fmt.Sprintf("%s was skipped (%s) and is not listed in docs/CONFORMANCE.md", t.ID(), t.SkipReason()))
		case t.Outcome == Skipped && !strings.HasPrefix(t.SkipReason(), a.Says):
			wrong = append(wrong, fmt.Sprintf("%s was skipped for another reason than docs/CONFORMANCE.md says: %q, not %q", t.ID(), t.SkipReason(), a.Says))
		case t.Outcome == Passed && isListed:
			wrong = append(wrong, fmt.Sprintf("%s is listed in docs/CONFORMANCE.md, and passes: take it off the list", t.ID()))
		}
	}
	for id := range listed {
		wrong = append(wrong, fmt.Sprintf("%s is listed in docs/CONFORMANCE.md and did not run", id))
	}
	return wrong
}

package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const (
	linesMin   = 10  // what one failure needs to be understood at all
	aroundMin  = 12  // lines before and after FAILED: where no test is known
	panicLines = 40  // of a panic: its goroutine and, mostly, the running tests
	raceLines  = 50  // of a data race: both stacks
	endLines   = 60  // of a log in which nothing says FAIL
	widest     = 400 // bytes of a line, such as a line of blockd's log
)

var (
	begins    = regexp.MustCompile(`^\s*=== (?:RUN|CONT|NAME|PAUSE)\s+(\S+)$`)
	ends      = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(`)
	packaged  = regexp.MustCompile(`^(ok|FAIL|\?)\s+\S+\t?`)
	panics    = regexp.MustCompile(`^(panic|fatal error): `)
	compiles  = regexp.MustCompile(`^# \S+`)
	telling   = regexp.MustCompile(`FAILED: |--- FAIL: |DATA RACE|^(panic|fatal error): |^FAIL\t`)
	scriptEnd = regexp.MustCompile(`FAILED: `)
)

// A group is the lines of one failure, by their indexes in the log.
type group []int

// digest picks the lines that tell of failures, at most so many.
func digest(log []string, most int) []string {
	groups := failures(log)
	if len(groups) == 0 {
		groups = []group{span(len(log)-endLines, len(log), len(log))}
	}
	var out []string
	for i, g := range groups {
		// What earlier failures did not need is for those that follow.
		left := most - len(out)
		if left <= linesMin && len(g) >= left {
			return append(out, fmt.Sprintf("... and %d failures more", len(groups)-i))
		}
		room := max(left/(len(groups)-i), linesMin)
		out = append(out, excerpt(log, g, room)...)
	}
	return out[:min(len(out), most)]
}

// failures finds the failures of a log, in the order of their first lines. A line
// is in one of them only.
func failures(log []string) []group {
	var found []group
	taken := make([]bool, len(log))
	add := func(g group) {
		g = slices.DeleteFunc(g, func(i int) bool { return taken[i] })
		for _, i := range g {
			taken[i] = true
		}
		if len(g) > 0 {
			found = append(found, g)
		}
	}
	for _, g := range failedTests(log) {
		add(g)
	}
	for i, line := range log {
		switch {
		case panics.MatchString(line):
			add(span(i, i+panicLines, len(log)))
		case line == "WARNING: DATA RACE":
			end := i + 1
			for end < min(len(log), i+raceLines) && log[end] != "==================" {
				end++
			}
			add(span(i, end, len(log)))
		case compiles.MatchString(line):
			end := i + 1
			for end < len(log) && !packaged.MatchString(log[end]) && !compiles.MatchString(log[end]) {
				end++
			}
			add(span(i, end, len(log)))
		case scriptEnd.MatchString(line) && !taken[i]:
			add(span(i-aroundMin, i+aroundMin, len(log)))
		case packaged.MatchString(line) && line[0] == 'F' && !taken[i]:
			add(group{i})
		}
	}
	slices.SortStableFunc(found, func(a, b group) int { return a[0] - b[0] })
	return found
}

// failedTests gives the lines of each failed test. With -v they are before the
// line that says so, otherwise behind it; either way go test says whose they are.
func failedTests(log []string) []group {
	type test struct {
		packages int // that came before in the log
		name     string
	}
	lines := map[test]group{}
	failed := map[test]bool{}
	var order []test
	var now test
	for i, line := range log {
		if m := begins.FindStringSubmatch(line); m != nil {
			now.name = m[1]
			continue
		}
		if m := ends.FindStringSubmatch(line); m != nil {
			now.name = m[2]
			if m[1] == "FAIL" && !failed[now] {
				failed[now] = true
				order = append(order, now)
			}
		}
		if packaged.MatchString(line) {
			now = test{packages: now.packages + 1}
			continue
		}
		if line == "FAIL" || line == "PASS" || panics.MatchString(line) {
			now.name = ""
		}
		if now.name != "" {
			lines[now] = append(lines[now], i)
		}
	}
	// A test and those within it are one failure.
	var found []group
	at := map[test]int{}
	for _, t := range order {
		root := t
		root.name, _, _ = strings.Cut(t.name, "/")
		if _, ok := at[root]; !ok {
			at[root] = len(found)
			found = append(found, nil)
		}
		found[at[root]] = append(found[at[root]], lines[t]...)
	}
	for _, g := range found {
		slices.Sort(g)
	}
	return found
}

// span is the lines from first up to, but without, end, as far as they exist.
func span(first, end, count int) group {
	var g group
	for i := max(first, 0); i < min(end, count); i++ {
		g = append(g, i)
	}
	return g
}

// excerpt is a failure in so many lines: those that tell most, the last ones,
// where the reason mostly is, and the first.
func excerpt(log []string, g group, room int) []string {
	chosen := map[int]bool{}
	if len(g) <= room {
		for _, i := range g {
			chosen[i] = true
		}
	} else {
		room = max(room-4, linesMin/2) // for the lines that say what is left out
		choose := func(g group, limit int) {
			for _, i := range g {
				if len(chosen) < limit {
					chosen[i] = true
				}
			}
		}
		choose(slices.DeleteFunc(slices.Clone(g), func(i int) bool { return !telling.MatchString(log[i]) }), room/3)
		backwards := slices.Clone(g)
		slices.Reverse(backwards)
		choose(backwards, room-room/4)
		choose(g, room)
	}
	var out []string
	skipped := 0
	for _, i := range g {
		if !chosen[i] {
			skipped++
			continue
		}
		if skipped > 0 {
			out = append(out, fmt.Sprintf("    ... %d lines left out ...", skipped))
			skipped = 0
		}
		out = append(out, log[i][:min(len(log[i]), widest)])
	}
	if skipped > 0 {
		out = append(out, fmt.Sprintf("    ... %d lines left out ...", skipped))
	}
	return out
}

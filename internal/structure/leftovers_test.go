package structure

import (
	"bytes"
	"regexp"
	"testing"
)

// leftover is something that must not be found in the sources, unless the
// line, or the one before it, has the excuse.
type leftover struct {
	pattern   *regexp.Regexp
	testsOnly bool
	excuse    string // "" means there is none
	instead   string
}

var leftovers = []leftover{
	{regexp.MustCompile(`//.*\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`), false, "",
		"finish it, or write what is missing into the docs"},
	{regexp.MustCompile(`\b(t|b|f|tb)\.Skip(f|Now)?\(`), true, "earned:",
		"a test that can't run fails; if the kernel is older than the documented minimum, say so after `// earned:`"},
	{regexp.MustCompile(`\btime\.Sleep\(`), true, "sleep:",
		"wait for the event itself, or use testing/synctest; where passing time is what is tested, say so after `// sleep:`"},
}

// TestNothingIsLeftHalfDone looks for notes to self, tests that skip, and
// sleeps that stand in for synchronisation.
func TestNothingIsLeftHalfDone(t *testing.T) {
	for _, f := range readTree(t) {
		lines := bytes.Split(f.text, []byte("\n"))
		for i, line := range lines {
			for _, l := range leftovers {
				if l.testsOnly && !f.isTest() || !l.pattern.Match(line) {
					continue
				}
				excused := l.excuse != "" && (bytes.Contains(line, []byte(l.excuse)) || i > 0 && bytes.Contains(lines[i-1], []byte(l.excuse)))
				if !excused {
					t.Errorf("%s:%d: %s: %s", f.path, i+1, bytes.TrimSpace(line), l.instead)
				}
			}
		}
	}
}

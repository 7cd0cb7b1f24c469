package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Of each log, the lines with a plus must be shown, and no others.
func TestDigestShowsWhatFailed(t *testing.T) {
	for name, log := range map[string]string{
		"verbose": `
. === RUN   TestGood
.     good_test.go:1: fine
. --- PASS: TestGood (0.00s)
. === RUN   TestBad
+     bad_test.go:1: of the test itself
. === RUN   TestBad/one
.     bad_test.go:2: fine
. === RUN   TestBad/two
+     bad_test.go:3: FAILED: it is '1', want '2'
. === NAME  TestBad
+     bad_test.go:4: at its end
+ --- FAIL: TestBad (0.01s)
.     --- PASS: TestBad/one (0.00s)
+     --- FAIL: TestBad/two (0.00s)
. FAIL
+ FAIL	blockd.dev/bad	0.015s
. === RUN   TestBad
.     bad_test.go:1: another package's, which passes
. --- PASS: TestBad (0.01s)
. ok  	blockd.dev/good	0.015s
`,
		"not verbose": `
. ok  	blockd.dev/good	0.015s
+ --- FAIL: TestBad (0.00s)
+     bad_test.go:3: want 2
+     --- FAIL: TestBad/two (0.00s)
+         bad_test.go:4: want 3
. FAIL
+ FAIL	blockd.dev/bad	0.015s
. ?   	blockd.dev/none	[no test files]
`,
		"a race": `
. ok  	blockd.dev/good	0.015s
. ==================
+ WARNING: DATA RACE
+ Write at 0x00c000014108 by goroutine 8:
+   main.f()
. ==================
+ --- FAIL: TestRace (0.00s)
+     testing.go:1617: race detected during execution of test
. FAIL
+ FAIL	blockd.dev/bad	0.015s
`,
		"a panic": `
. ok  	blockd.dev/good	0.015s
+ panic: test timed out after 1s
+ 	running tests:
+ 		TestSlow (1s)
+ 
+ goroutine 7 [running]:
+ FAIL	blockd.dev/bad	1.015s
`,
		"a package that does not build": `
. ok  	blockd.dev/good	0.015s
+ # blockd.dev/bad
+ bad/bad.go:1:2: undefined: x
+ FAIL	blockd.dev/bad [build failed]
`,
		"a script": `
. == lint: one
+ == lint: two
+ a.go:1:1: wrong
+ == lint: two: FAILED: it is wrong
`,
	} {
		t.Run(name, func(t *testing.T) {
			var all, want []string
			for line := range strings.Lines(strings.TrimPrefix(log, "\n")) {
				mark, text := line[0], strings.TrimSuffix(line[2:], "\n")
				all = append(all, text)
				if mark == '+' {
					want = append(want, text)
				}
			}
			if name == "a script" { // what is around it is shown too
				want = all
			}
			if got := digest(all, 100); !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// A log in which nothing says that it failed is shown by its end.
func TestDigestShowsTheEnd(t *testing.T) {
	var log []string
	for i := range 200 {
		log = append(log, fmt.Sprint("line ", i))
	}
	got := digest(log, 100)
	if len(got) != endLines || got[len(got)-1] != "line 199" {
		t.Errorf("%d lines, the last is %q; want %d, and line 199", len(got), got[len(got)-1], endLines)
	}
}

// However long, a digest keeps within its bound and has what tells most, and the
// end, of each failure.
func TestDigestKeepsWithinItsBound(t *testing.T) {
	for _, tests := range []int{1, 2, 5, 50} {
		var log []string
		for n := range tests {
			log = append(log, fmt.Sprintf("=== RUN   TestBad%d", n))
			for i := range 300 {
				log = append(log, fmt.Sprintf("    bad_test.go:1: %d, %s", i, strings.Repeat("x", 1000)))
				if i == 100 {
					log = append(log, fmt.Sprintf("    bad_test.go:1: FAILED: step of %d", n))
				}
			}
			log = append(log, fmt.Sprintf("    bad_test.go:2: the end of %d", n), fmt.Sprintf("--- FAIL: TestBad%d (0.00s)", n))
		}
		got := digest(log, 100)
		text := strings.Join(got, "\n")
		if len(got) > 100 || len(got) < 80 {
			t.Errorf("%d tests: %d lines, want nearly 100", tests, len(got))
		}
		for n := range min(tests, 5) {
			for _, want := range []string{fmt.Sprintf("FAILED: step of %d", n), fmt.Sprintf("the end of %d", n), fmt.Sprintf("--- FAIL: TestBad%d ", n)} {
				if !strings.Contains(text, want) {
					t.Errorf("%d tests: %q is not there", tests, want)
				}
			}
		}
		if tests > 5 && !strings.HasSuffix(text, "failures more") {
			t.Errorf("%d tests: nothing says that there are more: %q", tests, got[len(got)-1])
		}
		for _, line := range got {
			if len(line) > widest {
				t.Fatalf("a line of %d bytes", len(line))
			}
		}
	}
}

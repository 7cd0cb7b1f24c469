// Command failures prints what failed from the log of a phase of scripts/test.sh,
// which is mostly the output of go test: the lines of failed tests, panics, data
// races, errors of the compiler, and what a script in a VM calls FAILED. Of a log
// without any it prints the end. It keeps within a number of lines, since the
// logs of CI are kept by their ends only.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	most := flag.Int("lines", 100, "print at most so many lines")
	flag.Parse()
	if flag.NArg() != 1 || *most < linesMin {
		fmt.Fprintf(os.Stderr, "usage: failures [-lines N] LOG, with N from %d\n", linesMin)
		os.Exit(2)
	}
	text, err := os.ReadFile(flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "failures:", err)
		os.Exit(1)
	}
	for _, line := range digest(strings.Split(strings.TrimRight(string(text), "\n"), "\n"), *most) {
		fmt.Println(line)
	}
}

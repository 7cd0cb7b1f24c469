// Command checkstatic fails unless every file named is a statically linked ELF
// program: no interpreter, no dynamic section. make build runs it, so that a
// stray cgo import can't tie the binaries to one machine's libraries.
package main

import (
	"debug/elf"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: checkstatic FILE...")
		os.Exit(2)
	}
	for _, name := range os.Args[1:] {
		if err := check(name); err != nil {
			fmt.Fprintf(os.Stderr, "checkstatic: %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}

func check(name string) error {
	f, err := elf.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			return fmt.Errorf("is linked dynamically (%v); build with CGO_ENABLED=0 and without -buildmode=pie", p.Type)
		}
	}
	return nil
}

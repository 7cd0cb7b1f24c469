package cli

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var writeDocs = flag.Bool("write-docs", false, "write docs/BLOCKCTL.md")

const docsFile = "../../../docs/BLOCKCTL.md"

// TestDocs checks that docs/BLOCKCTL.md says what the command tree says;
// `go test ./tools/blockctl/cli -run TestDocs -write-docs` writes it.
func TestDocs(t *testing.T) {
	alone(t)
	want := manual(New())
	if *writeDocs {
		if err := os.WriteFile(docsFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/BLOCKCTL.md is not what the commands say; write it with: go test ./tools/blockctl/cli -run TestDocs -write-docs")
	}
}

// manual is the text of docs/BLOCKCTL.md.
func manual(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("# blockctl\n\nMade from the commands themselves; see docs_test.go in tools/blockctl/cli. How they are used is in\n[OPERATIONS.md](OPERATIONS.md).\n\n")
	fmt.Fprintf(&b, "%s\n\n", indented(root.Long))
	fmt.Fprintf(&b, "Flags of every command:\n\n%s\n", indented(flagLines(root.PersistentFlags())))
	verbs(root, func(c *cobra.Command) {
		if c.Name() == "help" || c.Parent() == root && c.Name() == "completion" {
			return
		}
		if c.Runnable() {
			writeCommand(&b, c)
		}
	})
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func writeCommand(b *strings.Builder, c *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n%s.\n", c.CommandPath(), c.Short)
	usage := c.CommandPath() + strings.TrimPrefix(c.Use, c.Name())
	fmt.Fprintf(b, "\n    %s\n", usage)
	if c.Long != "" {
		fmt.Fprintf(b, "\n%s\n", c.Long)
	}
	if f := flagLines(c.LocalNonPersistentFlags()); f != "" {
		fmt.Fprintf(b, "\n%s\n", indented(f))
	}
	if c.Example != "" {
		fmt.Fprintf(b, "\nFor example:\n\n%s\n", indented(strings.ReplaceAll(c.Example, "\n  ", "\n")[2:]))
	}
}

func flagLines(f *pflag.FlagSet) string { return strings.TrimRight(f.FlagUsages(), "\n") }

// indented makes code of s, in the sense of Markdown.
func indented(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = "    " + l
		}
	}
	return strings.Join(lines, "\n")
}

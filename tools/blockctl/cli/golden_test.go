package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/spf13/cobra"
)

// ctl runs blockctl with stdin, and returns what it printed and how it ended.
func ctl(stdin string, args ...string) (out, errOut string, err error) {
	var o, e bytes.Buffer
	c := New()
	c.SetArgs(args)
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&o)
	c.SetErr(&e)
	err = c.Execute()
	return o.String(), e.String(), err
}

// alone makes the test independent of the user's own settings, and returns the
// folder where certificates are looked for.
func alone(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	for _, v := range []string{"BLOCKD_API", "BLOCKCTL_CERT", "COLUMNS"} {
		t.Setenv(v, "")
	}
	t.Setenv("XDG_CONFIG_HOME", home)
	return filepath.Join(home, "blockd")
}

// TestGolden runs what is in testdata against the fake API: for each verb, all
// formats at a width of 80, and as it is when no terminal reads it. -rewrite updates.
func TestGolden(t *testing.T) {
	alone(t)
	f := &fake{}
	address := f.start(t, listen(t))
	datadriven.Walk(t, "testdata/golden", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			width := ""
			d.MaybeScanArgs(t, "width", &width)
			t.Setenv("COLUMNS", width)
			var b strings.Builder
			for line := range strings.Lines(d.Input) {
				args := strings.Fields(line)
				fmt.Fprintf(&b, "$ blockctl %s\n", strings.Join(args, " "))
				out, errOut, err := ctl("", append(args, "--api", address)...)
				b.WriteString(out)
				if errOut != "" {
					b.WriteString("stderr: " + errOut)
				}
				if err != nil {
					fmt.Fprintf(&b, "exit %d: %s\n", ExitCode(err), Explain(err))
				}
			}
			return strings.ReplaceAll(b.String(), address, "ADDRESS")
		})
	})
}

// verbs calls each for every command that does something.
func verbs(c *cobra.Command, each func(*cobra.Command)) {
	if _, holds := c.Annotations[isGroup]; !holds {
		each(c)
	}
	for _, sub := range c.Commands() {
		verbs(sub, each)
	}
}

// notGolden are the verbs whose output depends on the machine or the moment;
// each has a test of its own.
var notGolden = []string{"cluster init", "cluster backup", "cert issue", "cert show", "cert refresh", "top", "doctor network", "store check"}

// TestEveryVerbIsGolden fails when a verb is in no file of testdata.
func TestEveryVerbIsGolden(t *testing.T) {
	var all strings.Builder
	files, err := filepath.Glob("testdata/golden/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	verbs(New(), func(c *cobra.Command) {
		name := strings.TrimPrefix(c.CommandPath(), "blockctl ")
		for _, n := range notGolden {
			if n == name {
				return
			}
		}
		for _, format := range []string{"", "json", "yaml"} {
			if !strings.Contains(all.String(), "$ blockctl "+name) || format != "" && !ranWith(all.String(), name, format) {
				t.Errorf("%q is not in testdata/golden with -o %s", name, format)
			}
		}
	})
}

func ranWith(text, name, format string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "$ blockctl "+name) && strings.Contains(line, "-o "+format) {
			return true
		}
	}
	return false
}

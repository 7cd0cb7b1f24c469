package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

// rows are the lines of a table, or names with their values.
type rows [][]string

// column is one of a table. Where it is too long, text is wrapped, and names
// lose their middle, so that what sets them apart is seen.
type column[V any] struct {
	head string
	cell func(V) string
	kind columnKind
}

type columnKind uint8

const (
	plain columnKind = iota
	text             // sentences
	fixed            // numbers and times, of which every digit counts
	wide             // only with -o wide
)

// printList prints a list, as a table with these columns.
func printList[V any](a *app, cmd *cobra.Command, list []V, columns []column[V]) error {
	if list == nil {
		list = []V{} // an empty list is [], not null
	}
	return printTable(a, cmd, list, list, columns)
}

// printTable prints v as JSON or YAML, or list as a table.
func printTable[V any](a *app, cmd *cobra.Command, v any, list []V, columns []column[V]) error {
	if a.format == "json" || a.format == "yaml" {
		return a.print(cmd, v, nil)
	}
	t, kinds := tableOf(list, columns, a.format == "wide")
	return writeRows(cmd.OutOrStdout(), fit(t, kinds, a.width(cmd)))
}

// tableOf makes the lines of a table, the head first, and tells what its columns are.
func tableOf[V any](list []V, columns []column[V], all bool) (t rows, kinds []columnKind) {
	t = make(rows, 1+len(list))
	for _, c := range columns {
		if c.kind == wide && !all {
			continue
		}
		kinds = append(kinds, c.kind)
		t[0] = append(t[0], c.head)
		for i, v := range list {
			t[i+1] = append(t[i+1], c.cell(v))
		}
	}
	return t, kinds
}

// print writes v as JSON or YAML, or else t, whose lines are as long as they are.
func (a *app) print(cmd *cobra.Command, v any, t rows) error {
	w := cmd.OutOrStdout()
	switch a.format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		return printYAML(w, v)
	}
	return writeRows(w, fit(t, nil, 0))
}

// printYAML goes through JSON, so that both have the same names in the same
// order.
func printYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(b, &node); err != nil {
		return err
	}
	blockStyle(&node)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return err
	}
	return enc.Close()
}

func blockStyle(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// width is that of the terminal in characters, 0 where there is none and lines
// may be of any length. COLUMNS says otherwise.
func (a *app) width(cmd *cobra.Command) int {
	if a.format == "wide" {
		return 0
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	w, _ := terminalSize(cmd.OutOrStdout())
	return w
}

// terminalSize returns columns and lines, 0 where there is no terminal.
func terminalSize(stream any) (width, height int) {
	f, ok := stream.(*os.File)
	if !ok {
		return 0, 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return int(size.Col), int(size.Row)
}

const (
	gap       = 2  // between columns
	cellLeast = 8  // a name is not cut shorter
	textLeast = 16 // a text is not made narrower
)

// fit cuts and wraps cells so that lines have at most width characters, where
// that can be done and still be read; 0 leaves them. An empty cell becomes "-".
func fit(t rows, kinds []columnKind, width int) rows {
	widths := widthsOf(t)
	isText := func(i int) bool { return i < len(kinds) && kinds[i] == text }
	least := func(i int) int {
		head := utf8.RuneCountInString(t[0][i])
		switch {
		case isText(i):
			return max(head, textLeast)
		case i < len(kinds) && kinds[i] == fixed:
			return widths[i]
		}
		return max(head, cellLeast)
	}
	for over := total(widths) - width; width > 0 && over > 0; over-- {
		// Text gives way first, being wrapped and not lost; then the widest.
		best := -1
		for i, w := range widths {
			if w > least(i) && (best < 0 || isText(i) && !isText(best) || isText(i) == isText(best) && w > widths[best]) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		widths[best]--
	}
	var out rows
	for _, line := range t {
		out = append(out, cutLine(line, widths, isText)...)
	}
	return out
}

func widthsOf(t rows) []int {
	var widths []int
	for _, line := range t {
		for i, c := range line {
			if i == len(widths) {
				widths = append(widths, 1)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	return widths
}

func total(widths []int) int {
	n := gap * (len(widths) - 1)
	for _, w := range widths {
		n += w
	}
	return n
}

// cutLine makes the lines that a line of a table becomes.
func cutLine(line []string, widths []int, isText func(int) bool) rows {
	var out rows
	for i, c := range line {
		cells := []string{c}
		switch {
		case c == "":
			cells[0] = "-"
		case isText(i):
			cells = wrap(c, widths[i])
		default:
			cells[0] = cut(c, widths[i])
		}
		for n, cell := range cells {
			if n == len(out) {
				out = append(out, make([]string, len(line)))
			}
			out[n][i] = cell
		}
	}
	return out
}

// cut takes the middle out of s.
func cut(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	head := (width - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
}

// wrap breaks s between words; a word that is too long has a line of its own.
func wrap(s string, width int) []string {
	var out []string
	for _, word := range strings.Fields(s) {
		last := len(out) - 1
		if last >= 0 && utf8.RuneCountInString(out[last])+1+utf8.RuneCountInString(word) <= width {
			out[last] += " " + word
		} else {
			out = append(out, word)
		}
	}
	return out
}

// writeRows writes aligned columns. What could confuse a terminal becomes a space.
func writeRows(w io.Writer, t rows) error {
	widths := widthsOf(t)
	for _, line := range t {
		var b strings.Builder
		for i, c := range line {
			c = printable(c)
			b.WriteString(c)
			if i < len(line)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+gap))
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// printable makes a space of what could confuse a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// shortTime is a time of the API to the second, as tables have it.
func shortTime(s string) string {
	if t := parseTime(s); !t.IsZero() {
		return t.UTC().Format(time.RFC3339)
	}
	return s
}

// views turns what the API says into what is printed.
func views[M, V any](list []M, view func(M) V) []V {
	out := make([]V, 0, len(list))
	for _, m := range list {
		out = append(out, view(m))
	}
	return out
}

//go:build e2e

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestRun boots guests that end well and badly.
func TestRun(t *testing.T) {
	cases := []struct {
		name   string
		config Config
		exit   int
		why    string // in the error; "" for none
	}{
		{"a script that succeeds", Config{Script: `[ "$A" = "it's" ] && [ "$TARGET_HOST" = 10.0.2.2 ] && host add 20 22`, Env: map[string]string{"A": "it's"}}, 0, ""},
		{"a script that fails", Config{Script: "host refuse || exit 9"}, 9, "status 9"},
		{"a guest that panics", Config{Script: "echo c >/proc/sysrq-trigger"}, -1, "panic"},
		{"a script that hangs", Config{Script: "sleep 1000", Timeout: 25 * time.Second}, -1, "not done after"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.config.OnCall = func(_ context.Context, words []string) (string, error) {
				if len(words) == 3 && words[0] == "add" {
					return "42", nil
				}
				return "", fmt.Errorf("no %q", words)
			}
			var lines []string
			c.config.OnLine = func(l string) { lines = append(lines, l) }
			result, err := Run(t.Context(), c.config)
			if result.ExitCode != c.exit {
				t.Errorf("exit code %d, want %d", result.ExitCode, c.exit)
			}
			switch {
			case c.why == "" && err != nil:
				t.Errorf("error: %v", err)
			case c.why != "" && (!errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), c.why)):
				t.Errorf("error: %v; want one that says %q", err, c.why)
			}
			if c.exit == 0 && strings.Join(lines, "\n") != "42" {
				t.Errorf("the script printed %q, want 42", lines)
			}
			if err != nil && result.ConsolePath != "" {
				if console, readErr := os.ReadFile(result.ConsolePath); readErr != nil || len(console) == 0 {
					t.Errorf("the console was not kept: %v", readErr)
				}
				_ = os.Remove(result.ConsolePath)
			}
		})
	}
}

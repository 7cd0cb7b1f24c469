package invariants

import (
	"strings"
	"testing"
)

// panicked runs f and returns what it panicked with, or "".
func panicked(f func()) (msg string) {
	defer func() {
		if r := recover(); r != nil {
			msg = r.(string)
		}
	}()
	f()
	return ""
}

// Violations panic with their text where assertions run, and do nothing where
// they don't.
func TestViolationsPanicOnlyWhenEnabled(t *testing.T) {
	for name, f := range map[string]func(){
		"extent 7 freed twice": func() { Assert(false, "extent %d freed twice", 7) },
		"no owner":             func() { Fail("no owner") },
		"3 - 4 is below zero":  func() { Sub(uint32(3), 4) },
	} {
		msg := panicked(f)
		if !Enabled && msg != "" {
			t.Errorf("disabled, yet panicked: %s", msg)
		}
		if Enabled && msg != "invariant violated: "+name {
			t.Errorf("panicked with %q, want %q", msg, name)
		}
	}
}

func TestWhatHoldsPasses(t *testing.T) {
	msg := panicked(func() {
		Assert(true, "fine")
		if Sub(5, 3) != 2 {
			t.Error("5-3 != 2")
		}
	})
	if strings.Contains(msg, "invariant") {
		t.Error(msg)
	}
}

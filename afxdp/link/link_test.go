package link

import "testing"

func TestEveryKindHasAName(t *testing.T) {
	seen := map[string]bool{"invalid": true}
	for k := XDPZeroCopy; k <= Sim; k++ {
		if seen[k.String()] {
			t.Errorf("kind %d is called %q, as another is", k, k)
		}
		seen[k.String()] = true
	}
	if got := (Sim + 1).String(); got != "invalid" {
		t.Errorf("a kind beyond the last is called %q", got)
	}
}

package clock

import (
	"testing"
	"time"
)

func TestReadingsGoForward(t *testing.T) {
	for _, c := range []Clock{Fast{}, Boot{}} {
		last := c.Now()
		if last <= 0 {
			t.Errorf("%T starts at %d, want after zero", c, last)
		}
		for range 1000 {
			now := c.Now()
			if now < last {
				t.Fatalf("%T went back from %d to %d", c, last, now)
			}
			last = now
		}
	}
}

func TestNeverStaysLast(t *testing.T) {
	if got := Never.Add(time.Hour); got != Never {
		t.Errorf("Never + 1h = %d", got)
	}
	m := Mono(5)
	if got := m.Add(3).Sub(m); got != 3 {
		t.Errorf("5+3-5 = %d", got)
	}
}

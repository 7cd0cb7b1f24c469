package clusterbench

import (
	"strings"
	"testing"
	"time"

	"blockd.dev/testenv/cluster/trial"
)

// A goal is judged by what it is of: the 99th percentile of kills, the longest of moves, each node at rest.
func TestPrintChangesAndRest(t *testing.T) {
	ms := func(of ...int) (p trial.Pauses) {
		for _, n := range of {
			p = append(p, time.Duration(n)*time.Millisecond)
		}
		return p
	}
	for _, c := range []struct {
		killed, moved trial.Pauses
		idle          Idle
		want          []string
	}{
		{ms(900, 1100, 1400), ms(20, 30, 150), Idle{Leader: 0.5, Others: []float64{0.2, 1}},
			[]string{"p99 at most 1.5s: met", "longest at most 200ms: met", "leader: 0.50 % of a core (at most 1: met)", "others: 0.20 % of a core (at most 1: met), 1.00 % of a core (at most 1: met)"}},
		{ms(900, 1100, 1600), ms(20, 30, 250), Idle{Leader: 1.5, Others: []float64{0.2, 1.1}},
			[]string{"p99 at most 1.5s: short", "longest at most 200ms: short", "leader: 1.50 % of a core (at most 1: short)", "1.10 % of a core (at most 1: short)"}},
	} {
		var b strings.Builder
		if err := Print(&b, &Report{Failover: &Failover{Killed: c.killed, Moved: c.moved}, Idle: &c.idle}); err != nil {
			t.Fatal(err)
		}
		for _, w := range c.want {
			if !strings.Contains(b.String(), w) {
				t.Errorf("%q is not in\n%s", w, b.String())
			}
		}
	}
}

package clusterbench

import (
	"testing"
	"time"
)

// TestHostsStayForAWhile: a rebuild that gives way to hosts may take long, and they are measured for lostWindow of it; one without
// hosts is measured to its end.
func TestHostsStayForAWhile(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		hosts Hosts
		begun time.Duration // ago
		want  bool
	}{{OwnHosts, 0, false}, {OwnHosts, lostWindow, true}, {OtherHosts, lostWindow, true}, {NoHosts, lostWindow, false}} {
		p := &copying{progress: progress{first: now.Add(-c.begun), last: now.Add(time.Hour)}}
		if up, err := p.within(t.Context(), c.hosts)(nil); up != c.want || err != nil {
			t.Errorf("hosts: %s: %v after the first byte, with others just copied: over: %v, %v; want %v", c.hosts, c.begun, up, err, c.want)
		}
	}
}

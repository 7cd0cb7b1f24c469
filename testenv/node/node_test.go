package node

import (
	"net"
	"strconv"
	"testing"
)

// TestFreePortsStayFree: no port is twice in the list, and none can be given to
// a connection or to another blockd while its own is down.
func TestFreePortsStayFree(t *testing.T) {
	low, err := lowestEphemeral()
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := freePorts(50)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, a := range addrs {
		_, port, err := net.SplitHostPort(a)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := strconv.Atoi(port); err != nil || p >= low || seen[port] {
			t.Errorf("port %s (%v): twice, or not below %d", port, err, low)
		}
		seen[port] = true
		if given.first(a) {
			t.Errorf("%s could be given out again", a)
		}
		l, err := net.Listen("tcp4", a)
		if err != nil {
			t.Errorf("not free: %v", err)
			continue
		}
		_ = l.Close()
	}
	if len(seen) != 50 {
		t.Errorf("%d ports, want 50", len(seen))
	}
}
